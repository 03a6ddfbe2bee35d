"""Host tokens: how a lab machine joins, and goes on proving that it is the one that joined."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec
from sqlalchemy import ColumnElement, Connection, select, update

from anvild.core.clock import utcnow
from anvild.core.errors import Unauthenticated
from anvild.core.ids import new_id
from anvild.core.store import Store

from .cache import CredentialCache
from .journal import note
from .secret_texts import digest, new_secret
from .signing_keys import SigningKeys
from .single_use import insert_token, take_token
from .tables import tokens
from .values import NOWHERE, Origin, Principal

__all__ = ["HostGrant", "HostTokens", "Registration"]

Also = Callable[[Connection], None]
"""What is to be done in the same transaction; it may raise, and then nothing is done."""

_REGISTRATION = timedelta(hours=1)
_REFRESH = timedelta(days=60)


class Registration(msgspec.Struct, frozen=True):
    """What a new host registers with, once. ``secret`` is nowhere else."""

    secret: str
    expires_at: datetime


class HostGrant(msgspec.Struct, frozen=True, kw_only=True):
    """What a host holds: a signed token for a week, and a secret that gets it the next one."""

    host_id: str
    team_id: str | None
    token: str
    expires_at: datetime
    refresh: str


class HostTokens:
    """Registers hosts and renews their tokens.

    Each use of a refresh secret ends it and gives the next one of its family. One that is used a second time has been
    copied: then the whole family ends, and the host must be registered again.
    """

    def __init__(self, store: Store, cache: CredentialCache, signing_keys: SigningKeys) -> None:
        self._store = store
        self._cache = cache
        self._signing_keys = signing_keys

    async def invite(
        self,
        host_id: str,
        *,
        name: str,
        team_id: str | None,
        by: Principal,
        origin: Origin = NOWHERE,
        also: Also | None = None,
    ) -> Registration:
        """Return a registration secret for a host, good once and for an hour. An older one of the host ends.

        ``also`` runs first in the same transaction.
        """
        secret = new_secret()

        def job(connection: Connection) -> None:
            if also is not None:
                also(connection)
            _revoke(connection, tokens.c.host_id == host_id, tokens.c.kind == "host_registration")
            insert_token(
                connection,
                "host_registration",
                secret,
                lifetime=_REGISTRATION,
                host_id=host_id,
                team_id=team_id,
                name=name[:120],
            )
            note(connection, "host.invited", ("host", host_id), team_id, by.actor, origin, name=name)

        await self._store.write(job)
        return Registration(secret, utcnow() + _REGISTRATION)

    async def register(self, secret: str, *, origin: Origin = NOWHERE) -> HostGrant:
        """Use a registration secret up and return the host's first grant. Raises Unauthenticated."""
        refresh, family = new_secret(), new_id()

        def job(connection: Connection) -> _Host | None:
            row = take_token(connection, "host_registration", secret)
            if row is None:
                return None
            host = _Host(row.host_id, row.team_id, row.name)
            _insert_refresh(connection, refresh, family, host)
            note(connection, "host.registered", ("host", host.id), host.team_id, f"host:{host.id}", origin)
            return host

        host = await self._store.write(job)
        if host is None:
            raise Unauthenticated("this registration token is wrong, used or expired")
        return await self._grant(host, family, refresh)

    async def refresh(self, secret: str, *, origin: Origin = NOWHERE) -> HostGrant:
        """Use a refresh secret up and return the next grant. Raises Unauthenticated; a second use ends the family."""
        refresh = new_secret()

        def job(connection: Connection) -> tuple[_Host, str] | None:
            row = take_token(connection, "host_refresh", secret)
            if row is None:
                _end_copied(connection, secret, origin)
                return None
            host = _Host(row.host_id, row.team_id, row.name)
            _revoke(connection, tokens.c.id == row.id)
            _insert_refresh(connection, refresh, row.family, host)
            return host, row.family

        renewed = await self._store.write(job)
        if renewed is None:
            raise Unauthenticated("this refresh token is wrong, used or expired")
        return await self._grant(*renewed, refresh)

    async def revoke(
        self,
        host_id: str,
        *,
        team_id: str | None,
        by: Principal,
        origin: Origin = NOWHERE,
        also: Also | None = None,
    ) -> None:
        """End everything that a host holds. ``also`` runs first in the same transaction."""

        def job(connection: Connection) -> None:
            if also is not None:
                also(connection)
            _revoke(connection, tokens.c.host_id == host_id)
            note(connection, "host.revoked", ("host", host_id), team_id, by.actor, origin)

        await self._store.write(job)
        self._cache.invalidate(f"host:{host_id}")

    async def _grant(self, host: _Host, family: str, refresh: str) -> HostGrant:
        claims = {"typ": "host", "sub": host.id, "host_id": host.id, "family": family}
        signed = await self._signing_keys.sign("host", claims)
        return HostGrant(
            host_id=host.id,
            team_id=host.team_id,
            token=signed.token,
            expires_at=signed.expires_at,
            refresh=refresh,
        )


class _Host(msgspec.Struct, frozen=True):
    id: str
    team_id: str | None
    name: str | None


def _insert_refresh(connection: Connection, secret: str, family: str, host: _Host) -> None:
    owner = {"host_id": host.id, "team_id": host.team_id, "name": host.name}
    insert_token(connection, "host_refresh", secret, lifetime=_REFRESH, family=family, **owner)


def _revoke(connection: Connection, *which: ColumnElement[bool]) -> None:
    connection.execute(update(tokens).where(*which, tokens.c.revoked_at.is_(None)).values(revoked_at=utcnow()))


def _end_copied(connection: Connection, secret: str, origin: Origin) -> None:
    """End the family of a refresh secret that was used before; a secret that never was one changes nothing."""
    used = connection.execute(
        select(tokens.c.family, tokens.c.host_id, tokens.c.team_id).where(
            tokens.c.digest == digest(secret), tokens.c.kind == "host_refresh", tokens.c.used_at.is_not(None)
        )
    ).one_or_none()
    if used is not None:
        _revoke(connection, tokens.c.family == used.family)
        note(connection, "host.refresh_reused", ("host", used.host_id), used.team_id, "system", origin)
