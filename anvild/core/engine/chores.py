"""What a driver owes to devices that are under no lease: to clean those that were left unclean, and to destroy those
made to order that nobody holds any more."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import trio
from sqlalchemy import Connection, Row, Select, and_, or_, select, update

from anvild.core.logging import get_logger
from anvild.core.store import Store
from anvild.sdk import AnvilError, DeviceLost, DeviceStatus, Unavailable

from .devices import device_event, device_row, fact_of, left
from .journal import fail_wanting
from .ladder import Ladder
from .persist import fetch, persist
from .tables import devices, leases

if TYPE_CHECKING:
    from .hosting import HostedDriver

__all__ = ["CLEAN_SECONDS", "DESTROY_SECONDS", "Chores", "tasks_of"]

CLEAN_SECONDS = 120.0
DESTROY_SECONDS = 60.0

log = get_logger(__name__)


class Chores:
    """The chores of one driver. ``done`` is called when a device has become free by one."""

    def __init__(self, hosted: HostedDriver, *, store: Store, host: str, done: Callable[[], None]) -> None:
        self.ladder = Ladder(hosted, store=store)
        self._hosted = hosted
        self._store = store
        self._host = host
        self._done = done
        self._wake = trio.Event()
        self._busy: set[str] = set()

    def wake(self) -> None:
        """Look for chores soon."""
        self._wake.set()

    async def run(self) -> None:
        """Do chores until cancelled: those that are there at the start, then whenever woken."""
        query = tasks_of(self._host, self._hosted.name)
        async with trio.open_nursery() as nursery:
            while True:
                self._wake = trio.Event()
                # A chore that ends while the rows are being read may have made them stale.
                busy = set(self._busy)
                rows = await fetch(self._store, lambda conn: conn.execute(query).all())
                for row in rows:
                    present = row.made_to_order or row.identity in self._hosted.sightings.present
                    if present and row.id not in busy | self._busy:
                        self._busy.add(row.id)
                        nursery.start_soon(self._one, row)
                await self._wake.wait()

    async def _one(self, row: Row[Any]) -> None:
        try:
            if row.made_to_order:
                await self._destroy(row)
            else:
                await self._clean(row)
        finally:
            self._busy.discard(row.id)
        self._done()

    async def _clean(self, row: Row[Any]) -> None:
        """Clean a device; one in trouble is mended first, and quarantined when nothing has helped."""
        trouble = self.ladder.take_trouble(row.id)
        while True:
            mended = False
            if trouble is not None:
                mended = await self.ladder.climb(row.id, row.identity, trouble)
                if not mended:
                    reason = trouble + self.ladder.tried(row.id)
                    await persist(self._store, partial(_quarantine, device_id=row.id, reason=reason))
                    return
            try:
                await self._hosted.call("clean", CLEAN_SECONDS, self._hosted.driver.clean, fact_of(row))
            except (DeviceLost, Unavailable) as error:
                if not mended:
                    log.info("clean_put_off", device=row.id, reason=error.message)
                    return
                trouble = f"it does not answer: {error.message}"
            except AnvilError as error:
                trouble = f"cleaning failed: {error.message}"
            else:
                await persist(self._store, partial(_cleaned, device_id=row.id))
                return

    async def _destroy(self, row: Row[Any]) -> None:
        try:
            await self._hosted.call("destroy", DESTROY_SECONDS, self._hosted.provision.destroy, row.identity)
        except AnvilError as error:
            log.warning("destroy_put_off", device=row.id, reason=error.message)
        else:
            await persist(self._store, partial(_gone, device_id=row.id))


def tasks_of(host: str, driver: str) -> Select[Any]:
    """Select the devices of a driver that are under no lease and leave it something to do.

    One made to order may be retired, by its driver or by a person, and yet take room until it is destroyed.
    """
    return select(devices).where(
        left,
        devices.c.host == host,
        devices.c.driver == driver,
        or_(
            devices.c.made_to_order.is_(True),
            and_(
                devices.c.status != DeviceStatus.RETIRED,
                devices.c.unclean.is_(True),
                devices.c.quarantine.is_(None),
            ),
        ),
        ~select(leases.c.id).where(leases.c.device_id == devices.c.id, leases.c.released_at.is_(None)).exists(),
    )


def _cleaned(conn: Connection, *, device_id: str) -> None:
    row = device_row(conn, device_id)
    conn.execute(update(devices).where(devices.c.id == device_id).values(unclean=False))
    device_event(conn, row, "changed", changed=["unclean"])


def _quarantine(conn: Connection, *, device_id: str, reason: str) -> None:
    row = device_row(conn, device_id)
    conn.execute(update(devices).where(devices.c.id == device_id).values(quarantine=reason))
    device_event(conn, row, "quarantined", reason=reason)


def _gone(conn: Connection, *, device_id: str) -> None:
    row = device_row(conn, device_id)
    conn.execute(
        update(devices).where(devices.c.id == device_id).values(status=DeviceStatus.RETIRED, handle=None, unclean=False)
    )
    if row.status != DeviceStatus.RETIRED:
        device_event(conn, row, "retired", reason="nobody holds it any more")
        fail_wanting(conn, device_id, f"the requested device {row.name!r} is gone for good")
