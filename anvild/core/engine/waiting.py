"""Why runs wait, in words."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from sqlalchemy import Connection, and_, func, select, update

from anvild.core.store import Store
from anvild.sdk import DeviceStatus

from . import journal
from .claims import Supply, queued, waiting_lanes
from .condition import held_back
from .devices import left
from .persist import persist
from .queue import FreeDevice, can_make, fits, why_not
from .tables import devices, leases, runs
from .values import RunState

__all__ = ["tell_heads", "why_waiting"]


async def tell_heads(store: Store, supply: Supply) -> None:
    """Write what blocks the first run of each lane, with an event where that has changed.

    Waiting for one's turn is no event: only what would hold even if every device were idle.
    """
    await persist(store, partial(_tell_heads, supply))


def why_waiting(conn: Connection, run_id: str, supply: Supply) -> str | None:
    """Say why a run is not running; None when it is, or has ended. Raises NotFound."""
    row = journal.run_row(conn, run_id)
    if row.state == RunState.DRAFT:
        return "it is a draft: start it"
    if row.state == RunState.PAUSED:
        return "it is paused: resume it"
    if row.state != RunState.QUEUED:
        return None
    demand = journal.demand_of(row)
    known = _all_devices(conn, supply)
    obstacle = why_not(demand, row.team_id, known, supply.drivers)
    if obstacle is not None:
        return obstacle
    ahead = select(func.count()).select_from(runs).where(queued, runs.c.lane == row.lane, runs.c.number < row.number)
    place = 1 + conn.execute(ahead).scalar_one()
    fitting = sum(1 for device in known if not device.made_to_order and fits(demand, row.team_id, device))
    slots = sum(driver.slots for driver in supply.drivers.values() if can_make(demand, driver, row.team_id))
    parts = [f"{fitting} fitting device{'s' if fitting > 1 else ''}"] if fitting else []
    parts += [f"{slots} slot{'s' if slots > 1 else ''} for devices made to order"] if slots else []
    return f"{_ordinal(place)} of its kind in the queue; {' and '.join(parts)}, none free for it yet"


def _tell_heads(supply: Supply, conn: Connection) -> None:
    lanes = waiting_lanes(conn)
    if not lanes:
        return
    known = _all_devices(conn, supply)
    for lane in lanes:
        if lane.head is None:
            continue
        reason = why_not(lane.demand, lane.team_id, known, supply.drivers)
        changed = conn.execute(
            update(runs)
            .where(runs.c.number == lane.head.number, runs.c.waiting.is_distinct_from(reason))
            .values(waiting=reason)
        )
        if changed.rowcount:
            journal.note(conn, journal.run_row(conn, lane.head.run_id), "waiting", data={"reason": reason})


def _all_devices(conn: Connection, supply: Supply) -> Sequence[FreeDevice]:
    held = and_(leases.c.device_id == devices.c.id, leases.c.released_at.is_(None), leases.c.run_id.is_(None))
    rows = conn.execute(
        select(devices, leases.c.holder, leases.c.team_id.label("holder_team"))
        .outerjoin(leases, held)
        .where(left, devices.c.status != DeviceStatus.RETIRED)
    )
    return [
        FreeDevice(
            row.id,
            row.driver or "",
            row.name,
            row.platform,
            frozenset(row.capabilities),
            row.team_id,
            row.fence,
            row.status,
            row.quarantine,
            row.host == supply.host,
            row.made_to_order,
            row.holder,
            row.holder_team,
            held_back(row.facts, supply.limits),
        )
        for row in rows
    ]


def _ordinal(number: int) -> str:
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"
