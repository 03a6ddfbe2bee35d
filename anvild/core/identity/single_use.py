"""Tokens that are good once: the links in mails, and what a new host registers with."""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import Any, Literal

from sqlalchemy import Connection, insert, update

from anvild.core.clock import utcnow
from anvild.core.ids import new_id

from .secret_texts import digest
from .tables import tokens

__all__ = ["TokenKind", "end_mail_tokens", "insert_token", "issue_mail_token", "take_token"]

TokenKind = Literal["activation", "password_reset", "host_registration", "host_refresh", "personal"]
MailTokenKind = Literal["activation", "password_reset"]


def issue_mail_token(connection: Connection, kind: MailTokenKind, user_id: str, *, lifetime: timedelta) -> str:
    """Return a new token of 32 hex digits within a transaction; an older one of the same kind and person ends."""
    text = secrets.token_hex(16)
    end_mail_tokens(connection, kind, user_id)
    insert_token(connection, kind, text, lifetime=lifetime, user_id=user_id)
    return text


def end_mail_tokens(connection: Connection, kind: MailTokenKind, user_id: str) -> None:
    """End the good tokens of a kind that a person was sent, within a transaction."""
    mine = (tokens.c.kind == kind, tokens.c.user_id == user_id, tokens.c.revoked_at.is_(None))
    connection.execute(update(tokens).where(*mine).values(revoked_at=utcnow()))


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
