"""No secret is kept where it could be read, and a change reaches every daemon."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest
import trio
from sqlalchemy import select, update

from anvild.core.clock import utcnow
from anvild.core.errors import Unauthenticated
from anvild.core.events import EventLog
from anvild.core.identity import Bootstrapped, Credentials, Identity, Origin, Passwords, Principal, StoredAnswer
from anvild.core.identity.sweep import sweep
from anvild.core.identity.tables import device_tokens, sessions, tokens
from anvild.core.store import Store, metadata, open_store

Who = Callable[..., Awaitable[Principal]]
EMAIL, PASSWORD = "ada@lab.example", "correct horse"


async def test_no_secret_is_in_any_row_or_event(
    identity: Identity, lab: Bootstrapped, admin: Principal, store: Store, passwords: Passwords, tmp_path: Path
) -> None:
    origin = Origin("10.0.0.1", "browser")
    key = await identity.api_keys.create(by=admin, team_id=lab.team_id, name="k")
    session = await identity.sessions.login(EMAIL, PASSWORD, origin=origin)
    login = await identity.login_tokens.login(EMAIL, PASSWORD, origin=origin)
    device = await identity.device_tokens.issue(admin, udid="S1", platform="thing", origin=origin)
    rotated = await identity.device_tokens.rotate(device.token)
    invited = await identity.host_tokens.invite(lab.user_id, name="h", team_id=None, by=admin)
    grant = await identity.host_tokens.register(invited.secret)
    renewed = await identity.host_tokens.refresh(grant.refresh)
    personal = await identity.personal_tokens.create(lab.user_id, name="p", abilities=["*"], by=admin)
    mail = await identity.accounts.forgot_password(EMAIL)
    assert mail is not None
    await identity.users.set_password(lab.user_id, "another horse", by=admin)
    with pytest.raises(Unauthenticated):
        await identity.sessions.login("typed-secret", "typed-password", origin=Origin("10.0.0.2"))

    async def handler() -> StoredAnswer:
        return StoredAnswer(201, (), key.plaintext.encode())

    await identity.idempotency.once(admin, "POST /keys", "k", "body", handler)
    secrets = {
        *(lab.api_key, lab.live_key, key.plaintext, session.secret, session.csrf, login.token, device.token),
        *(rotated.token, invited.secret, grant.token, grant.refresh, renewed.token, renewed.refresh),
        *(personal.plaintext, personal.plaintext.partition("|")[2], mail.token),
        *(PASSWORD, "another horse", "typed-secret", "typed-password"),
        (tmp_path / "secret.key").read_text().strip(),
        *(key.signing.hex() for key in identity.signing_keys._keys.values() if isinstance(key.signing, bytes)),
    }
    rows = 0
    for table in metadata.sorted_tables:
        for row in await store.read(lambda connection, table=table: connection.execute(select(table)).all()):
            rows += 1
            text = repr(row)
            assert not [secret for secret in secrets if secret in text], table.name
    assert rows > 20


async def test_every_change_is_told_by_an_audit_event(identity: Identity, lab: Bootstrapped, admin: Principal) -> None:
    origin = Origin("10.0.0.1", "browser")
    bob = await identity.users.create(by=admin, name="Bob", email="bob@lab.example", origin=origin)
    await identity.teams.add_member(lab.team_id, bob.id, by=admin, origin=origin)
    await identity.teams.set_role(lab.team_id, bob.id, "admin", by=admin, origin=origin)
    await identity.teams.remove_member(lab.team_id, bob.id, by=admin, origin=origin)
    await identity.users.set_admin(bob.id, True, by=admin, origin=origin)
    await identity.users.set_admin(bob.id, True, by=admin, origin=origin)
    await identity.users.set_status(bob.id, "disabled", by=admin, origin=origin)
    page = await identity.audit.list(lab.team_id, include_lab=True, limit=100)
    told = [event for event in reversed(page.events) if event.actor != "system"]
    assert [event.kind for event in told] == [
        "user.created",
        "member.added",
        "member.role_changed",
        "member.removed",
        "user.admin_granted",
        "user.disabled",
    ]
    assert {(event.actor, event.subject_id, event.ip, event.user_agent) for event in told} == {
        (admin.actor, bob.id, "10.0.0.1", "browser")
    }
    by_system = [event.kind for event in reversed(page.events) if event.actor == "system"]
    assert by_system.count("key.created") == 2
    assert {"user.created", "team.created", "member.added", "signing_key.created"} <= set(by_system)


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
async def test_a_revocation_by_another_daemon_is_heard(
    store: Store, lab: Bootstrapped, identity: Identity, who: Who, tmp_path: Path, passwords: Passwords
) -> None:
    """The other daemon has a connection, a log and a memory of its own; only the event tells this one."""
    principal = await who(api_key=lab.api_key)
    key = await identity.api_keys.get(principal.id)
    async with open_store(store.url) as elsewhere, trio.open_nursery() as nursery:
        log = EventLog(elsewhere)
        await nursery.start(log.run)
        other = await Identity.open(elsewhere, log, data_dir=tmp_path, passwords=passwords)
        await other.api_keys.revoke(key.id, team_id=lab.team_id, by=principal)
        nursery.cancel_scope.cancel()
    with trio.fail_after(60):
        while len(identity._cache):  # noqa: ASYNC110 - the notification arrives on its own
            await trio.sleep(0.005)
    with pytest.raises(Unauthenticated):
        await identity.authenticate(Credentials(api_key=lab.api_key))


async def test_what_ended_long_ago_is_swept(
    identity: Identity, lab: Bootstrapped, admin: Principal, store: Store
) -> None:
    await identity.sessions.login(EMAIL, PASSWORD)
    await identity.device_tokens.issue(admin, udid="S1", platform="thing")
    await identity.personal_tokens.create(lab.user_id, name="kept", abilities=["*"], by=admin)
    await identity.accounts.forgot_password(EMAIL)
    tables = (sessions, device_tokens, tokens)

    async def counts() -> list[int]:
        return [
            len(await store.read(lambda connection, table=table: connection.execute(select(table)).all()))
            for table in tables
        ]

    await sweep(store)
    assert await counts() == [1, 1, 2]
    for table in tables:
        old = update(table).where(table.c.expires_at.is_not(None)).values(expires_at=utcnow() - timedelta(days=31))
        await store.write(lambda connection, old=old: connection.execute(old))
    await sweep(store)
    assert await counts() == [0, 0, 1]


async def test_a_change_that_fails_leaves_no_event(
    identity: Identity, lab: Bootstrapped, admin: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row and its event are one transaction."""
    before = (await identity.audit.list(None, limit=200)).events

    def fail(*args: object, **values: object) -> None:
        raise RuntimeError("after the team, before its owner")

    monkeypatch.setattr("anvild.core.identity.teams.insert_membership", fail)
    with pytest.raises(RuntimeError):
        await identity.teams.create("Half", owner_id=lab.user_id, by=admin)
    assert (await identity.audit.list(None, limit=200)).events == before
    assert [team.name for team in await identity.teams.list()] == ["Lab"]
