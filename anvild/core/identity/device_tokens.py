"""Device tokens: signed proofs that a program on a device speaks for it, for a day."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import Connection, insert, select, update

from anvild.core.clock import utcnow
from anvild.core.errors import FieldProblem, Forbidden, InvalidRequest, Unauthenticated
from anvild.core.ids import new_id
from anvild.core.store import Store
from anvild.sdk import NotFound

from .cache import CredentialCache
from .journal import note
from .signing_keys import SignedToken, SigningKeys
from .tables import device_tokens
from .values import NOWHERE, Origin, Principal

__all__ = ["DeviceTokens", "RevocationList", "check_udid"]

_LIFETIME = timedelta(hours=24)


class RevocationList(msgspec.Struct, frozen=True, kw_only=True):
    """The ids of tokens that were revoked and have not expired yet."""

    jti: tuple[str, ...]
    generated_at: datetime


def check_udid(udid: str) -> str:
    """Return the identity of a device when it can be one. Raises InvalidRequest."""
    if not (1 <= len(udid) <= 200 and udid.isprintable()):
        expected = "1 to 200 printable characters"
        raise InvalidRequest(f"a device's udid has {expected}", (FieldProblem("body.device.udid", expected),))
    return udid


class DeviceTokens:
    """Issues, renews and revokes device tokens.

    A token is an RS256 JWT bound to the device's identity (its claim ``sub``), good for 24 h. Each has a row by its
    ``jti``; a token without a good row is refused, whatever its signature says.
    """

    def __init__(self, store: Store, cache: CredentialCache, signing_keys: SigningKeys) -> None:
        self._store = store
        self._cache = cache
        self._signing_keys = signing_keys

    async def issue(
        self, by: Principal, *, udid: str, platform: str, device_id: str | None = None, origin: Origin = NOWHERE
    ) -> SignedToken:
        """Return a token for a device of the asking team; ``device_id`` is its row where there is one.

        Raises InvalidRequest for a wrong identity, Forbidden for a principal without a team. Whether the principal
        may do ``devices:connect`` is for the caller to ask first.
        """
        check_udid(udid)
        team_id = by.team_id
        if team_id is None:
            raise Forbidden("a device needs a team, and this credential has none")
        key_id = by.id if by.kind == "api_key" else None
        new = _NewToken(new_id(), team_id, device_id, udid, platform, key_id)

        def job(connection: Connection) -> None:
            self._insert(connection, new)
            _note(connection, "device_token.issued", new, by.actor, origin)

        await self._store.write(job)
        return await self._sign(new)

    async def rotate(self, token: str, *, origin: Origin = NOWHERE) -> SignedToken:
        """Return a new token for one that is still good, which ends.

        When the answer is lost the old token is dead all the same: the device shakes hands again. Raises
        Unauthenticated for a token that is expired or revoked.
        """
        _, claims = await self._signing_keys.verify(token, "device")
        jti = new_id()

        def job(connection: Connection) -> _NewToken:
            old = self._revoke(connection, str(claims.get("jti")))
            if old is None or old.udid != claims["sub"]:
                raise Unauthenticated("this token is expired or revoked")
            new = _NewToken(jti, old.team_id, old.device_id, old.udid, old.platform, old.api_key_id)
            self._insert(connection, new)
            _note(connection, "device_token.rotated", old, f"device:{old.device_id or old.udid}", origin)
            return new

        try:
            new = await self._store.write(job)
        except NotFound:
            raise Unauthenticated("this token is expired or revoked") from None
        self._cache.invalidate(f"device_token:{claims.get('jti')}")
        return await self._sign(new)

    async def revoke(self, jti: str, *, team_id: str, by: Principal, origin: Origin = NOWHERE) -> None:
        """End a token of the team. Ending it twice is fine. Raises NotFound for one that is not the team's."""

        def job(connection: Connection) -> None:
            mine = select(device_tokens.c.jti).where(device_tokens.c.jti == jti, device_tokens.c.team_id == team_id)
            if connection.execute(mine).first() is None:
                raise NotFound("there is no such device token")
            if (old := self._revoke(connection, jti)) is not None:
                _note(connection, "device_token.revoked", old, by.actor, origin)

        await self._store.write(job)
        self._cache.invalidate(f"device_token:{jti}")

    async def revoke_device(self, udid: str, *, team_id: str, by: Principal, origin: Origin = NOWHERE) -> int:
        """End all tokens of a device of the team, as when it is retired, and return how many that were."""

        def job(connection: Connection) -> list[str]:
            live = select(device_tokens.c.jti).where(
                device_tokens.c.team_id == team_id,
                device_tokens.c.udid == udid,
                device_tokens.c.revoked_at.is_(None),
                device_tokens.c.expires_at > utcnow(),
            )
            ended = list(connection.execute(live).scalars())
            for jti in ended:
                if (old := self._revoke(connection, jti)) is not None:
                    _note(connection, "device_token.revoked", old, by.actor, origin)
            return ended

        ended = await self._store.write(job)
        self._cache.invalidate(*(f"device_token:{jti}" for jti in ended))
        return len(ended)

    async def revocation_list(self) -> RevocationList:
        """Return the revoked tokens that have not expired, for drivers that check their own."""
        now = utcnow()
        statement = (
            select(device_tokens.c.jti)
            .where(device_tokens.c.revoked_at.is_not(None), device_tokens.c.expires_at > now)
            .order_by(device_tokens.c.revoked_at, device_tokens.c.jti)
        )
        jti = await self._store.read(lambda connection: tuple(connection.execute(statement).scalars()))
        return RevocationList(jti=jti, generated_at=now)

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """Return the public keys that verify device tokens, as a JSON Web Key Set."""
        return self._signing_keys.jwks()

    async def _sign(self, new: _NewToken) -> SignedToken:
        claims = {"sub": new.udid, "jti": new.jti, "team": new.team_id, "platform": new.platform}
        if new.device_id is not None:
            claims["device"] = new.device_id
        return await self._signing_keys.sign("device", claims, lifetime=_LIFETIME)

    def _insert(self, connection: Connection, new: _NewToken) -> None:
        now = utcnow()
        connection.execute(
            insert(device_tokens).values(
                **msgspec.structs.asdict(new), issued_at=now, expires_at=now + _LIFETIME, revoked_at=None
            )
        )

    def _revoke(self, connection: Connection, jti: str) -> Any | None:
        """End a token that is good and return its row; None when it is not."""
        now = utcnow()
        return connection.execute(
            update(device_tokens)
            .where(device_tokens.c.jti == jti, device_tokens.c.revoked_at.is_(None), device_tokens.c.expires_at > now)
            .values(revoked_at=now)
            .returning(*device_tokens.c)
        ).one_or_none()


class _NewToken(msgspec.Struct, frozen=True):
    jti: str
    team_id: str
    device_id: str | None
    udid: str
    platform: str
    api_key_id: str | None


def _note(connection: Connection, kind: str, token: Any, actor: str, origin: Origin) -> None:
    subject = ("device_token", token.jti)
    note(connection, kind, subject, token.team_id, actor, origin, udid=token.udid, platform=token.platform)
