"""Devices by hand: made to order and kept, taken away, used in sessions under a person's lease."""

from __future__ import annotations

import math
from contextlib import AbstractAsyncContextManager

import msgspec
import trio

from anvild.core.engine import Actor, Device, DriverInfo, Engine, LeaseInfo
from anvild.core.errors import Conflict
from anvild.core.ids import new_id
from anvild.sdk import DeviceRequest, HealthState, NotFound, Session, Unavailable
from anvild.web.kept import keep_open
from anvild.web.request import ByteStream

__all__ = ["Hands", "Order"]

TEMPLATES_SECONDS = 60.0
USABLE = (HealthState.HEALTHY, HealthState.DEGRADED)


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A device that somebody wants made. ``driver`` None leaves the choice to the daemon; sizes are bytes."""

    template: str
    driver: str | None = None
    name: str | None = None
    vcpus: int | None = None
    memory: int | None = None
    disk: int | None = None


class Hands:
    """What people do with devices by hand. Whether somebody may is the caller's question."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Hold open what answers send, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def session(self, device_id: str, by: Actor) -> AbstractAsyncContextManager[Session]:
        """A session under a person's lease. Entering it raises NotFound, Conflict for a busy device, and what the
        driver says."""
        return self._engine.session(device_id, by)

    async def keep_open(self, source: ByteStream) -> ByteStream:
        """Open what an answer sends; see :func:`anvild.web.kept.keep_open`."""
        if self._nursery is None:
            raise Unavailable("the daemon is starting or stopping")
        return await keep_open(self._nursery, source)

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
