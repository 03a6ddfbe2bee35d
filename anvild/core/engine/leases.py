"""Leases as store jobs: granting, finding, ending. One lease a device, one a slot, with a fence that only grows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, bindparam, func, insert, select, update

from anvild.core.clock import utcnow
from anvild.core.errors import Conflict
from anvild.core.events import append
from anvild.core.ids import new_id
from anvild.sdk import DeviceStatus

from .devices import add_made_device, device_event, device_row
from .journal import fail_wanting
from .tables import devices, leases
from .values import Actor, LeaseInfo

__all__ = [
    "Fate",
    "Holder",
    "active_lease",
    "forsake",
    "grant",
    "grant_slot",
    "lasts",
    "lease_from",
    "leave_slot",
    "release",
    "take_slot",
    "takes_slot",
    "tell_of",
]

_active = select(leases).where(leases.c.device_id == bindparam("device_id"), leases.c.released_at.is_(None))
_advance = (
    update(devices)
    .where(devices.c.id == bindparam("b_id"), devices.c.fence == bindparam("b_fence"))
    .values(fence=bindparam("b_next"))
)
_end = (
    update(leases)
    .where(leases.c.id == bindparam("b_id"), leases.c.released_at.is_(None))
    .values(released_at=bindparam("b_now"), reason=bindparam("b_reason"))
)


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """Who gets a lease: an attempt of a run, or a person for ``duration`` seconds (None: until they let go)."""

    actor: Actor
    team_id: str | None
    run_id: str | None = None
    attempt: int | None = None
    duration: float | None = None

    @property
    def name(self) -> str:
        return self.actor.actor if self.run_id is None else f"run:{self.run_id}"


class Fate(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a device when its lease ends: clean and free; ``unclean``, to be cleaned before the next lease;
    in ``quarantine`` with a reason; or ``gone`` for good."""

    unclean: bool = False
    quarantine: str | None = None
    gone: bool = False


def grant(
    conn: Connection, *, device_id: str, driver: str, host: str, fence: int, holder: Holder, incarnation: str
) -> LeaseInfo:
    """Lease a present device whose last fence was ``fence``. Raises Conflict when somebody else has it meanwhile."""
    taken = active_lease(conn, device_id)
    advanced = conn.execute(_advance, {"b_id": device_id, "b_fence": fence, "b_next": fence + 1})
    if taken is not None or advanced.rowcount != 1:
        raise Conflict("the device is leased to somebody else")
    return _insert(conn, device_id, driver, host, None, fence + 1, holder, incarnation)


def grant_slot(
    conn: Connection,
    *,
    driver: str,
    host: str,
    slot: int,
    identity: str,
    name: str,
    holder: Holder,
    incarnation: str,
) -> LeaseInfo:
    """Lease a slot of a driver, with the row of the device that will be made in it."""
    device_id = new_id()
    add_made_device(
        conn,
        device_id=device_id,
        driver=driver,
        host=host,
        identity=identity,
        name=name,
        team_id=holder.team_id,
    )
    return _insert(conn, device_id, driver, host, slot, 1, holder, incarnation)


def active_lease(conn: Connection, device_id: str) -> LeaseInfo | None:
    """Return the lease that a device is under, if any."""
    row = conn.execute(_active, {"device_id": device_id}).one_or_none()
    return None if row is None else lease_from(row)


def leave_slot(conn: Connection, lease: LeaseInfo) -> LeaseInfo:
    """Free the slot of a lease whose device is put aside; it keeps a number below zero, which no driver offers."""
    active = (leases.c.host == lease.host, leases.c.driver == lease.driver, leases.c.released_at.is_(None))
    lowest = conn.execute(select(func.min(leases.c.slot)).where(*active)).scalar_one()
    return take_slot(conn, lease, min(lowest or 0, 0) - 1)


def take_slot(conn: Connection, lease: LeaseInfo, slot: int) -> LeaseInfo:
    """Move an active lease to another slot, and return it as it is then."""
    conn.execute(update(leases).where(leases.c.id == lease.id, leases.c.released_at.is_(None)).values(slot=slot))
    return msgspec.structs.replace(lease, slot=slot)


