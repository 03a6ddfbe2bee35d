"""Tokens of devices, hosts, people and mails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
import trio
from sqlalchemy import update

from anvild.core.clock import utcnow
from anvild.core.errors import Forbidden, InvalidRequest, Unauthenticated
from anvild.core.events import EventFilter, EventLog
from anvild.core.identity import SYSTEM, Bootstrapped, Identity, Passwords, Principal, SecretBoxError, may
from anvild.core.identity.tables import signing_keys, tokens
from anvild.core.store import Store
from anvild.sdk import NotFound

EMAIL = "ada@lab.example"
Who = Callable[..., Awaitable[Principal]]


def verify_outside(token: str, jwks: dict[str, Any]) -> dict[str, Any]:
    """Check a device token as a stranger would, with the public key set alone."""
    keys = {key["kid"]: jwt.PyJWK(key) for key in jwks["keys"]}
    claims: dict[str, Any] = jwt.decode(token, keys[jwt.get_unverified_header(token)["kid"]], algorithms=["RS256"])
    return claims


# ----- devices


async def test_a_device_token_is_bound_and_good_for_a_day(
    identity: Identity, lab: Bootstrapped, admin: Principal, who: Who
) -> None:
    issued = await identity.device_tokens.issue(admin, udid="SERIAL-1", platform="thing", device_id=lab.user_id)
    claims = verify_outside(issued.token, identity.device_tokens.jwks())
    assert claims["exp"] - claims["iat"] == 86_400
    assert issued.expires_at == datetime.fromtimestamp(claims["exp"], UTC)
    assert (claims["sub"], claims["device"], claims["team"]) == ("SERIAL-1", lab.user_id, lab.team_id)
    principal = await who(authorization=f"Bearer {issued.token}")
    assert (principal.kind, principal.device_udid, principal.jti) == ("device", "SERIAL-1", claims["jti"])
    assert may(principal, "devices:connect")
    assert not may(principal, "runs:read")
    assert all(key.keys() == {"kid", "kty", "use", "alg", "n", "e"} for key in identity.device_tokens.jwks()["keys"])
    for udid in ("", "x" * 201, "a\nb"):
        with pytest.raises(InvalidRequest):
            await identity.device_tokens.issue(admin, udid=udid, platform="thing")


async def test_rotation_ends_the_old_token(identity: Identity, admin: Principal, who: Who) -> None:
    old = (await identity.device_tokens.issue(admin, udid="S1", platform="thing")).token
    jti = (await who(authorization=f"Bearer {old}")).jti
    new = (await identity.device_tokens.rotate(old)).token
    assert (await who(authorization=f"Bearer {new}")).device_udid == "S1"
    with pytest.raises(Unauthenticated):
        await who(authorization=f"Bearer {old}")
    with pytest.raises(Unauthenticated):
        await identity.device_tokens.rotate(old)
    assert (await identity.device_tokens.revocation_list()).jti == (jti,)
    for text in ("", "a.b.c", new[:-2]):
        with pytest.raises(Unauthenticated):
            await identity.device_tokens.rotate(text)


async def test_revocation_by_token_by_device_and_by_key(
    identity: Identity, lab: Bootstrapped, admin: Principal, who: Who, events: EventLog
) -> None:
    issued = [(await identity.device_tokens.issue(admin, udid=f"S{n}", platform="thing")).token for n in range(3)]
    one, two, three = [(await who(authorization=f"Bearer {token}")).jti or "" for token in issued]
    other = await identity.teams.create("Other", owner_id=lab.user_id, by=admin)
    with pytest.raises(NotFound):
        await identity.device_tokens.revoke(one, team_id=other.id, by=admin)
    assert await identity.device_tokens.revoke_device("S1", team_id=other.id, by=admin) == 0
    await identity.device_tokens.revoke(one, team_id=lab.team_id, by=admin)
    await identity.device_tokens.revoke(one, team_id=lab.team_id, by=admin)
    assert await identity.device_tokens.revoke_device("S1", team_id=lab.team_id, by=admin) == 1
    for token in issued[:2]:
        with pytest.raises(Unauthenticated):
            await who(authorization=f"Bearer {token}")
    await who(authorization=f"Bearer {issued[2]}")
    await identity.api_keys.revoke(admin.id, team_id=lab.team_id, by=admin)
    with pytest.raises(Unauthenticated):
        await who(authorization=f"Bearer {issued[2]}")
    assert (await identity.device_tokens.revocation_list()).jti == (one, two, three)
    noted = await events.read(where=EventFilter(kinds=("device_token.",)))
    assert [event.kind for event in noted] == ["device_token.issued"] * 3 + ["device_token.revoked"] * 2


async def test_a_principal_without_a_team_gets_no_device_token(identity: Identity) -> None:
    stranger = Principal(kind="user", id="u")
    with pytest.raises(Forbidden):
        await identity.device_tokens.issue(stranger, udid="S1", platform="thing")


# ----- signing keys


@pytest.mark.usefixtures("real_keys")
async def test_a_retired_key_verifies_until_its_last_token_has_ended(
    identity: Identity, admin: Principal, who: Who, store: Store
) -> None:
    old = (await identity.device_tokens.issue(admin, udid="S1", platform="thing")).token
    await identity.signing_keys.rotate("device", by=admin)
    new = (await identity.device_tokens.issue(admin, udid="S1", platform="thing")).token
    jwks = identity.device_tokens.jwks()
    assert len(jwks["keys"]) == 2
    assert jwt.get_unverified_header(old)["kid"] != jwt.get_unverified_header(new)["kid"]
    for token in (old, new):
        assert verify_outside(token, jwks)["sub"] == "S1"
        assert (await who(authorization=f"Bearer {token}")).device_udid == "S1"
    ended = update(signing_keys).where(signing_keys.c.retired_at.is_not(None)).values(expires_at=utcnow())
    await store.write(lambda connection: connection.execute(ended))
    await identity.signing_keys.maintain()
    assert len(identity.device_tokens.jwks()["keys"]) == 1
    with pytest.raises(Unauthenticated):
        await who(authorization=f"Bearer {old}")


async def test_old_keys_are_replaced_once_by_whichever_daemon_comes_first(
    store: Store, events: EventLog, tmp_path: Path, passwords: Passwords, lab: Bootstrapped
) -> None:
    await Identity.open(store, events, data_dir=tmp_path, passwords=passwords)
    aged = update(signing_keys).values(created_at=utcnow() - timedelta(days=91))
    await store.write(lambda connection: connection.execute(aged))
    daemons = [await Identity.open(store, events, data_dir=tmp_path, passwords=passwords) for _ in range(2)]
    async with trio.open_nursery() as nursery:
        for daemon in daemons:
            nursery.start_soon(daemon.signing_keys.maintain)
    one, other = [daemon.device_tokens.jwks()["keys"] for daemon in daemons]
    assert one == other
    assert len(one) == 2


async def test_two_daemons_share_their_keys(
    identity: Identity, store: Store, events: EventLog, tmp_path: Path, passwords: Passwords, lab: Bootstrapped
) -> None:
    other = await Identity.open(store, events, data_dir=tmp_path, passwords=passwords)
    assert other.device_tokens.jwks() == identity.device_tokens.jwks()
    await identity.signing_keys.rotate("login")
    token = await identity.login_tokens.login("ada@lab.example", "correct horse")
    other.signing_keys._read_at -= 1  # it reads again at most once a second
    purpose, claims = await other.signing_keys.verify(token.token, "login")
    assert (purpose, claims["sub"]) == ("login", lab.user_id)
    with pytest.raises(SecretBoxError, match="other daemons"):
        await Identity.open(store, events, data_dir=tmp_path / "elsewhere", passwords=passwords)


async def test_a_token_is_good_for_its_own_purpose_alone(
    identity: Identity, lab: Bootstrapped, admin: Principal, who: Who
) -> None:
    device = (await identity.device_tokens.issue(admin, udid="S1", platform="thing")).token
    login = (await identity.login_tokens.login("ada@lab.example", "correct horse")).token
    invited = await identity.host_tokens.invite(lab.user_id, name="h", team_id=None, by=admin)
    host = (await identity.host_tokens.register(invited.secret)).token
    for token in (device, login):
        with pytest.raises(Unauthenticated):
            await who(host_token=token)
    with pytest.raises(Unauthenticated):
        await who(authorization=f"Bearer {host}")
    with pytest.raises(Unauthenticated):
        await identity.device_tokens.rotate(login)


async def test_forged_tokens_are_refused(identity: Identity, admin: Principal, who: Who) -> None:
    good = (await identity.device_tokens.issue(admin, udid="S1", platform="thing")).token
    head, claims = jwt.get_unverified_header(good), jwt.decode(good, options={"verify_signature": False})
    public = identity.device_tokens.jwks()["keys"][0]
    forged = [
        jwt.encode(claims, None, algorithm="none", headers={"kid": head["kid"]}),
        jwt.encode(claims, public["n"], algorithm="HS256", headers={"kid": head["kid"]}),
        jwt.encode(claims, "x" * 32, algorithm="HS256"),
        jwt.encode(claims, "x" * 32, algorithm="HS256", headers={"kid": "unknown"}),
        (await identity.signing_keys.sign("device", {**claims, "sub": "S2"})).token,
        (await identity.signing_keys.sign("device", {**claims, "jti": "no uuid"})).token,
        (await identity.signing_keys.sign("device", {"sub": "S1"})).token,
        (await identity.signing_keys.sign("device", {"jti": claims["jti"]})).token,
        (await identity.signing_keys.sign("device", claims, lifetime=timedelta(seconds=-1))).token,
        good[: good.rindex(".") + 1],
    ]
    for token in forged:
        with pytest.raises(Unauthenticated):
            await who(authorization=f"Bearer {token}")


# ----- hosts


async def test_a_host_registers_once_and_renews(
    identity: Identity, lab: Bootstrapped, admin: Principal, who: Who
) -> None:
    host_id = lab.user_id
    first = await identity.host_tokens.invite(host_id, name="rack-1", team_id=lab.team_id, by=admin)
    invited = await identity.host_tokens.invite(host_id, name="rack-1", team_id=lab.team_id, by=admin)
    with pytest.raises(Unauthenticated):
        await identity.host_tokens.register(first.secret)
    grant = await identity.host_tokens.register(invited.secret)
    with pytest.raises(Unauthenticated):
        await identity.host_tokens.register(invited.secret)
    principal = await who(host_token=grant.token)
    assert (principal.kind, principal.id, principal.team_id) == ("host", host_id, lab.team_id)
    assert may(principal, "hosts:connect")
    renewed = await identity.host_tokens.refresh(grant.refresh)
    assert (await who(host_token=renewed.token)).id == host_id
    assert (await who(host_token=grant.token)).id == host_id
    with pytest.raises(Unauthenticated):
        await identity.host_tokens.refresh("0" * 64)
    await identity.host_tokens.revoke(host_id, team_id=lab.team_id, by=admin)
    for token in (grant.token, renewed.token):
        with pytest.raises(Unauthenticated):
            await who(host_token=token)


async def test_a_copied_refresh_secret_ends_the_family(
    identity: Identity, lab: Bootstrapped, admin: Principal, who: Who, events: EventLog
) -> None:
    invited = await identity.host_tokens.invite(lab.user_id, name="rack-1", team_id=None, by=admin)
    grant = await identity.host_tokens.register(invited.secret)
    renewed = await identity.host_tokens.refresh(grant.refresh)
    await who(host_token=renewed.token)
    with pytest.raises(Unauthenticated):
        await identity.host_tokens.refresh(grant.refresh)
    with pytest.raises(Unauthenticated):
        await identity.host_tokens.refresh(renewed.refresh)
    with pytest.raises(Unauthenticated):
        await who(host_token=renewed.token)
    assert len(await events.read(where=EventFilter(kinds=("host.refresh_reused",), audit_only=True))) == 1


# ----- people and mails


async def test_a_personal_token_does_no_more_than_its_owner(
    identity: Identity, lab: Bootstrapped, admin: Principal, who: Who
) -> None:
    user = await identity.users.create(by=admin, name="Bob", email="bob@lab.example", lab_role="operator")
    by = person(user.id)
    made = await identity.personal_tokens.create(user.id, name="phone", abilities=["lab:*", "runs:read"], by=by)
    assert made.plaintext.startswith("1|")
    bearer = {"authorization": f"Bearer {made.plaintext}"}
    principal = await who(**bearer)
    assert may(principal, "lab:operate")
    assert not may(principal, "runs:read")
    await identity.users.set_lab_role(user.id, "viewer", by=admin)
    assert not may(await who(**bearer), "lab:operate")
    with pytest.raises(Forbidden):
        await identity.personal_tokens.create(user.id, name="wider", abilities=["*"], by=await who(**bearer))
    with pytest.raises(InvalidRequest):
        await identity.personal_tokens.create(user.id, name="x", abilities=["lab:fly"], by=by)
    assert [token.name for token in await identity.personal_tokens.list(user.id)] == ["phone"]
    with pytest.raises(NotFound):
        await identity.personal_tokens.revoke(made.token.id, user_id=lab.user_id, by=admin)
    await identity.personal_tokens.revoke(made.token.id, user_id=user.id, by=by)
    with pytest.raises(Unauthenticated):
        await who(**bearer)
    second = await identity.personal_tokens.create(user.id, name="tablet", abilities=["lab:read"], by=by)
    assert second.token.number == 2


def person(user_id: str) -> Principal:
    return Principal(kind="user", id=user_id, user_id=user_id)


async def test_a_personal_token_expires(identity: Identity, lab: Bootstrapped, admin: Principal, who: Who) -> None:
    made = await identity.personal_tokens.create(
        lab.user_id, name="short", abilities=["*"], by=admin, lifetime=timedelta(minutes=15)
    )
    number, secret = made.plaintext.split("|")
    for wrong in (f"{int(number) + 1}|{secret}", f"{number}|{secret[:-1]}", f"|{secret}"):
        with pytest.raises(Unauthenticated):
            await who(authorization=f"Bearer {wrong}")
    await who(authorization=f"Bearer {made.plaintext}")
    statement = update(tokens).where(tokens.c.id == made.token.id).values(expires_at=utcnow())
    await identity._store.write(lambda connection: connection.execute(statement))
    identity._cache.invalidate(f"token:{made.token.id}")
    with pytest.raises(Unauthenticated):
        await who(authorization=f"Bearer {made.plaintext}")
    assert await identity.personal_tokens.list(lab.user_id) == []


async def test_a_mail_token_is_good_once(identity: Identity, lab: Bootstrapped) -> None:
    accounts = identity.accounts

    async def asked() -> str:
        found = await accounts.forgot_password(EMAIL)
        assert found is not None
        return found.token

    async def refused(token: str) -> None:
        with pytest.raises(InvalidRequest) as caught:
            await accounts.reset_password(token, "a new password")
        assert caught.value.details["reason"] == "invalid_token"

    first, second = await asked(), await asked()
    assert len(second) == 32
    await refused(first)
    with pytest.raises(InvalidRequest):
        await accounts.activate(second)
    await accounts.reset_password(second, "a new password")
    await refused(second)
    late = await asked()
    expired = update(tokens).where(tokens.c.user_id == lab.user_id).values(expires_at=utcnow())
    await identity._store.write(lambda connection: connection.execute(expired))
    await refused(late)
    ended = await asked()
    await identity.users.set_password(lab.user_id, "another password", by=SYSTEM)
    await refused(ended)
