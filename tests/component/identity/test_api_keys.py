"""API keys from their making to their revocation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path

import pytest
import trio
import trio.testing
from sqlalchemy import select
from trio.testing import MockClock

from anvild.core.errors import Forbidden, InvalidRequest, Unauthenticated
from anvild.core.events import EventFilter, EventLog
from anvild.core.identity import Bootstrapped, Credentials, Identity, Origin, Passwords, Principal, may
from anvild.core.identity.last_use import LastUse
from anvild.core.identity.secret_texts import digest
from anvild.core.identity.tables import api_keys
from anvild.core.store import Store
from anvild.sdk import NotFound

Who = Callable[..., Awaitable[Principal]]


async def test_a_new_key_is_shown_once_and_works_at_once(
    identity: Identity, lab: Bootstrapped, admin: Principal, who: Who
) -> None:
    made = await identity.api_keys.create(by=admin, team_id=lab.team_id, name=" ci ", scopes=["runs:*"])
    assert made.plaintext.startswith(made.key.prefix)
    assert made.plaintext.endswith(made.key.last4)
    assert made.key.name == "ci"
    principal = await who(authorization=f"bearer  {made.plaintext}")
    assert (principal.kind, principal.id, principal.team_id) == ("api_key", made.key.id, lab.team_id)
    assert may(principal, "runs:write")
    assert not may(principal, "devices:read")
    listed = await identity.api_keys.list(lab.team_id)
    assert [key.name for key in listed] == ["ci", "bootstrap", "bootstrap"]
    assert await identity.api_keys.get(made.key.id) == made.key


async def test_a_key_cannot_pass_on_what_it_does_not_have(
    identity: Identity, lab: Bootstrapped, admin: Principal, who: Who
) -> None:
    narrow = await identity.api_keys.create(by=admin, team_id=lab.team_id, name="n", scopes=["keys:write", "runs:*"])
    asking = await who(api_key=narrow.plaintext)
    inherited = await identity.api_keys.create(by=asking, team_id=lab.team_id, name="i")
    assert set(inherited.key.scopes) == {"keys:write", "runs:*"}
    narrower = await identity.api_keys.create(by=asking, team_id=lab.team_id, name="r", scopes=["runs:read"])
    assert narrower.key.scopes == ("runs:read",)
    for wider in ("*", "devices:read", "keys:*"):
        with pytest.raises(Forbidden, match="cannot pass on"):
            await identity.api_keys.create(by=asking, team_id=lab.team_id, name="w", scopes=[wider])


async def test_a_wrong_request_makes_no_key(identity: Identity, lab: Bootstrapped, admin: Principal) -> None:
    for name, scopes in (("", ["*"]), ("x" * 121, ["*"]), ("x", ["runs:fly"]), ("x", [""])):
        with pytest.raises(InvalidRequest):
            await identity.api_keys.create(by=admin, team_id=lab.team_id, name=name, scopes=scopes)
    assert len(await identity.api_keys.list(lab.team_id)) == 2


async def test_a_revoked_key_is_refused_at_once(
    identity: Identity, lab: Bootstrapped, admin: Principal, who: Who, events: EventLog
) -> None:
    await identity.api_keys.revoke(admin.id, team_id=lab.team_id, by=admin, origin=Origin("10.0.0.1", "curl"))
    with pytest.raises(Unauthenticated):
        await who(api_key=lab.api_key)
    await identity.api_keys.revoke(admin.id, team_id=lab.team_id, by=admin)
    revoked = await events.read(where=EventFilter(kinds=("key.revoked",)))
    assert [(event.subject_id, event.actor, event.ip, event.user_agent) for event in revoked] == [
        (admin.id, f"api_key:{admin.id}", "10.0.0.1", "curl")
    ]
    assert len(await identity.api_keys.list(lab.team_id)) == 1
    assert len(await identity.api_keys.list(lab.team_id, revoked=True)) == 2


async def test_a_foreign_key_looks_missing(identity: Identity, lab: Bootstrapped, admin: Principal, who: Who) -> None:
    other = await identity.teams.create("Other", owner_id=lab.user_id, by=admin)
    with pytest.raises(NotFound):
        await identity.api_keys.revoke(admin.id, team_id=other.id, by=admin)
    with pytest.raises(NotFound):
        await identity.api_keys.revoke("no-uuid", team_id=lab.team_id, by=admin)
    assert await who(api_key=lab.api_key) == admin


async def test_a_key_has_what_its_maker_has_now(
    identity: Identity, lab: Bootstrapped, admin: Principal, who: Who
) -> None:
    user = await identity.users.create(by=admin, name="Bob", email="bob@lab.example", lab_role="operator")
    await identity.teams.add_member(lab.team_id, user.id, "admin", by=admin)
    session = await identity.sessions.create(user.id, team_id=lab.team_id)
    bob = await who(session=session.secret)
    key = (await identity.api_keys.create(by=bob, team_id=lab.team_id, name="bob's")).plaintext

    principal = await who(api_key=key)
    assert (principal.role, principal.lab_role, principal.is_admin) == ("admin", "operator", False)
    await identity.teams.set_role(lab.team_id, user.id, "member", by=admin)
    assert (await who(api_key=key)).role == "member"
    await identity.users.set_lab_role(user.id, "viewer", by=admin)
    assert (await who(api_key=key)).lab_role == "viewer"
    await identity.teams.remove_member(lab.team_id, user.id, by=admin)
    with pytest.raises(Unauthenticated):
        await who(api_key=key)


async def test_a_busy_client_costs_no_access_to_the_store(
    store: Store, events: EventLog, lab: Bootstrapped, passwords: Passwords, tmp_path: Path
) -> None:
    identity = await Identity.open(store, events, data_dir=tmp_path, passwords=passwords)
    for fields in ({"api_key": lab.api_key}, {"authorization": f"Bearer {lab.live_key}"}):
        await identity.authenticate(Credentials(**fields))
        before = store.statistics()
        for _ in range(50):
            await identity.authenticate(Credentials(**fields))
        after = store.statistics()
        assert (before.reads, before.writes) == (after.reads, after.writes)


async def test_last_uses_are_written_at_most_once_a_minute(
    store: Store, lab: Bootstrapped, nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    last_use = LastUse(store)
    nursery.start_soon(last_use.run)

    async def written() -> datetime | None:
        await trio.testing.wait_all_tasks_blocked()
        statement = select(api_keys.c.last_used_at).where(api_keys.c.digest == digest(lab.api_key))
        return await store.write(lambda connection: connection.execute(statement).scalar_one())

    key_id = await store.read(
        lambda connection: connection.execute(
            select(api_keys.c.id).where(api_keys.c.digest == digest(lab.api_key))
        ).scalar_one()
    )
    assert await written() is None
    last_use.touch("api_key", key_id)
    first = await written()
    assert first is not None
    for _ in range(3):
        last_use.touch("api_key", key_id)
    noted = last_use.seen("api_key", key_id)
    assert await written() == first
    mock_clock.jump(59)
    assert await written() == first
    mock_clock.jump(1)
    assert await written() == noted
    last_use.touch("api_key", key_id)
    noted = last_use.seen("api_key", key_id)
    nursery.cancel_scope.cancel()
    with trio.CancelScope(shield=True):
        assert await written() == noted


async def test_only_hashes_are_kept(identity: Identity, lab: Bootstrapped, store: Store, who: Who) -> None:
    await who(api_key=lab.api_key)
    rows = await store.read(lambda connection: connection.execute(select(api_keys)).all())
    assert lab.api_key not in repr(rows)
    assert lab.live_key not in repr(rows)
    assert lab.api_key not in repr(vars(identity._cache))


async def test_an_unknown_key_is_refused(identity: Identity, lab: Bootstrapped) -> None:
    for text in ("wrn_" + "0" * 32, "anvil_live_" + "0" * 32, "wrn_short", "", "x" * 10_000):
        for credentials in (Credentials(api_key=text), Credentials(authorization=f"Bearer {text}")):
            with pytest.raises(Unauthenticated):
                await identity.authenticate(credentials)
