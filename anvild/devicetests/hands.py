"""Devices by hand: made to order and kept, taken away, used in sessions that an answer may outlive its handler with."""

from __future__ import annotations

import math
from types import TracebackType

import msgspec
import trio

from anvild.core.engine import Actor, Device, DriverInfo, Engine, LeaseInfo
from anvild.core.errors import Conflict
from anvild.core.ids import new_id
from anvild.sdk import DeviceRequest, HealthState, NotFound, Session, Unavailable

__all__ = ["Hands", "HeldSession", "Order"]

TEMPLATES_SECONDS = 60.0
PATIENCE_SECONDS = 30.0
USABLE = (HealthState.HEALTHY, HealthState.DEGRADED)


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A device that somebody wants made. ``driver`` None leaves the choice to the daemon; sizes are bytes."""

    template: str
    driver: str | None = None
    name: str | None = None
    vcpus: int | None = None
    memory: int | None = None
    disk: int | None = None


class HeldSession:
    """A session that a task of the wing holds open for an answer, which is sent after its handler has returned.

    Enter it when the sending begins; leaving it closes the session and frees the device. One that is not entered in
    time, because its client is gone, is closed.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self._entered = trio.Event()
        self._over = trio.Event()
        self._closed = trio.Event()

    async def __aenter__(self) -> Session:
        self._entered.set()
        if self._over.is_set():
            raise Unavailable("the session was closed before the answer began")
        return self.session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        await self._closed.wait()

    async def wait_closed(self) -> None:
        """Return when the session is closed."""
        await self._closed.wait()

    def let_go(self) -> None:
        """Close the session without waiting for it."""
        self._over.set()

    async def hold(self) -> None:
        """Return when the session is to be closed."""
        with trio.move_on_after(PATIENCE_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_first, self._over, nursery.cancel_scope)
                await self._entered.wait()
                nursery.cancel_scope.cancel()
        if self._entered.is_set():
            await self._over.wait()
        self._over.set()

    def closed(self) -> None:
        """The session is closed."""
        self._over.set()
        self._closed.set()


async def _first(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


class Hands:
    """What people do with devices by hand. Whether somebody may is the caller's question."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Hold sessions until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    async def open(self, device_id: str, by: Actor) -> HeldSession:
        """Open a session under a person's lease. Raises NotFound, Conflict for a busy device, and what the driver
        says. Cancelling it closes what was opened."""
        if self._nursery is None:
            raise Unavailable("the daemon is starting or stopping")
        held: HeldSession = await self._nursery.start(self._hold, device_id, by)
        return held

    async def make(self, order: Order, by: Actor) -> Device:
        """Make a device and keep it until :meth:`remove`. Returns when it takes verbs.

        Raises NotFound for an unknown driver or template, ResourceExhausted, Conflict, and what the driver says.
        """
        driver = order.driver or await self._driver_with(order.template)
        request = DeviceRequest(
            template=order.template,
            name=order.name or order.template,
            identity=new_id(),
            vcpus=order.vcpus,
            memory=order.memory,
            disk=order.disk,
        )
        return await self._engine.leases.make(driver, request, by, duration=math.inf)

    async def remove(self, device: Device, by: Actor) -> None:
        """Destroy a device that was made by hand, or retire any other one. Returns when that is done.

        Raises Conflict for a device that was made for a run.
        """
        if not device.made_to_order:
            await self._engine.devices.retire(device.id, by)
            return
        lease = await self._lease_of(device)
        if lease is None:
            return  # it is on its way out already
        if lease.run_id is not None:
            raise Conflict(f"the device {device.name!r} was made for the run {lease.run_id}: cancel the run to end it")
        await self._engine.leases.release(lease.id)

    async def take(self, device: Device, by: Actor, seconds: float) -> LeaseInfo:
        """Hold a device that was not made to order, for so long. Taking again what ``by`` holds changes nothing.

        Raises Conflict when somebody else holds it or it is not ready.
        """
        held = await self._lease_of(device)
        if held is not None and held.holder == by.actor:
            return held
        return await self._engine.leases.acquire(device.id, by, duration=seconds)

    async def give_back(self, device: Device, by: Actor) -> None:
        """End what :meth:`take` began, and return when the device is clean. Giving back what is free is no error.

        Raises Conflict for what somebody else holds, and for a device that was made by hand.
        """
        held = await self._lease_of(device)
        if held is None:
            return
        if device.made_to_order:
            raise Conflict(f"the device {device.name!r} was made to order: delete it to end it")
        if held.holder != by.actor:
            raise Conflict(f"the device {device.name!r} is held by {held.holder}")
        await self._engine.leases.release(held.id)

    def drivers(self) -> list[DriverInfo]:
        """The drivers with their health, by name."""
        return self._engine.drivers()

    async def rearm_driver(self, name: str, by: Actor) -> DriverInfo:
        """End a driver's quarantine. Raises NotFound, and Conflict when it is in none."""
        await self._engine.rearm_driver(name, by)
        return self._engine.driver(name).info

    async def _hold(
        self, device_id: str, by: Actor, task_status: trio.TaskStatus[HeldSession] = trio.TASK_STATUS_IGNORED
    ) -> None:
        held: HeldSession | None = None
        try:
            async with self._engine.session(device_id, by) as session:
                held = HeldSession(session)
                task_status.started(held)
                await held.hold()
        finally:
            if held is not None:
                held.closed()

    async def _lease_of(self, device: Device) -> LeaseInfo | None:
        leases = await self._engine.leases.list()
        return next((lease for lease in leases if lease.device_id == device.id), None)

    async def _driver_with(self, template: str) -> str:
        """Return the first driver, by name, that makes devices from this template."""
        await self._engine.drivers_started()
        known: list[str] = []
        away: list[str] = []
        for info in self._engine.drivers():
            if info.health not in USABLE:
                away.append(f"{info.name} ({info.reason})")
            elif info.slots:
                hosted = self._engine.driver(info.name)
                found = await hosted.call("templates", TEMPLATES_SECONDS, hosted.provision.templates)
                if any(each.name == template for each in found):
                    return info.name
                known += [f"{each.name} ({info.name})" for each in found]
        message = f"no driver has a template {template!r}; there are: {', '.join(known) or 'none at all'}"
        if away:
            raise Unavailable(f"{message}; not ready: {', '.join(away)}")
        raise NotFound(message)
