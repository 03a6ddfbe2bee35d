"""The devices of the lab: what people and wings do with them, and how a driver's sightings become rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Boolean, ColumnElement, Connection, Row, func, insert, literal_column, or_, select, update

from anvild.core.clock import utcnow
from anvild.core.errors import CapReached, Conflict
from anvild.core.events import append
from anvild.core.ids import new_id
from anvild.core.store import Store
from anvild.sdk import DeviceFact, DeviceStatus, NotFound, Sighting

from .journal import SYSTEM, fail_wanting
from .tables import devices
from .values import Actor, Device

__all__ = [
    "Devices",
    "Seen",
    "device_event",
    "device_from",
    "device_row",
    "fact_of",
    "facts_of",
    "left",
    "record",
    "visible",
]

_HIDDEN = frozenset({"handle", "fence"})

left: ColumnElement[bool] = literal_column("(devices.status <> 'retired' OR devices.unclean)", Boolean)
"""The condition that a device is in the lab, or leaves its driver something to do. It is that of the index
ix_devices_left, spelt as a literal: with a parameter neither database would use the index."""


class Devices:
    """The devices of all teams. Whether somebody may change a device is the caller's question.

    Devices that drivers find appear by themselves; :meth:`register` adds one by hand, which waits for a driver.
    """

    def __init__(self, store: Store, host: str) -> None:
        self._store = store
        self._host = host

    async def list(
        self, team_id: str | None = None, *, made_to_order: bool = False, retired: bool = False
    ) -> list[Device]:
        """Return the devices that a team sees (all, for None), oldest first.

        Those made to order and those retired are left out unless asked for.
        """
        query = select(devices).order_by(devices.c.id)
        if team_id is not None:
            query = query.where(visible(team_id))
        if not made_to_order:
            query = query.where(devices.c.made_to_order.is_(False))
        if not retired:
            query = query.where(left, devices.c.status != DeviceStatus.RETIRED)
        return await self._store.read(lambda conn: [device_from(row) for row in conn.execute(query)])

    async def get(self, device_id: str, team_id: str | None = None) -> Device:
        """Return a device. Raises NotFound, also for one that the team does not see."""

        def job(conn: Connection) -> Device:
            device = device_from(device_row(conn, device_id))
            if team_id is not None and device.team_id not in (None, team_id):
                raise NotFound(f"there is no device {device_id}")
            return device

        return await self._store.read(job)

    async def register(
        self,
        *,
        team_id: str,
        name: str,
        model: str | None = None,
        firmware_version: str | None = None,
        capabilities: Sequence[str] = (),
        metadata: Mapping[str, Any] | None = None,
        cap: int | None = None,
        by: Actor = SYSTEM,
    ) -> Device:
        """Add a device of a team by hand; it is ``provisioning`` until a driver reaches it.

        Raises CapReached when the team has ``cap`` registered devices already.
        """
        device_id = new_id()

        def job(conn: Connection) -> Device:
            owned = select(func.count()).where(
                devices.c.team_id == team_id,
                devices.c.by_hand.is_(True),
                devices.c.status != DeviceStatus.RETIRED,
            )
            if cap is not None and conn.execute(owned).scalar_one() >= cap:
                raise CapReached(f"the team's plan allows {cap} registered devices", cap=cap)
            conn.execute(
                insert(devices).values(
                    **_new_device(device_id, self._host, name),
                    driver=None,
                    identity=device_id,
                    model=model,
                    firmware_version=firmware_version,
                    capabilities=list(capabilities),
                    facts={},
                    metadata=metadata,
                    status=DeviceStatus.PROVISIONING,
                    team_id=team_id,
                    made_to_order=False,
                    by_hand=True,
                )
            )
            row = device_row(conn, device_id)
            device_event(conn, row, "registered", by=by, audit=True)
            return device_from(row)

        return await self._store.write(job)

    async def enrol(
        self,
        *,
        team_id: str,
        driver: str,
        identity: str,
        platform: str,
        cap: int | None = None,
        by: Actor = SYSTEM,
    ) -> Device:
        """Return the team's device with this identity, which comes to the lab by itself through ``driver``.

        One that was registered by hand is it when its id is the identity, or its metadata has it as ``udid``. A new one
        is ``provisioning`` until the driver sees it. Raises CapReached when the team has ``cap`` devices already,
        Conflict for a device of another team and for one that was retired.
        """
        device_id = new_id()

        def job(conn: Connection) -> Device:
            where = (devices.c.driver == driver, devices.c.host == self._host, devices.c.identity == identity)
            row = conn.execute(select(devices).where(*where)).one_or_none()
            if row is not None:
                if row.team_id != team_id:
                    raise Conflict(f"the device {identity!r} belongs to another team")
                if row.status == DeviceStatus.RETIRED:
                    raise Conflict(f"the device {identity!r} was retired, and does not come back")
                return device_from(row)
            mine = conn.execute(
                select(devices).where(devices.c.team_id == team_id, devices.c.status != DeviceStatus.RETIRED)
            ).all()
            for row in mine:
                if row.driver is None and identity in (row.id, (row.metadata or {}).get("udid")):
                    _set(conn, row, driver=driver, identity=identity, platform=platform, host=self._host)
                    device_event(conn, row, "enrolled", by=by, audit=True)
                    return device_from(device_row(conn, row.id))
            if cap is not None and sum(not row.made_to_order for row in mine) >= cap:
                raise CapReached(f"the team's plan allows {cap} devices", cap=cap)
            conn.execute(
                insert(devices).values(
                    **_new_device(device_id, self._host, identity[:120]),
                    driver=driver,
                    identity=identity,
                    platform=platform,
                    capabilities=[],
                    facts={},
                    status=DeviceStatus.PROVISIONING,
                    team_id=team_id,
                    made_to_order=False,
                    by_hand=False,
                )
            )
            row = device_row(conn, device_id)
            device_event(conn, row, "enrolled", by=by, audit=True)
            return device_from(row)

        return await self._store.write(job)

    async def retire(self, device_id: str, by: Actor = SYSTEM) -> Device:
        """Take a device out of the lab for good. A run on it ends as with a lost device; runs that ask for it fail.

        Retiring twice is fine.
        """

        def job(conn: Connection) -> Device:
            row = device_row(conn, device_id)
            if row.status != DeviceStatus.RETIRED:
                _set(conn, row, status=DeviceStatus.RETIRED, reason=f"retired by {by.actor}")
                device_event(conn, row, "retired", by=by, audit=True)
                fail_wanting(conn, device_id, f"the requested device {row.name!r} was retired")
            return device_from(device_row(conn, device_id))

        return await self._store.write(job)

    async def quarantine(self, device_id: str, reason: str, by: Actor = SYSTEM) -> Device:
        """Keep a device from further leases until it is rearmed. A run that is on it goes on."""

        def job(conn: Connection) -> Device:
            row = device_row(conn, device_id)
            _set(conn, row, quarantine=reason)
            device_event(conn, row, "quarantined", by=by, audit=True, reason=reason)
            return device_from(device_row(conn, device_id))

        return await self._store.write(job)

    async def rearm(self, device_id: str, by: Actor = SYSTEM) -> Device:
        """End a device's quarantine. Its driver cleans it before the next lease.

        Raises Conflict when it is not in quarantine.
        """

        def job(conn: Connection) -> Device:
            row = device_row(conn, device_id)
            if row.quarantine is None:
                raise Conflict(f"the device {row.name!r} is not in quarantine")
            _set(conn, row, quarantine=None, unclean=row.driver is not None)
            device_event(conn, row, "rearmed", by=by, audit=True)
            return device_from(device_row(conn, device_id))

        return await self._store.write(job)


class Seen(msgspec.Struct, frozen=True):
    """What became of a sighting: the device's row, and whether work may go there now."""

    identity: str
    device_id: str
    usable: bool
    unclean: bool
    quarantined: bool
    reason: str | None


