"""API keys: made, shown once, listed, revoked."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from sqlalchemy import ColumnElement, Connection, insert, select, update

from anvild.core.clock import utcnow
from anvild.core.errors import FieldProblem, Forbidden, InvalidRequest
from anvild.core.ids import new_id
from anvild.core.store import Store
from anvild.sdk import NotFound

from .cache import CredentialCache
from .journal import note
from .policy import check_scopes, covers
from .secret_texts import KeyStyle, digest, new_api_key
from .tables import api_keys, device_tokens
from .values import NOWHERE, ApiKey, Origin, Principal

__all__ = ["ApiKeys", "NewApiKey", "insert_api_key", "revoke_api_keys"]

_SHOWN = {"wrn": 10, "live": len("anvil_live_") + 4}


class NewApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key that was just made. ``plaintext`` is nowhere else and cannot be shown again."""

    key: ApiKey
    plaintext: str


class ApiKeys:
    """The API keys of the teams. A revoked key is refused from the moment in which the revocation is committed."""

    def __init__(self, store: Store, cache: CredentialCache) -> None:
        self._store = store
        self._cache = cache

    async def create(
        self,
        *,
        by: Principal,
        team_id: str,
        name: str,
        scopes: Iterable[str] | None = None,
        style: KeyStyle = "live",
        origin: Origin = NOWHERE,
    ) -> NewApiKey:
        """Make a key for a team. None for the scopes means all that the maker may pass on.

        Raises InvalidRequest for a wrong name or an unknown scope, Forbidden for a scope beyond the maker's own.
        """
        checked, granted = _checked_name(name), _granted(by, scopes)
        plaintext = new_api_key(style)
        key = await self._store.write(
            lambda connection: insert_api_key(
                connection,
                plaintext,
                style=style,
                team_id=team_id,
                name=checked,
                scopes=granted,
                created_by=by.user_id,
                actor=by.actor,
                origin=origin,
            )
        )
        return NewApiKey(key=key, plaintext=plaintext)

    async def list(self, team_id: str, *, revoked: bool = False, limit: int = 1000) -> list[ApiKey]:
        """Return the keys of a team, newest first; with ``revoked`` also those that are no longer good."""
        statement = (
            select(api_keys)
            .where(api_keys.c.team_id == team_id)
            .order_by(api_keys.c.created_at.desc(), api_keys.c.id.desc())
            .limit(limit)
        )
        if not revoked:
            statement = statement.where(api_keys.c.revoked_at.is_(None))
        return await self._store.read(lambda connection: [_key(row) for row in connection.execute(statement)])

    async def get(self, key_id: str) -> ApiKey:
        """Return a key, revoked or not. Raises NotFound."""
        row = await self._store.read(
            lambda connection: connection.execute(select(api_keys).where(api_keys.c.id == key_id)).one_or_none()
        )
        if row is None:
            raise NotFound("there is no such API key")
        return _key(row)

    async def revoke(self, key_id: str, *, team_id: str, by: Principal, origin: Origin = NOWHERE) -> ApiKey:
        """End a key of the team, and the device tokens that it was given for. Ending it twice is fine.

        Raises NotFound for a key that is not the team's.
        """

        def job(connection: Connection) -> ApiKey:
            mine = (api_keys.c.id == key_id, api_keys.c.team_id == team_id)
            revoke_api_keys(connection, *mine, actor=by.actor, origin=origin)
            row = connection.execute(select(api_keys).where(*mine)).one_or_none()
            if row is None:
                raise NotFound("there is no such API key")
            return _key(row)

        key = await self._store.write(job)
        self._cache.invalidate(f"api_key:{key_id}")
        return key


def insert_api_key(
    connection: Connection,
    plaintext: str,
    *,
    style: KeyStyle,
    team_id: str,
    name: str,
    scopes: tuple[str, ...],
    created_by: str | None,
    actor: str,
    origin: Origin = NOWHERE,
) -> ApiKey:
    """Insert a key within a transaction."""
    key = ApiKey(
        id=new_id(),
        team_id=team_id,
        name=name,
        prefix=plaintext[: _SHOWN[style]],
        last4=plaintext[-4:],
        scopes=scopes,
        created_by=created_by,
        created_at=utcnow(),
        last_used_at=None,
        revoked_at=None,
    )
    connection.execute(insert(api_keys).values(**msgspec.structs.asdict(key), digest=digest(plaintext)))
    note(
        connection,
        "key.created",
        ("api_key", key.id),
        team_id,
        actor,
        origin,
        name=name,
        prefix=key.prefix,
        scopes=scopes,
    )
    return key


def revoke_api_keys(connection: Connection, *which: ColumnElement[bool], actor: str, origin: Origin = NOWHERE) -> None:
    """End the good keys among those that fit, and the device tokens that were given for them, within a transaction."""
    now = utcnow()
    keys = connection.execute(
        update(api_keys)
        .where(*which, api_keys.c.revoked_at.is_(None))
        .values(revoked_at=now)
        .returning(api_keys.c.id, api_keys.c.team_id, api_keys.c.name)
    ).all()
    for key in keys:
        connection.execute(
            update(device_tokens)
            .where(device_tokens.c.api_key_id == key.id, device_tokens.c.revoked_at.is_(None))
            .values(revoked_at=now)
        )
        note(connection, "key.revoked", ("api_key", key.id), key.team_id, actor, origin, name=key.name)


def _granted(by: Principal, scopes: Iterable[str] | None) -> tuple[str, ...]:
    own = ("*",) if by.scopes is None else tuple(sorted(by.scopes))
    if scopes is None:
        return own
    wanted = check_scopes(scopes)
    for scope in wanted:
        if not covers(own, scope):
            raise Forbidden(f"this credential cannot pass on the scope {scope!r}, which it does not have itself")
    return wanted


def _checked_name(name: str) -> str:
    name = name.strip()
    if not 1 <= len(name) <= 120:
        raise InvalidRequest(
            "a key's name has 1 to 120 characters", (FieldProblem("body.name", "1 to 120 characters"),)
        )
    return name


def _key(row: object) -> ApiKey:
    return msgspec.convert(row, ApiKey, from_attributes=True)
