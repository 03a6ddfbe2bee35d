"""What a driver reports of its devices, checked, and written in batches; only real changes are written."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import msgspec
import trio
from sqlalchemy import Connection, select

from anvild.core.allowance import Allowance
from anvild.core.logging import get_logger
from anvild.core.store import Store
from anvild.sdk import (
    AnvilError,
    DeviceFact,
    DeviceStatus,
    DriverFault,
    InvalidArgument,
    ResourceExhausted,
    Sighting,
)

from .devices import lose, record
from .persist import persist
from .tables import devices

__all__ = ["Sightings"]

BATCH = 256
MAX_DEVICES = 10_000
"""How many different devices a driver may report within a day."""

DAY = 86_400.0
REPORTS_PER_SECOND = 30
REPORTS_AT_ONCE = 1000
"""How many reports of devices that are known already are taken at once, and a second after that. A driver that reports
more is held back, so that it takes no time and no room from the rest of the lab."""

NEW_PER_SECOND = 50
NEW_AT_ONCE = 2500
"""The same for the first reports of devices."""

ABSENT_AFTER = 15.0
"""Seconds a watch may take to report all that is there; known devices that it has not named by then are away."""

log = get_logger(__name__)


class _Report(msgspec.Struct, eq=False):
    sighting: Sighting
    taken: trio.Event


class Sightings:
    """The devices that one driver sees; those that are new belong to ``team_id``, or to all.

    ``present`` maps the identity of each usable one to its id.
    """

    def __init__(
        self,
        driver: str,
        *,
        host: str,
        team_id: str | None = None,
        store: Store,
        fault: Callable[[str, BaseException], DriverFault],
        on_change: Callable[[], None],
        on_lost: Callable[[str, str], None],
    ) -> None:
        self.present: dict[str, str] = {}
        self.on_unclean: Callable[[], None] = lambda: None
        self._driver = driver
        self._host = host
        self._team_id = team_id
        self._store = store
        self._fault = fault
        self._on_change = on_change
        self._on_lost = on_lost
        self.held_back = 0
        self._known: dict[str, DeviceFact] = {}
        self._met: dict[str, float] = {}
        self._pace = Allowance(REPORTS_PER_SECOND, REPORTS_AT_ONCE)
        self._new_pace = Allowance(NEW_PER_SECOND, NEW_AT_ONCE)
        self._send, self._receive = trio.open_memory_channel[_Report](BATCH)
        self._seen = trio.Event()

    async def report(self, sighting: Sighting) -> None:
        """Take a report from the driver; returns when it is written. Raises InvalidArgument for one that lies, and
        ResourceExhausted for one device too many.

        A repetition of what is known is not written.
        """
        try:
            checked = self._check(sighting)
            pace = self._new_pace if self._meet(checked.device.identity) else self._pace
            self.held_back += await pace.wait()
        except AnvilError:
            self.held_back += await self._pace.wait()
            raise
        if checked.kind == "seen" and self._known.get(checked.device.identity) == checked.device:
            return
        report = _Report(checked, trio.Event())
        await self._send.send(report)
        await report.taken.wait()

    def forget(self) -> None:
        """The driver is gone: nothing is known to be present any more."""
        self.present.clear()
        self._known.clear()
        with contextlib.suppress(trio.WouldBlock):
            while True:
                self._receive.receive_nowait()  # from a watch that has ended

    async def wait_present(self, identity: str) -> None:
        """Return when the device with this identity is there."""
        while identity not in self.present:
            await self._seen.wait()

    async def run(self) -> None:
        """Write reports until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._settle_absent)
            while True:
                batch = [await self._receive.receive()]
                while len(batch) < BATCH:
                    try:
                        batch.append(self._receive.receive_nowait())
                    except trio.WouldBlock:
                        break
                await self._write([each.sighting for each in batch])
                for each in batch:
                    each.taken.set()

    async def _write(self, sightings: Sequence[Sighting]) -> None:
        seen = await persist(self._store, lambda conn: record(conn, self._host, self._driver, sightings, self._team_id))
        for sighting in sightings:
            if sighting.kind == "seen":
                self._known[sighting.device.identity] = sighting.device
            else:
                self._known.pop(sighting.device.identity, None)
        for each in seen:
            if each.usable:
                self.present[each.identity] = each.device_id
            else:
                self.present.pop(each.identity, None)
                self._on_lost(each.device_id, each.reason or "its driver reports it lost")
        if any(each.usable and each.unclean and not each.quarantined for each in seen):
            self.on_unclean()
        present, self._seen = self._seen, trio.Event()
        present.set()
        self._on_change()

    async def _settle_absent(self) -> None:
        """Note as away what the store takes for present and the watch has not named."""
        await trio.sleep(ABSENT_AFTER)
        await self.note_absent("its driver does not see it")

    async def note_absent(self, reason: str) -> None:
        """Note as away, for this reason, what the store takes for present and is not, unless it was made to order."""
        present = frozenset(self.present.values())

        def job(conn: Connection) -> list[str]:
            rows = conn.execute(
                select(devices).where(
                    devices.c.driver == self._driver,
                    devices.c.host == self._host,
                    devices.c.made_to_order.is_(False),
                    devices.c.status.in_([DeviceStatus.READY, DeviceStatus.PROVISIONING]),
                )
            ).all()
            absent = [row for row in rows if row.id not in present]
            for row in absent:
                lose(conn, row, reason)
            return [row.id for row in absent]

        for device_id in await persist(self._store, job):
            self._on_lost(device_id, reason)

    def _check(self, sighting: object) -> Sighting:
        """Check the types, since a driver may hand over anything. Raises InvalidArgument and counts the fault."""
        try:
            checked = msgspec.convert(msgspec.to_builtins(sighting), Sighting)
        except (msgspec.ValidationError, TypeError) as error:
            self._fault("report", error)
            raise InvalidArgument(f"this is no sighting: {error}") from error
        known = self._known.get(checked.device.identity)
        if known is not None and known.platform != checked.device.platform:
            text = f"the identity {known.identity!r} belongs to a device of the platform {known.platform!r} already"
            self._fault("report", ValueError(text))
            raise InvalidArgument(text)
        return checked

    def _meet(self, identity: str) -> bool:
        """Note that a device was reported, and say whether that is for the first time. Raises ResourceExhausted for
        one that is too many."""
        now = trio.current_time()
        new = self._met.pop(identity, None) is None
        if new and len(self._met) >= MAX_DEVICES:
            oldest = next(iter(self._met))
            if now - self._met[oldest] < DAY:
                text = f"it may report {MAX_DEVICES} different devices a day"
                self._fault("report", ValueError(text))
                raise ResourceExhausted(text)
            del self._met[oldest]
        self._met[identity] = now
        return new