def visible(team_id: str) -> ColumnElement[bool]:
    """The condition that a team sees a device: its own, or one that the lab shares."""
    return or_(devices.c.team_id.is_(None), devices.c.team_id == team_id)


def device_row(conn: Connection, device_id: str) -> Row[Any]:
    """Return the row of a device. Raises NotFound."""
    row = conn.execute(select(devices).where(devices.c.id == device_id)).one_or_none()
    if row is None:
        raise NotFound(f"there is no device {device_id}")
    return row


def device_from(row: Row[Any]) -> Device:
    """Make the value of a row of devices."""
    values = {name: value for name, value in row._asdict().items() if name not in _HIDDEN}
    values["capabilities"] = tuple(values["capabilities"])
    values["status"] = DeviceStatus(values["status"])
    return Device(**values)


def fact_of(row: Row[Any]) -> DeviceFact:
    """Make the driver's view of a row of devices."""
    return DeviceFact(
        identity=row.identity,
        platform=row.platform,
        name=row.name,
        status=DeviceStatus(row.status),
        model=row.model,
        firmware_version=row.firmware_version,
        capabilities=tuple(row.capabilities),
        facts=row.facts,
        reason=row.reason,
        handle=row.handle,
    )


def facts_of(fact: DeviceFact) -> dict[str, Any]:
    """The columns that a driver's fact decides."""
    return {
        "platform": fact.platform,
        "name": fact.name,
        "model": fact.model,
        "firmware_version": fact.firmware_version,
        "capabilities": list(fact.capabilities),
        "facts": fact.facts,
        "status": str(fact.status),
        "reason": fact.reason,
        "handle": fact.handle,
    }


