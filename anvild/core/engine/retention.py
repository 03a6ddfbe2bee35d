"""What of the engine's is removed when it is old.

A run goes with its attempts, findings and leases, and with the devices that were made for it; a person's lease goes by
itself. Nothing goes while it is still of use: a run whose device is leased, or was made to order and is not destroyed
yet, stays. Artifacts and events have retentions of their own.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, bindparam, delete, or_, select

from anvild.core.retention import SLICE, Retention
from anvild.core.store import Store

from .devices import left
from .journal import note
from .tables import attempts, devices, findings, leases, runs

__all__ = ["runs_retention"]

_in_use = or_(leases.c.released_at.is_(None), devices.c.made_to_order.is_(True) & left)

_old_runs: Select[Any] = (
    select(runs.c.number, runs.c.id, runs.c.team_id, runs.c.name)
    .where(
        runs.c.ended_at < bindparam("before"),
        ~select(leases.c.id).join(devices).where(leases.c.run_id == runs.c.id, _in_use).exists(),
    )
    .order_by(runs.c.ended_at)
    .limit(SLICE)
)

_old_leases = (
    select(leases.c.id)
    .join(devices)
    .where(leases.c.run_id.is_(None), leases.c.released_at < bindparam("before"), ~_in_use)
    .limit(SLICE)
)


def runs_retention(store: Store, *, keep: timedelta) -> Retention:
    """Return what removes runs, and leases of people, that ended longer than ``keep`` ago."""
    return Retention(store, [(_remove_runs, keep), (_remove_people_leases, keep)])


def _remove_runs(before: datetime, conn: Connection) -> int:
    old = conn.execute(_old_runs, {"before": before}).all()
    ids = [row.id for row in old]
    conn.execute(delete(findings).where(findings.c.run_id.in_(ids)))
    conn.execute(delete(attempts).where(attempts.c.run_id.in_(ids)))
    _remove_leases(conn, leases.c.run_id.in_(ids))
    conn.execute(delete(runs).where(runs.c.id.in_(ids)))
    for row in old:
        note(conn, row, "removed", data={"number": row.number, "name": row.name})
    return len(old)


def _remove_people_leases(before: datetime, conn: Connection) -> int:
    old = conn.scalars(_old_leases, {"before": before}).all()
    _remove_leases(conn, leases.c.id.in_(old))
    return len(old)


def _remove_leases(conn: Connection, condition: ColumnElement[bool]) -> None:
    """Remove leases, and the devices that were made for them: each of those has had this one lease alone."""
    made = select(leases.c.device_id).join(devices).where(condition, devices.c.made_to_order.is_(True))
    gone = conn.scalars(made).all()
    conn.execute(delete(leases).where(condition))
    conn.execute(delete(devices).where(devices.c.id.in_(gone)))
