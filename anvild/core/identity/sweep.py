"""What has ended long ago is removed."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from sqlalchemy import Connection, and_, delete, or_, select, update

from anvild.core.clock import utcnow
from anvild.core.events.tables import events
from anvild.core.store import Store

from .tables import device_tokens, sessions, tokens, users

__all__ = ["FORGOTTEN_AFTER", "sweep"]

# Long enough that a used refresh token is still recognised when a copy of it turns up.
_KEPT = timedelta(days=30)
FORGOTTEN_AFTER = timedelta(days=15)

_PERSONAL = ("email", "username", "name", "new_name")


async def sweep(store: Store) -> None:
    """Remove sessions, device tokens and other tokens that expired more than 30 days ago, and what names people
    whose accounts were deleted more than 15 days ago."""
    now = utcnow()

    def job(connection: Connection) -> None:
        for table in (sessions, device_tokens, tokens):
            connection.execute(delete(table).where(table.c.expires_at < now - _KEPT))

    await store.write(job)
    gone = select(users.c.id).where(
        users.c.status == "deleted", users.c.deleted_at < now - FORGOTTEN_AFTER, users.c.name != ""
    )
    for user_id in await store.read(lambda connection: list(connection.execute(gone).scalars())):
        await store.write(partial(_forget, user_id))


def _forget(user_id: str, connection: Connection) -> None:
    """Keep nothing of a person but their id, which other rows refer to. What they did stays in the audit log."""
    for table in (sessions, tokens):
        connection.execute(delete(table).where(table.c.user_id == user_id))
    about = (events.c.subject_type == "user", events.c.subject_id == user_id)
    for row in connection.execute(select(events.c.id, events.c.data).where(*about)).all():
        kept = {name: value for name, value in row.data.items() if name not in _PERSONAL}
        if kept != row.data:
            connection.execute(update(events).where(events.c.id == row.id).values(data=kept))
    mine = or_(events.c.actor == f"user:{user_id}", and_(*about))
    connection.execute(update(events).where(mine).values(ip=None, user_agent=None))
    connection.execute(update(users).where(users.c.id == user_id).values(name=""))
