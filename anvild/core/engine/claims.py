"""The claim: one store job that gives free devices and slots of this host to waiting runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, bindparam, func, insert, literal_column, select, text, update

from anvild.core.clock import utcnow
from anvild.sdk import Requirements, ResourceExhausted

from . import journal
from .condition import Limits, held_back
from .journal import demand_of, note
from .leases import Holder, grant, grant_slot
from .queue import (
    Candidate,
    DriverSupply,
    FreeDevice,
    FreeSlot,
    Lane,
    Pick,
    choose,
    order_for,
    paged,
)
from .tables import attempts, devices, leases, runs
from .values import LeaseInfo, RunState

__all__ = ["Grant", "Supply", "claim", "free_slot", "queued", "used_slots", "waiting_lanes"]

PAGE = 16

# The condition of the index ix_runs_queue, spelt as a literal: with a parameter neither database would use the index.
queued = runs.c.state == literal_column("'queued'")
_running = runs.c.state == literal_column("'running'")

# Walks the distinct lanes by one index seek each, however many runs are in them.
_LANES = text(
    """
    WITH RECURSIVE lanes(lane) AS (
        SELECT (SELECT lane FROM runs WHERE state = 'queued' ORDER BY lane LIMIT 1)
        UNION ALL
        SELECT (SELECT runs.lane FROM runs WHERE state = 'queued' AND runs.lane > lanes.lane ORDER BY runs.lane LIMIT 1)
        FROM lanes WHERE lanes.lane IS NOT NULL
    )
    SELECT lane, (SELECT min(number) FROM runs WHERE state = 'queued' AND runs.lane = lanes.lane) AS head
    FROM lanes WHERE lane IS NOT NULL
    """
)

_heads = select(
    runs.c.number,
    runs.c.id,
    runs.c.version,
    runs.c.attempt,
    runs.c.lane,
    runs.c.team_id,
    runs.c.priority,
    runs.c.device_id,
    runs.c.requirements,
).where(runs.c.number.in_(bindparam("numbers", expanding=True)))

_page = (
    select(runs.c.number, runs.c.id, runs.c.version, runs.c.attempt, runs.c.requirements)
    .where(queued, runs.c.lane == bindparam("lane"), runs.c.number > bindparam("after"))
    .order_by(runs.c.number)
    .limit(PAGE)
)

_load = select(runs.c.team_id, func.count().label("running")).where(_running).group_by(runs.c.team_id)

_free = (
    select(
        devices.c.id,
        devices.c.driver,
        devices.c.name,
        devices.c.platform,
        devices.c.capabilities,
        devices.c.team_id,
        devices.c.fence,
        devices.c.facts,
    )
    .where(
        devices.c.host == bindparam("host"),
        devices.c.status == literal_column("'ready'"),
        devices.c.made_to_order.is_(False),
        devices.c.quarantine.is_(None),
        devices.c.unclean.is_(False),
        ~select(leases.c.id).where(leases.c.device_id == devices.c.id, leases.c.released_at.is_(None)).exists(),
    )
    .order_by(devices.c.id)
)

_used_slots = select(leases.c.slot).where(
    leases.c.host == bindparam("host"),
    leases.c.driver == bindparam("driver"),
    leases.c.slot.is_not(None),
    leases.c.released_at.is_(None),
)

_active = select(func.count(leases.c.run_id)).where(leases.c.host == bindparam("host"), leases.c.released_at.is_(None))

_take = (
    update(runs)
    .where(runs.c.number == bindparam("b_number"), queued, runs.c.version == bindparam("b_version"))
    .values(
        state=RunState.RUNNING,
        version=runs.c.version + 1,
        attempt=bindparam("b_attempt"),
        used_device_id=bindparam("b_device"),
        started_at=func.coalesce(runs.c.started_at, bindparam("b_now", type_=runs.c.started_at.type)),
        waiting=None,
        phase=None,
        reason_code=None,
        reason=None,
    )
)


class Supply(msgspec.Struct, frozen=True):
    """What this host can offer, as the loop knows it: its drivers, the devices that they see now, and those that
    rest after a failure. ``limit`` is how many runs may execute here at the same time, ``limits`` when a device is held
    back."""

    host: str
    incarnation: str
    drivers: Mapping[str, DriverSupply]
    present: frozenset[str]
    resting: frozenset[str]
    limit: int
    limits: Limits = Limits()


class Grant(msgspec.Struct, frozen=True):
    """A run that has begun an attempt, with its lease."""

    run_id: str
    attempt: int
    lease: LeaseInfo


def claim(conn: Connection, supply: Supply) -> list[Grant]:
    """Start attempts for as many waiting runs as there are places for, in the order of :mod:`.queue`."""
    lanes = waiting_lanes(conn)
    if not lanes:
        return []
    free = _free_devices(conn, supply)
    slots = _free_slots(conn, supply)
    if not free and not slots:
        return []
    room = supply.limit - conn.execute(_active, {"host": supply.host}).scalar_one()
    load = {row.team_id: row.running for row in conn.execute(_load)}
    picks = choose(lanes, free, slots, load, room)
    return [_grant(conn, supply, pick) for pick in picks]


def waiting_lanes(conn: Connection) -> list[Lane]:
    """Return the lanes that have queued runs, each with its head."""
    found = conn.execute(_LANES).all()
    if not found:
        return []

    def page(lane: str, after: int) -> Sequence[Candidate]:
        return [_candidate(row) for row in conn.execute(_page, {"lane": lane, "after": after})]

    lanes = []
    for row in conn.execute(_heads, {"numbers": [row.head for row in found]}):
        head = _candidate(row)
        lanes.append(Lane(row.team_id, row.priority, demand_of(row), paged(page, row.lane, head), head))
        lanes[-1].advance()
    return lanes


def _candidate(row: Row[*tuple[Any, ...]]) -> Candidate:
    return Candidate(row.number, row.id, row.version, row.attempt, msgspec.convert(row.requirements, Requirements))


def _free_devices(conn: Connection, supply: Supply) -> list[FreeDevice]:
    ready = {name for name, driver in supply.drivers.items() if driver.blocked is None}
    if not supply.present or not ready:
        return []
    return [
        FreeDevice(row.id, row.driver, row.name, row.platform, frozenset(row.capabilities), row.team_id, row.fence)
        for row in conn.execute(_free, {"host": supply.host})
        if row.id in supply.present
        and row.driver in ready
        and row.id not in supply.resting
        and held_back(row.facts, supply.limits) is None
    ]


def _free_slots(conn: Connection, supply: Supply) -> list[FreeSlot]:
    free = []
    for driver in supply.drivers.values():
        if driver.blocked is None and driver.slots and driver.name not in supply.resting:
            used = used_slots(conn, supply.host, driver.name)
            free += [FreeSlot(driver, slot) for slot in range(driver.slots) if slot not in used]
    return free


def used_slots(conn: Connection, host: str, driver: str) -> set[int]:
    """Return the slots of a driver that are leased."""
    return set(conn.execute(_used_slots, {"host": host, "driver": driver}).scalars())


def free_slot(conn: Connection, host: str, driver: str, slots: int) -> int:
    """Return a slot of a driver that nobody has. Raises ResourceExhausted."""
    used = used_slots(conn, host, driver)
    for slot in range(slots):
        if slot not in used:
            return slot
    raise ResourceExhausted(f"all {slots} slots of the driver {driver!r} are in use")


def _grant(conn: Connection, supply: Supply, pick: Pick) -> Grant:
    candidate, place = pick.candidate, pick.place
    attempt = candidate.attempt + 1
    holder = Holder(actor=journal.SYSTEM, team_id=pick.team_id, run_id=candidate.run_id, attempt=attempt)
    if isinstance(place, FreeDevice):
        lease = grant(
            conn,
            device_id=place.device_id,
            driver=place.driver,
            host=supply.host,
            fence=place.fence,
            holder=holder,
            incarnation=supply.incarnation,
        )
    else:
        order = order_for(candidate.requirements, place.driver.name)
        assert order is not None
        lease = grant_slot(
            conn,
            driver=place.driver.name,
            host=supply.host,
            slot=place.slot,
            identity=f"{candidate.run_id}-{attempt}",
            name=order.name,
            holder=holder,
            incarnation=supply.incarnation,
        )
    now = utcnow()
    conn.execute(
        _take,
        {
            "b_number": candidate.number,
            "b_version": candidate.version,
            "b_attempt": attempt,
            "b_device": lease.device_id,
            "b_now": now,
        },
    )
    conn.execute(
        insert(attempts),
        {
            "run_id": candidate.run_id,
            "attempt": attempt,
            "device_id": lease.device_id,
            "lease_id": lease.id,
            "incarnation": supply.incarnation,
            "started_at": now,
        },
    )
    row = journal.run_row(conn, candidate.run_id)
    note(conn, row, "running", data={"attempt": attempt, "device_id": lease.device_id, "lease_id": lease.id})
    return Grant(candidate.run_id, attempt, lease)
