"""Leases that people hold: a device by hand, for a time or for the length of a session."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio
from sqlalchemy import Connection, select

from anvild.core.errors import Conflict
from anvild.core.ids import new_id
from anvild.core.logging import get_logger
from anvild.core.store import Store
from anvild.sdk import (
    AnvilError,
    DeadlineExceeded,
    DeviceFact,
    DeviceLost,
    DeviceRequest,
    DeviceStatus,
    NotFound,
    Session,
    Unavailable,
    WrongState,
)

from .claims import Supply, free_slot
from .devices import device_from, device_row, fact_of
from .execution import GRACE_SECONDS, Release
from .leases import Holder, active_lease, grant, grant_slot, lasts, lease_from, tell_of
from .persist import persist
from .tables import leases
from .tenure import Tenure
from .values import Actor, Device, LeaseInfo

__all__ = ["Holding", "Leases"]

PAUSE_SECONDS = 1.0
"""How long after a driver that is there did not answer it is asked again."""

log = get_logger(__name__)


class Holding:
    """One lease of a person in this process, from its grant to its release.

    ``away`` is why the driver of the device is away, None while it is there. A lease that lasts until it is released
    waits for its driver; any other ends.
    """

    def __init__(
        self,
        lease: LeaseInfo,
        tenure: Tenure,
        *,
        make: DeviceRequest | None,
        store: Store,
        release: Release,
        away: str | None = None,
    ) -> None:
        self.tenure = tenure
        self.away = away
        self.ready = trio.Event()
        self.failed: AnvilError | None = None
        self.ended = trio.Event()
        self._make = make
        self._store = store
        self._release = release
        self._over = trio.Event()
        self._reason = "released"
        self._nursery: trio.Nursery | None = None
        self._making = trio.CancelScope()
        self._waiting = trio.CancelScope()
        self._turn = trio.Lock()
        self._moving = False

    @property
    def lease(self) -> LeaseInfo:
        """The lease as it is now."""
        return self.tenure.lease

    def let_go(self, reason: str) -> None:
        """End the lease; the device is cleaned behind this call."""
        if not self._over.is_set():
            self._reason = reason
            self._over.set()

    def device_lost(self, reason: str) -> None:
        """The device has gone. One that was put aside is told of as away, and has not gone."""
        if self.tenure.aside:
            return
        self.tenure.lost = reason
        self.let_go(DeviceLost.code)

    def driver_gone(self, reason: str) -> None:
        """The driver is taken away from its work."""
        if not lasts(self.lease) or self._nursery is None or not self.ready.is_set():
            self.let_go(f"driver_fault: {reason}")
        elif self.away is None and not self._over.is_set():
            self.away = reason
            self._nursery.start_soon(self._wait_for_driver)

    async def run(self) -> None:
        """Hold the lease to its end. Cancelled only when the daemon stops."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await self._hold(nursery)
                nursery.cancel_scope.cancel()
        finally:
            self._nursery = None
        self.ended.set()

    async def _hold(self, nursery: trio.Nursery) -> None:
        nursery.start_soon(self._prepare)
        if self.away is not None:
            nursery.start_soon(self._wait_for_driver)
        duration = self.lease.duration
        with trio.move_on_after(float("inf") if duration is None else duration) as scope:
            await self._over.wait()
        if scope.cancelled_caught:
            self._reason = "expired"
            self._over.set()
        # What is being made is left off before it is destroyed, or it might come to be after that.
        self._making.cancel()
        self._waiting.cancel()
        with trio.move_on_after(GRACE_SECONDS):
            await self.ready.wait()
        fate = await self.tenure.finish()
        await self._release(self.lease, fate, self._reason)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """Open a session under this lease. Raises what the driver says, Unavailable while it is away, WrongState while
        the device is aside, and Conflict once the lease has ended."""
        await self.usable()
        if self._nursery is None or self._over.is_set():
            raise Conflict("the lease has ended")
        self._check_there()
        if self._moving or self.tenure.aside:
            raise WrongState(f"the device {self.tenure.fact.name!r} is put aside: resume it first")
        opened = await self.tenure.open(self._nursery, lambda error: self.device_lost(error.message))
        assert opened.session is not None
        try:
            yield opened.session
        finally:
            await opened.close()

    async def usable(self) -> None:
        """Return when the device has been made. Raises why it has not."""
        await self.ready.wait()
        if self.failed is not None:
            raise self.failed

    async def suspend(self) -> None:
        """Put the device aside; its sessions end. Raises as :meth:`Tenure.suspend`. Idempotent."""
        await self.usable()
        async with self._turn:
            self._check_there()
            if self.tenure.aside:
                return
            self._moving = True
            try:
                await self.tenure.suspend()
            finally:
                self._moving = False

    async def resume(self) -> None:
        """Bring the device back from aside. Raises as :meth:`Tenure.resume`. Idempotent."""
        await self.usable()
        async with self._turn:
            self._check_there()
            if self.tenure.aside:
                await self.tenure.resume()

    def _check_there(self) -> None:
        if self.away is not None:
            raise Unavailable(f"the driver of the device {self.tenure.fact.name!r} is away: {self.away}")

    async def _wait_for_driver(self) -> None:
        """Wait until the driver is back, and go on with the device if it has outlived that; else end the lease."""
        reason = str(self.away)
        with trio.CancelScope() as self._waiting:
            await persist(self._store, lambda conn: tell_of(conn, self.lease, "away", reason=reason))
            await self.tenure.close_sessions()
            alive, reason = await self._survived()
            if not alive:
                self.tenure.lost = reason
                self.let_go(DeviceLost.code)
                return
            self.away = None
            await persist(self._store, lambda conn: tell_of(conn, self.lease, "back"))

    async def _survived(self) -> tuple[bool, str]:
        """Wait until the driver is back and has said whether the device runs on, and why it is thought so."""
        hosted = self.tenure.hosted
        while True:
            await hosted.wait_ready()
            try:
                async with self._turn:
                    alive, reason = await self.tenure.survived()
                    if alive:
                        await self.tenure.fit_slot()
            except (Unavailable, DeadlineExceeded) as error:
                log.info("lease_waits", lease=self.lease.id, reason=error.message)
                await trio.sleep(PAUSE_SECONDS)
            except AnvilError as error:
                return False, error.message
            else:
                if not alive or hosted.blocked is None:
                    return alive, reason

    async def _prepare(self) -> None:
        try:
            with self._making:
                if self._make is not None:
                    await self.tenure.make(self._make)
        except AnvilError as error:
            self.failed = error
            self.let_go(error.code)
        if self._making.cancelled_caught:
            self.failed = Conflict(f"the lease ended before the device was made: {self._reason}")
        self.ready.set()


