"""What has ended long ago is removed."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Connection, delete

from anvild.core.clock import utcnow
from anvild.core.store import Store

from .tables import device_tokens, sessions, tokens

__all__ = ["sweep"]

# Long enough that a used refresh token is still recognised when a copy of it turns up.
_KEPT = timedelta(days=30)


async def sweep(store: Store) -> None:
    """Remove sessions, device tokens and other tokens that expired more than 30 days ago."""
    old = utcnow() - _KEPT

    def job(connection: Connection) -> None:
        for table in (sessions, device_tokens, tokens):
            connection.execute(delete(table).where(table.c.expires_at < old))

    await store.write(job)
