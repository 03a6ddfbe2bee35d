"""What of the wing's is removed when it is old: capsules that have ended, and what teams took up long ago."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Connection, bindparam, delete, select

from anvild.core.retention import SLICE, Retention
from anvild.core.store import Store

from .tables import capsules, ended, levels, metrics

__all__ = ["capsules_retention"]

LEVELS_KEPT = timedelta(days=60)


def capsules_retention(store: Store, *, keep: timedelta) -> Retention:
    """Return what removes capsules that ended longer than ``keep`` ago, with their metrics, and old samples of what
    teams took up. The sums of days stay."""
    return Retention(store, [(_remove_capsules, keep), (_remove_levels, LEVELS_KEPT)])


def _remove_capsules(before: datetime, conn: Connection) -> int:
    old = conn.scalars(select(capsules.c.id).where(ended, capsules.c.updated_at < before).limit(SLICE)).all()
    conn.execute(delete(metrics).where(metrics.c.capsule_id.in_(old)))
    conn.execute(delete(capsules).where(capsules.c.id.in_(old)))
    return len(old)


def _remove_levels(before: datetime, conn: Connection) -> int:
    query = select(levels.c.team_id, levels.c.since).where(levels.c.until < int(before.timestamp())).limit(SLICE)
    old = [{"team": row.team_id, "begin": row.since} for row in conn.execute(query)]
    if old:
        these = (levels.c.team_id == bindparam("team"), levels.c.since == bindparam("begin"))
        conn.execute(delete(levels).where(*these), old)
    return len(old)
