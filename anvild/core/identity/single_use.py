"""Tokens that are good once: the links in mails, and what a new host registers with."""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import Any, Literal

from sqlalchemy import Connection, insert, update

from anvild.core.clock import utcnow
from anvild.core.errors import Unauthenticated
from anvild.core.ids import new_id
from anvild.core.store import Store

from .secret_texts import digest
from .tables import tokens

__all__ = ["MailTokens", "TokenKind", "insert_token", "take_token"]

TokenKind = Literal["activation", "password_reset", "host_registration", "host_refresh", "personal"]


class MailTokens:
    """The tokens that prove that somebody reads an account's mail."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def issue(self, kind: Literal["activation", "password_reset"], user_id: str, *, lifetime: timedelta) -> str:
        """Return a new token of 32 hex digits; an older one of the same kind and person ends."""
        text = secrets.token_hex(16)

        def job(connection: Connection) -> None:
            connection.execute(
                update(tokens)
                .where(tokens.c.kind == kind, tokens.c.user_id == user_id, tokens.c.revoked_at.is_(None))
                .values(revoked_at=utcnow())
            )
            insert_token(connection, kind, text, lifetime=lifetime, user_id=user_id)

        await self._store.write(job)
        return text

    async def take(self, kind: Literal["activation", "password_reset"], text: str) -> str:
        """Use a token up and return whose it was. Raises Unauthenticated for one that is not good (any more)."""
        row = await self._store.write(lambda connection: take_token(connection, kind, text))
        if row is None:
            raise Unauthenticated("this link is wrong, used or expired")
        user_id: str = row.user_id
        return user_id


def insert_token(
    connection: Connection, kind: TokenKind, text: str, *, lifetime: timedelta | None, **columns: object
) -> str:
    """Insert a token within a transaction and return its id."""
    token_id, now = new_id(), utcnow()
    expires_at = None if lifetime is None else now + lifetime
    connection.execute(
        insert(tokens).values(
            id=token_id, kind=kind, digest=digest(text), created_at=now, expires_at=expires_at, **columns
        )
    )
    return token_id


def take_token(connection: Connection, kind: TokenKind, text: str) -> Any | None:
    """Use a token up within a transaction and return its row; None when it is not good."""
    now = utcnow()
    return connection.execute(
        update(tokens)
        .where(
            tokens.c.digest == digest(text),
            tokens.c.kind == kind,
            tokens.c.used_at.is_(None),
            tokens.c.revoked_at.is_(None),
            tokens.c.expires_at > now,
        )
        .values(used_at=now)
        .returning(*tokens.c)
    ).one_or_none()