def takes_slot(lease: LeaseInfo) -> bool:
    """Whether a lease has one of its driver's slots; one whose device was put aside has a number below zero."""
    return lease.slot is not None and lease.slot >= 0


def forsake(conn: Connection, host: str, driver: str, reason: str) -> None:
    """End all leases on a driver's devices, and retire those. What was made to order stays to be destroyed."""
    active = (leases.c.host == host, leases.c.driver == driver, leases.c.released_at.is_(None))
    for row in conn.execute(select(leases).where(*active)).all():
        release(conn, lease_from(row), Fate(unclean=True), reason)
    there = (devices.c.host == host, devices.c.driver == driver, devices.c.status != DeviceStatus.RETIRED)
    for row in conn.execute(select(devices).where(*there)).all():
        values = {"status": DeviceStatus.RETIRED, "reason": reason, "unclean": row.made_to_order}
        conn.execute(update(devices).where(devices.c.id == row.id).values(**values))
        device_event(conn, row, "retired", reason=reason)
        fail_wanting(conn, row.id, f"the requested device {row.name!r} is gone for good")


def lasts(lease: LeaseInfo) -> bool:
    """Whether a person holds a lease until they release it, whatever happens to this daemon and to the driver."""
    return lease.run_id is None and lease.duration is not None and math.isinf(lease.duration)


def tell_of(conn: Connection, lease: LeaseInfo, what: str, **data: Any) -> None:
    """Append the event ``lease.WHAT``."""
    _event(conn, lease, what, data)


def lease_from(row: Row[Any]) -> LeaseInfo:
    """Make the value of a row of leases."""
    return LeaseInfo(**row._asdict())


def release(conn: Connection, lease: LeaseInfo, fate: Fate, reason: str) -> None:
    """End a lease and write what becomes of its device. Ending it twice is fine."""
    ended = conn.execute(_end, {"b_id": lease.id, "b_now": utcnow(), "b_reason": reason})
    if ended.rowcount != 1:
        return
    values = _device_values(fate)
    if values:
        conn.execute(update(devices).where(devices.c.id == lease.device_id).values(**values))
        row = device_row(conn, lease.device_id)
        if fate.gone:
            device_event(conn, row, "retired", reason=reason)
            fail_wanting(conn, row.id, f"the requested device {row.name!r} is gone for good")
        elif fate.quarantine is not None:
            device_event(conn, row, "quarantined", reason=fate.quarantine)
    _event(conn, lease, "released", {"reason": reason})


def _device_values(fate: Fate) -> dict[str, Any]:
    if fate.gone:
        return {"status": DeviceStatus.RETIRED, "handle": None, "unclean": False}
    if fate.quarantine is not None:
        return {"quarantine": fate.quarantine, "unclean": True}
    return {"unclean": True} if fate.unclean else {}


def _insert(
    conn: Connection,
    device_id: str,
    driver: str,
    host: str,
    slot: int | None,
    fence: int,
    holder: Holder,
    incarnation: str,
) -> LeaseInfo:
    lease = LeaseInfo(
        id=new_id(),
        device_id=device_id,
        driver=driver,
        host=host,
        slot=slot,
        fence=fence,
        holder=holder.name,
        team_id=holder.team_id,
        run_id=holder.run_id,
        attempt=holder.attempt,
        incarnation=incarnation,
        duration=holder.duration,
        granted_at=utcnow(),
        released_at=None,
        reason=None,
    )
    conn.execute(insert(leases), msgspec.structs.asdict(lease))
    _event(conn, lease, "granted", {}, holder.actor)
    return lease


def _event(conn: Connection, lease: LeaseInfo, what: str, data: Mapping[str, Any], by: Actor | None = None) -> None:
    by = by or Actor()
    append(
        conn,
        f"lease.{what}",
        subject=("lease", lease.id),
        team_id=lease.team_id,
        run_id=lease.run_id,
        actor=by.actor,
        data={
            "device_id": lease.device_id,
            "driver": lease.driver,
            "fence": lease.fence,
            "holder": lease.holder,
            **data,
        },
        audit=lease.run_id is None,
        ip=by.ip,
        user_agent=by.user_agent,
    )
