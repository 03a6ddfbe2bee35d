"""How the identity room appends to the event log."""

from __future__ import annotations

from sqlalchemy import Connection

from anvild.core.events import append

from .values import Origin

__all__ = ["note"]


def note(
    connection: Connection,
    kind: str,
    subject: tuple[str, str],
    team_id: str | None,
    actor: str,
    origin: Origin,
    **data: object,
) -> None:
    """Append an audit event within the transaction of the change. ``data`` must not hold a secret."""
    append(
        connection,
        kind,
        subject=subject,
        team_id=team_id,
        actor=actor,
        data=data,
        audit=True,
        ip=origin.ip,
        user_agent=origin.user_agent,
    )
