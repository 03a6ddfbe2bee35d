"""The one authenticator: which credential decides, and that a bad one never falls through."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import jwt
import pytest
from sqlalchemy import update

from anvild.core.clock import utcnow
from anvild.core.errors import Forbidden, RateLimited, Unauthenticated
from anvild.core.events import EventFilter, EventLog
from anvild.core.identity import Bootstrapped, Credentials, Identity, Origin, Principal
from anvild.core.identity.sessions import NewSession
from anvild.core.identity.tables import sessions, users
from anvild.core.store import Store
from anvild.sdk import NotFound

Who = Callable[..., Awaitable[Principal]]
EMAIL, PASSWORD = "ada@lab.example", "correct horse"
AUTOMATION = "automation-token-of-the-tests"


@pytest.fixture
async def session(identity: Identity, lab: Bootstrapped) -> NewSession:
    return await identity.sessions.login(EMAIL, PASSWORD, origin=Origin("10.0.0.1", "browser"))


def cookies(session: NewSession, method: str = "GET", **changes: Any) -> Credentials:
    fields = {"session": session.secret, "csrf_cookie": session.csrf, "csrf_header": session.csrf, "method": method}
    return Credentials(**(fields | changes))


async def test_nothing_is_nobody(identity: Identity) -> None:
    assert await identity.authenticate(Credentials(method="DELETE", csrf_header="x")) is None


async def test_each_credential_alone(identity: Identity, lab: Bootstrapped, session: NewSession, who: Who) -> None:
    token = await identity.login_tokens.login(EMAIL, PASSWORD)
    by = await who(api_key=lab.api_key)
    personal = await identity.personal_tokens.create(lab.user_id, name="phone", abilities=["runs:read"], by=by)
    device = await identity.device_tokens.issue(by, udid="SERIAL-1", platform="thing")
    found = {
        "key": by,
        "session": await who(session=session.secret),
        "login": await who(authorization=f"Bearer {token.token}"),
        "personal": await who(authorization=f"Bearer {personal.plaintext}"),
        "device": await who(authorization=f"Bearer {device.token}"),
        "automation": await who(authorization=f"Bearer {AUTOMATION}"),
    }
    assert {name: principal.kind for name, principal in found.items()} == {
        "key": "api_key",
        "session": "user",
        "login": "user",
        "personal": "token",
        "device": "device",
        "automation": "automation",
    }
    assert {principal.team_id for principal in found.values()} == {lab.team_id}
    assert found["session"].session_id == session.session_id
    assert found["session"].role == found["login"].role == found["personal"].role == "owner"
    assert found["personal"].scopes == {"runs:read"}
    assert found["device"].device_udid == "SERIAL-1"
    for name, principal in found.items():
        assert principal.is_admin == (name not in ("key", "device")), name


async def test_a_bad_credential_hides_a_good_one(identity: Identity, lab: Bootstrapped, session: NewSession) -> None:
    good = {"session": session.secret, "authorization": f"Bearer {lab.live_key}", "api_key": lab.api_key}
    order = ["host_token", "api_key", "authorization", "session"]
    for place, name in enumerate(order):
        rest = {key: good[key] for key in order[place + 1 :]}
        with pytest.raises(Unauthenticated):
            await identity.authenticate(Credentials(**{name: "bad"}, **rest))


async def test_a_malformed_header_is_refused(identity: Identity, lab: Bootstrapped) -> None:
    for text in (
        "",
        "Bearer",
        "Basic YTpi",
        "Bearer a.b",
        "Bearer a.b.c",
        "Bearer 1|2",
        "Bearer ..",
        "Bearer é|\udcff",
    ):
        with pytest.raises(Unauthenticated):
            await identity.authenticate(Credentials(authorization=text))


async def test_the_automation_token_acts_in_the_first_team(identity: Identity, who: Who) -> None:
    assert (await who(authorization=f"Bearer {AUTOMATION}")).team_id is None
    with pytest.raises(Unauthenticated):
        await who(authorization=f"Bearer {AUTOMATION}x")


# ----- sessions


async def test_an_unsafe_request_needs_the_csrf_proof(identity: Identity, session: NewSession) -> None:
    for method in ("GET", "HEAD", "OPTIONS"):
        without = cookies(session, method, csrf_cookie=None, csrf_header=None)
        assert await identity.authenticate(without) is not None
    for method, changes in itertools.product(
        ("POST", "PUT", "PATCH", "DELETE", "post"),
        (
            {"csrf_header": None},
            {"csrf_cookie": None},
            {"csrf_header": "other"},
            {"csrf_header": "other", "csrf_cookie": "other"},
            {"csrf_header": "", "csrf_cookie": ""},
        ),
    ):
        assert await identity.authenticate(cookies(session, method)) is not None
        with pytest.raises(Forbidden) as caught:
            await identity.authenticate(cookies(session, method, **changes))
        assert caught.value.details["reason"] == "csrf"


async def test_a_session_ends_when_idle_and_in_any_case(
    identity: Identity, lab: Bootstrapped, session: NewSession, store: Store, who: Who
) -> None:
    other = await identity.sessions.login(EMAIL, PASSWORD)
    old = utcnow() - timedelta(hours=6, seconds=1)
    for ended, values in ((session, {"last_seen_at": old}), (other, {"expires_at": utcnow()})):
        statement = update(sessions).where(sessions.c.id == ended.session_id).values(values)
        await store.write(lambda connection, statement=statement: connection.execute(statement))
        with pytest.raises(Unauthenticated):
            await who(session=ended.secret)
    assert await identity.sessions.list(lab.user_id) == []


async def test_sessions_are_listed_and_ended_one_by_one(
    identity: Identity, lab: Bootstrapped, session: NewSession, who: Who
) -> None:
    other = await identity.sessions.login(EMAIL, PASSWORD, origin=Origin("10.0.0.2", "x" * 1000))
    me = await who(session=session.secret)
    listed = {info.id: info for info in await identity.sessions.list(lab.user_id)}
    assert listed.keys() == {session.session_id, other.session_id}
    assert listed[session.session_id].ip == "10.0.0.1"
    assert listed[session.session_id].expires_at == listed[session.session_id].last_seen_at + timedelta(hours=6)
    await who(session=other.secret)
    for _ in range(2):
        await identity.sessions.revoke(other.session_id, user_id=lab.user_id, by=me)
    with pytest.raises(Unauthenticated):
        await who(session=other.secret)
    assert await who(session=session.secret) == me
    with pytest.raises(NotFound):
        await identity.sessions.revoke(lab.team_id, user_id=lab.user_id, by=me)


async def test_logout_everywhere_ends_sessions_and_login_tokens(
    identity: Identity, lab: Bootstrapped, session: NewSession, who: Who
) -> None:
    token = await identity.login_tokens.login(EMAIL, PASSWORD)
    me = await who(session=session.secret)
    await who(authorization=f"Bearer {token.token}")
    assert await identity.sessions.revoke_all(lab.user_id, by=me) == 1
    for fields in ({"session": session.secret}, {"authorization": f"Bearer {token.token}"}):
        with pytest.raises(Unauthenticated):
            await who(**fields)


async def test_switching_the_team_changes_the_secret(
    identity: Identity, lab: Bootstrapped, session: NewSession, who: Who
) -> None:
    me = await who(session=session.secret)
    other = await identity.teams.create("Other", owner_id=lab.user_id, by=me)
    switched = await identity.sessions.switch_team(me, other.id)
    assert (await who(session=switched.secret)).team_id == other.id
    with pytest.raises(Unauthenticated):
        await who(session=session.secret)
    me = await who(session=switched.secret)
    await identity.teams.delete(other.id, by=me)
    assert (await who(session=switched.secret)).team_id is None
    with pytest.raises(NotFound):
        await identity.sessions.switch_team(me, other.id)
    assert (await who(session=switched.secret)).user_id == lab.user_id


async def test_a_disabled_account_is_refused_on_its_next_request(
    identity: Identity, lab: Bootstrapped, admin: Principal, who: Who, store: Store
) -> None:
    user = await identity.users.create(by=admin, name="Bob", email="bob@lab.example", password=PASSWORD)
    token = await identity.login_tokens.login("bob@lab.example", PASSWORD)
    session = await identity.sessions.login("bob@lab.example", PASSWORD)
    await who(authorization=f"Bearer {token.token}")
    await who(session=session.secret)
    await identity.users.set_status(user.id, "disabled", by=admin)
    for fields in ({"session": session.secret}, {"authorization": f"Bearer {token.token}"}):
        with pytest.raises((Unauthenticated, Forbidden)):
            await who(**fields)
    with pytest.raises(Forbidden) as caught:
        await identity.sessions.login("bob@lab.example", PASSWORD)
    assert caught.value.details["reason"] == "account_disabled"
    with pytest.raises(Unauthenticated):
        await identity.sessions.login("bob@lab.example", "wrong horse")


# ----- login


async def test_wrong_and_unknown_look_the_same_and_are_noted(
    identity: Identity, lab: Bootstrapped, events: EventLog
) -> None:
    said = set()
    for account, password in ((EMAIL, "wrong horse"), ("nobody@lab.example", PASSWORD), ("", "")):
        with pytest.raises(Unauthenticated) as caught:
            await identity.sessions.login(account, password, origin=Origin("10.0.0.1"))
        said.add(caught.value.message)
    assert len(said) == 1
    failed = await events.read(where=EventFilter(kinds=("login.failed",), audit_only=True))
    assert [event.subject_type for event in failed] == ["user", "address", "address"]
    assert "nobody" not in repr(failed)


async def test_attempts_are_limited_by_account_and_by_address(identity: Identity, lab: Bootstrapped) -> None:
    for number in range(5):
        with pytest.raises(Unauthenticated):
            await identity.sessions.login(EMAIL, "wrong horse", origin=Origin(f"10.0.0.{number}"))
    with pytest.raises(RateLimited):
        await identity.sessions.login(f" {EMAIL.upper()}", PASSWORD, origin=Origin("10.0.0.9"))
    for number in range(9):
        with pytest.raises(Unauthenticated):
            await identity.sessions.login(f"user{number}@lab.example", PASSWORD, origin=Origin("10.0.0.9"))
    with pytest.raises(RateLimited) as caught:
        await identity.sessions.login("fresh@lab.example", PASSWORD, origin=Origin("10.0.0.9"))
    assert 0 < caught.value.retry_after <= 60


async def test_a_login_by_user_name_renews_a_cheap_hash(
    identity: Identity, lab: Bootstrapped, admin: Principal, store: Store
) -> None:
    user = await identity.users.create(by=admin, name="Eve", username="eve", password=PASSWORD, lab_role="operator")
    cheaper = identity.users._passwords._hasher.__class__(time_cost=1, memory_cost=8, parallelism=1, hash_len=16)
    old = cheaper.hash(PASSWORD)
    await store.write(
        lambda connection: connection.execute(update(users).where(users.c.id == user.id).values(password_hash=old))
    )
    session = await identity.sessions.login("eve", PASSWORD)
    assert session.person.lab_role == "operator"
    assert session.person.team_id is None
    stored = await store.read(
        lambda connection: connection.execute(users.select().where(users.c.id == user.id)).one().password_hash
    )
    assert stored != old
    await identity.sessions.login("eve", PASSWORD)


async def test_a_login_token_dies_with_its_role_and_password(
    identity: Identity, lab: Bootstrapped, admin: Principal, who: Who
) -> None:
    user = await identity.users.create(by=admin, name="Eve", username="eve", password=PASSWORD)
    first = (await identity.login_tokens.login("eve", PASSWORD)).token
    claims = jwt.decode(first, options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 43_200
    assert (claims["iss"], claims["sub"], claims["role"]) == ("anvil", user.id, "viewer")
    assert (await who(authorization=f"Bearer {first}")).lab_role == "viewer"
    await identity.users.set_lab_role(user.id, "operator", by=admin)
    with pytest.raises(Unauthenticated):
        await who(authorization=f"Bearer {first}")
    second = (await identity.login_tokens.login("eve", PASSWORD)).token
    await identity.users.set_password(user.id, "another horse", by=admin)
    with pytest.raises(Unauthenticated):
        await who(authorization=f"Bearer {second}")
    assert not await identity.users.check_password(user.id, PASSWORD)
    assert await identity.users.check_password(user.id, "another horse")