def device_event(
    conn: Connection, row: Row[Any], what: str, *, by: Actor = SYSTEM, audit: bool = False, **data: Any
) -> None:
    """Append the event ``device.WHAT``."""
    told = {"driver": row.driver, "host": row.host, "identity": row.identity, "name": row.name, **data}
    append(
        conn,
        f"device.{what}",
        subject=("device", row.id),
        team_id=row.team_id,
        actor=by.actor,
        data=told,
        audit=audit,
        ip=by.ip,
        user_agent=by.user_agent,
    )


def add_made_device(
    conn: Connection, *, device_id: str, driver: str, host: str, identity: str, name: str, team_id: str | None
) -> None:
    """Add the row of a device that is about to be made for a lease. It holds the lease's fence already."""
    conn.execute(
        insert(devices).values(
            **{**_new_device(device_id, host, name), "fence": 1},
            driver=driver,
            identity=identity,
            capabilities=[],
            facts={},
            status=DeviceStatus.PROVISIONING,
            team_id=team_id,
            made_to_order=True,
            by_hand=False,
        )
    )


def record(
    conn: Connection, host: str, driver: str, sightings: Sequence[Sighting], team_id: str | None = None
) -> list[Seen]:
    """Write what a driver has seen, and only what is new, with an event for each change. New devices are the team's."""
    return [seen for each in sightings if (seen := _record(conn, host, driver, each, team_id)) is not None]


def lose(conn: Connection, row: Row[Any], reason: str | None) -> None:
    """Note that a device is away."""
    if row.status not in (DeviceStatus.OFFLINE, DeviceStatus.RETIRED):
        _set(conn, row, status=DeviceStatus.OFFLINE, reason=reason)
        device_event(conn, row, "lost", reason=reason)


def _record(conn: Connection, host: str, driver: str, sighting: Sighting, team_id: str | None) -> Seen | None:
    fact = sighting.device
    where = (devices.c.driver == driver, devices.c.host == host, devices.c.identity == fact.identity)
    row = conn.execute(select(devices).where(*where)).one_or_none()
    if row is None:
        if sighting.kind == "lost" or fact.status is DeviceStatus.RETIRED:
            return None
        conn.execute(
            insert(devices).values(
                **{**_new_device(new_id(), host, fact.name), **facts_of(fact)},
                driver=driver,
                identity=fact.identity,
                team_id=team_id,
                made_to_order=False,
                by_hand=False,
            )
        )
        row = conn.execute(select(devices).where(*where)).one()
        device_event(conn, row, "seen", status=row.status)
        return _seen(row)
    if row.status == DeviceStatus.RETIRED:
        return _seen(row)  # gone for good, whatever its driver says
    if sighting.kind == "lost":
        lose(conn, row, fact.reason)
    else:
        _update(conn, row, fact)
    return _seen(conn.execute(select(devices).where(*where)).one())


def _update(conn: Connection, row: Row[Any], fact: DeviceFact) -> None:
    values = facts_of(fact)
    changed = sorted(name for name, value in values.items() if getattr(row, name) != value)
    if not changed:
        return
    if fact.status is DeviceStatus.OFFLINE and row.status != DeviceStatus.OFFLINE:
        what = "lost"
    elif fact.status is DeviceStatus.RETIRED:
        what = "retired"
    elif row.status == DeviceStatus.OFFLINE and "status" in changed:
        what = "seen"
    else:
        what = "changed"
    _set(conn, row, **values)
    if changed != ["handle"]:
        device_event(conn, row, what, status=fact.status, changed=changed, reason=fact.reason)
    if what == "retired":
        fail_wanting(conn, row.id, f"the requested device {row.name!r} is gone for good")


def _seen(row: Row[Any]) -> Seen:
    usable = row.status in (DeviceStatus.READY, DeviceStatus.PROVISIONING)
    return Seen(row.identity, row.id, usable, row.unclean, row.quarantine is not None, row.reason)


def _set(conn: Connection, row: Row[Any], **values: Any) -> None:
    conn.execute(update(devices).where(devices.c.id == row.id).values(last_seen_at=utcnow(), **values))


def _new_device(device_id: str, host: str, name: str) -> dict[str, Any]:
    now: datetime = utcnow()
    return {
        "id": device_id,
        "host": host,
        "name": name,
        "unclean": False,
        "fence": 0,
        "created_at": now,
        "last_seen_at": None,
    }
