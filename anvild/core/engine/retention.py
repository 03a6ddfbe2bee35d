"""Retention: what has ended long ago is removed, so that a lab can be left alone for years.

A run goes with its attempts, findings and leases, and with the devices that were made for it; a person's lease goes by
itself. Nothing goes while it is still of use: a run whose device is leased, or was made to order and is not destroyed
yet, stays. Artifacts and events have retentions of their own.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from typing import Any

import trio
from sqlalchemy import ColumnElement, Connection, Select, bindparam, delete, or_, select

from anvild.core.clock import utcnow
from anvild.core.errors import StorageFull
from anvild.core.logging import get_logger
from anvild.core.store import Store
from anvild.sdk import Unavailable

from .devices import left
from .journal import note
from .tables import attempts, devices, findings, leases, runs

__all__ = ["Retention"]

SLICE = 200
PAUSE_SECONDS = 0.2
EVERY_SECONDS = 3600.0

log = get_logger(__name__)

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


class Retention:
    """Removes what ended longer than ``keep`` ago, in slices, with pauses that leave the writer to the work."""

    def __init__(self, store: Store, *, keep: timedelta) -> None:
        self._store = store
        self._keep = keep

    async def run(self) -> None:
        """Sweep now and every hour, until cancelled. A sweep that fails is tried again with the next one."""
        while True:
            try:
                await self.sweep()
            except (StorageFull, Unavailable) as error:
                log.warning("retention_put_off", reason=error.message)
            except Exception:
                log.exception("retention_failed")
            await trio.sleep(EVERY_SECONDS)

    async def sweep(self) -> int:
        """Remove all that is too old; return how many runs and leases of people that were.

        Cancelled in between, the next sweep does the rest.
        """
        before = utcnow() - self._keep
        removed = 0
        for remove in (_remove_runs, _remove_people_leases):
            while count := await self._store.write(partial(remove, before)):
                removed += count
                await trio.sleep(PAUSE_SECONDS)
        return removed


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