class Leases:
    """The leases that people hold on devices of this host. Whether somebody may is the caller's question."""

    def __init__(
        self,
        store: Store,
        *,
        supply: Callable[[], Supply],
        start: Callable[[LeaseInfo, DeviceFact, DeviceRequest | None], Holding],
        holdings: Callable[[], list[Holding]],
        settled: Callable[[str | None], Awaitable[None]],
        changed: Callable[[], None],
    ) -> None:
        """``settled`` waits until it is known what a device (or, for None, every driver) is good for after a start;
        ``changed`` is called when a slot has become free."""
        self._store = store
        self._supply = supply
        self._start = start
        self._holdings = holdings
        self._settled = settled
        self._changed = changed

    async def acquire(self, device_id: str, by: Actor, *, duration: float | None) -> LeaseInfo:
        """Lease a device for ``duration`` seconds, or until it is released (None).

        It ends early when the device is lost. A restart of the daemon gives a lease with a duration its full duration
        again, and ends one without; one of ``inf`` seconds lasts over restarts, and while the driver is away, until it
        is released. Raises NotFound, Conflict when somebody else holds the device or it is not ready.
        """
        await self._settled(device_id)
        return (await self._acquire(device_id, by, duration)).lease

    async def make(self, driver: str, request: DeviceRequest, by: Actor, *, duration: float | None) -> Device:
        """Have a device made, with an identity of the engine's own, and lease it; it is destroyed when the lease ends.

        Returns when it takes verbs. Raises ResourceExhausted when the driver has no free slot, and what it raises.
        """
        holding = await self.begin(driver, request, by, duration=duration)
        await holding.usable()
        return await self._store.read(lambda conn: device_from(device_row(conn, holding.lease.device_id)))

    async def begin(
        self,
        driver: str,
        request: DeviceRequest,
        by: Actor,
        *,
        duration: float | None,
        identity: str | None = None,
        also: Callable[[Connection, LeaseInfo], None] | None = None,
    ) -> Holding:
        """As :meth:`make`, and return when the slot is leased: :meth:`Holding.usable` waits for the device.

        ``identity`` is one that no device has had; None leaves it to the engine. ``also`` runs in the transaction that
        grants the lease.
        """
        await self._settled(None)
        supply = self._supply()
        offer = supply.drivers.get(driver)
        if offer is None:
            raise NotFound(f"no driver {driver!r} is loaded")
        if offer.blocked is not None:
            raise Conflict(f"the driver {driver!r} is not ready: {offer.blocked}")
        identity = identity or new_id()
        slots = offer.slots

        def job(conn: Connection) -> tuple[LeaseInfo, DeviceFact]:
            lease = grant_slot(
                conn,
                driver=driver,
                host=supply.host,
                slot=free_slot(conn, supply.host, driver, slots),
                identity=identity,
                name=request.name,
                holder=Holder(actor=by, team_id=by.team_id, duration=duration),
                incarnation=supply.incarnation,
            )
            if also is not None:
                also(conn, lease)
            return lease, fact_of(device_row(conn, lease.device_id))

        lease, fact = await self._store.write(job)
        return self._start(lease, fact, request)

    async def suspend(self, lease_id: str) -> None:
        """Put the device of a person's lease aside on disk; its sessions end and its slot becomes free.

        Idempotent. Raises NotFound, CapabilityMissing, and what the driver says; then the device goes on.
        """
        await self._holding(lease_id).suspend()
        self._changed()

    async def resume(self, lease_id: str) -> None:
        """Bring the device of a person's lease back from aside, with its memory and processes; it takes sessions again.

        Idempotent. Raises NotFound, ResourceExhausted when no slot is free, and what the driver says; then the device
        stays aside.
        """
        await self._holding(lease_id).resume()

    def away(self, lease_id: str) -> str | None:
        """Return why the driver of a person's device is away; None while it is there. Raises NotFound when the lease is
        not held here."""
        return self._holding(lease_id).away

    def aside(self, lease_id: str) -> bool:
        """Say whether a person's device is aside. Raises NotFound when the lease is not held here."""
        return self._holding(lease_id).tenure.aside

    async def settled(self, device_id: str) -> None:
        """Return when it is known what became of a device over a restart."""
        await self._settled(device_id)

    async def on(self, device_id: str) -> LeaseInfo | None:
        """Return the lease that a device is under, once it is known what became of it over a restart."""
        await self._settled(device_id)
        return await self._store.read(lambda conn: active_lease(conn, device_id))

    async def release(self, lease_id: str) -> None:
        """End a person's lease and return when the device is clean. Raises NotFound when it is not held here."""
        holding = self._holding(lease_id)
        holding.let_go("released")
        await holding.ended.wait()

    async def list(self, team_id: str | None = None) -> list[LeaseInfo]:
        """Return the active leases (of one team), of runs and of people, oldest first."""
        query = select(leases).where(leases.c.released_at.is_(None)).order_by(leases.c.granted_at)
        if team_id is not None:
            query = query.where(leases.c.team_id == team_id)
        return await self._store.read(lambda conn: [lease_from(row) for row in conn.execute(query)])

    @asynccontextmanager
    async def session(self, device_id: str, by: Actor) -> AsyncIterator[Session]:
        """A session on a device by hand: under the lease that ``by`` holds, else under one for this block alone.

        Raises as :meth:`acquire` and as the driver. Cancelling closes the session; a lease of the block ends with it,
        and the device is cleaned behind it.
        """
        await self._settled(device_id)
        held = next((each for each in self._holdings() if each.lease.device_id == device_id), None)
        if held is not None and held.lease.holder == by.actor:
            async with held.session() as session:
                yield session
            return
        holding = await self._acquire(device_id, by, None)
        try:
            async with holding.session() as session:
                yield session
        finally:
            holding.let_go("released")
            await holding.ended.wait()

    async def _acquire(self, device_id: str, by: Actor, duration: float | None) -> Holding:
        supply = self._supply()

        def job(conn: Connection) -> tuple[LeaseInfo, DeviceFact]:
            row = device_row(conn, device_id)
            if row.team_id not in (None, by.team_id) and by.team_id is not None:
                raise NotFound(f"there is no device {device_id}")
            obstacle = _not_ready(device_from(row), supply)
            if obstacle is not None:
                raise Conflict(obstacle)
            lease = grant(
                conn,
                device_id=device_id,
                driver=row.driver,
                host=supply.host,
                fence=row.fence,
                holder=Holder(actor=by, team_id=by.team_id, duration=duration),
                incarnation=supply.incarnation,
            )
            return lease, fact_of(row)

        lease, fact = await self._store.write(job)
        return self._start(lease, fact, None)

    def _holding(self, lease_id: str) -> Holding:
        for holding in self._holdings():
            if holding.lease.id == lease_id:
                return holding
        raise NotFound(f"nobody holds the lease {lease_id} here")


def _not_ready(device: Device, supply: Supply) -> str | None:
    if device.quarantine is not None:
        return f"the device {device.name!r} is in quarantine: {device.quarantine}"
    if device.status is not DeviceStatus.READY:
        return f"the device {device.name!r} is {device.status}"
    if device.host != supply.host:
        return f"the device {device.name!r} is attached to the host {device.host!r}"
    if device.unclean:
        return f"the device {device.name!r} is being cleaned"
    offer = supply.drivers.get(device.driver or "")
    if offer is None or device.id not in supply.present:
        return f"the driver of the device {device.name!r} does not see it"
    return None if offer.blocked is None else f"the driver {offer.name!r} is not ready: {offer.blocked}"
