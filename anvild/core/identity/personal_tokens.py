"""Personal tokens: a person's own, narrowed to what they are for."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

import msgspec
from sqlalchemy import Connection, func, select, update

from anvild.core.clock import utcnow
from anvild.core.errors import FieldProblem, Forbidden, InvalidRequest
from anvild.core.store import Store
from anvild.sdk import NotFound

from .cache import CredentialCache
from .journal import note
from .policy import check_scopes, covers
from .secret_texts import new_secret
from .single_use import insert_token
from .tables import tokens
from .values import NOWHERE, Origin, Principal

__all__ = ["NewPersonalToken", "PersonalToken", "PersonalTokens"]


class PersonalToken(msgspec.Struct, frozen=True, kw_only=True):
    """A token without its secret. ``number`` is what its text begins with."""

    id: str
    number: int
    name: str
    abilities: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


class NewPersonalToken(msgspec.Struct, frozen=True, kw_only=True):
    """A token that was just made. ``plaintext`` (``number|secret``) is nowhere else."""

    token: PersonalToken
    plaintext: str


class PersonalTokens:
    """The personal tokens. One never does more than its owner may at the moment of the request."""

    def __init__(self, store: Store, cache: CredentialCache) -> None:
        self._store = store
        self._cache = cache

    async def create(
        self,
        user_id: str,
        *,
        name: str,
        abilities: Iterable[str],
        by: Principal,
        lifetime: timedelta | None = None,
        origin: Origin = NOWHERE,
    ) -> NewPersonalToken:
        """Make a token for a person; without a ``lifetime`` it is good until it is revoked.

        Raises InvalidRequest for a wrong name or an unknown ability, Forbidden for one that the maker's own
        credential does not have.
        """
        name = name.strip()
        if not 1 <= len(name) <= 120:
            raise InvalidRequest(
                "a token's name has 1 to 120 characters", (FieldProblem("body.name", "1 to 120 characters"),)
            )
        granted = check_scopes(abilities, field="body.abilities")
        for ability in granted:
            if by.scopes is not None and not covers(by.scopes, ability):
                raise Forbidden(
                    f"this credential cannot pass on the ability {ability!r}, which it does not have itself"
                )
        secret = new_secret()

        def job(connection: Connection) -> NewPersonalToken:
            number = connection.execute(select(func.coalesce(func.max(tokens.c.number), 0) + 1)).scalar_one()
            plaintext = f"{number}|{secret}"
            token_id = insert_token(
                connection,
                "personal",
                plaintext,
                lifetime=lifetime,
                number=number,
                user_id=user_id,
                name=name,
                abilities=granted,
            )
            note(connection, "token.created", ("token", token_id), None, by.actor, origin, name=name, abilities=granted)
            row = connection.execute(select(tokens).where(tokens.c.id == token_id)).one()
            return NewPersonalToken(token=_token(row), plaintext=plaintext)

        return await self._store.write(job)

    async def revoke(self, token_id: str, *, user_id: str, by: Principal, origin: Origin = NOWHERE) -> None:
        """End a token. Ending it twice is fine. Raises NotFound for one that is not the person's."""

        def job(connection: Connection) -> None:
            mine = (tokens.c.id == token_id, tokens.c.user_id == user_id, tokens.c.kind == "personal")
            if connection.execute(select(tokens.c.id).where(*mine)).first() is None:
                raise NotFound("there is no such token")
            ended = connection.execute(
                update(tokens).where(*mine, tokens.c.revoked_at.is_(None)).values(revoked_at=utcnow())
            )
            if ended.rowcount:
                note(connection, "token.revoked", ("token", token_id), None, by.actor, origin)

        await self._store.write(job)
        self._cache.invalidate(f"token:{token_id}")

    async def list(self, user_id: str) -> list[PersonalToken]:
        """Return a person's tokens that are good, newest first."""
        statement = (
            select(tokens)
            .where(tokens.c.user_id == user_id, tokens.c.kind == "personal", tokens.c.revoked_at.is_(None))
            .where((tokens.c.expires_at.is_(None)) | (tokens.c.expires_at > utcnow()))
            .order_by(tokens.c.number.desc())
        )
        return await self._store.read(lambda connection: [_token(row) for row in connection.execute(statement)])


def _token(row: object) -> PersonalToken:
    return msgspec.convert(row, PersonalToken, from_attributes=True)
