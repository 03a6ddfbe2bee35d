"""The driver of iPhones and iPads."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from importlib.metadata import version
from typing import NoReturn

import trio

from anvild.sdk import (
    AnvilError,
    CapabilityMissing,
    Description,
    DeviceFact,
    DeviceStatus,
    Driver,
    DriverContext,
    Health,
    HealthState,
    Lease,
    Mend,
    NotFound,
    Rehearsal,
    Remedy,
    Report,
    Session,
    Unavailable,
    WrongState,
)
from anvild.sdk.background import Background
from anvild.sdk.usb import UsbDevice, watch_usb
from anvild.sdk.usb_power import can_power_cycle

from . import services
from .apps import remove_apps_but
from .files import remove_if_there
from .helper import Helper
from .inspection import DEVELOPER, NATIVE, TESTS, Inspector, needs_tunnel
from .ledger import Ledger
from .link import Link
from .power import replug, restart
from .roster import Roster
from .session import open_session
from .settings import IosSettings
from .simulator import Simulator, make_devices
from .tools import INSTALL, find_tool
from .tunnel import Tunnel
from .usbmux import MuxAddress, Usbmux
from .wire.streams import WireBroken

__all__ = ["IosDriver"]

NO_MUX = "install and start it: apt-get install usbmuxd"
NO_TOOL = f"no tool is in PATH for app tests, and from iOS 17 on for apps and screenshots: {INSTALL}"
NOT_SIMULATED = "app tests, and from iOS 17 on apps and screenshots, are not simulated"


APPLE = 0x05AC
"""The vendor number of its devices at USB."""


class IosDriver(Driver, Mend, Rehearsal):
    """Finds iPhones and iPads through usbmuxd, or simulates them."""

    name = "ios"
    settings_type = IosSettings

    def __init__(self, context: DriverContext[IosSettings]) -> None:
        super().__init__(context)
        self._settings = context.settings
        self._background = Background(self._failed)
        self._ledger = Ledger(context.state_dir / "left")
        self._tunnel = Tunnel(self._background, context.state_dir / "tunnel")
        self._simulator: Simulator | None = None
        self._mux = Usbmux(MuxAddress())
        self._inspector = Inspector(self._mux)
        self._roster = Roster(self._mux, self._inspector)

    async def start(self) -> None:
        await self._background.open()
        if self._settings.simulate:
            self._simulator = Simulator(make_devices(self._settings.simulate))
            self._mux.address = MuxAddress.parse(await self._background.start(self._simulator.run))
        else:
            try:
                self._mux.address = MuxAddress.choose(self._settings.usbmuxd)
            except ValueError as error:
                raise Unavailable(str(error)) from error
        await self._find_tool()

    async def stop(self) -> None:
        await self._background.close()
        self._simulator = None

    async def describe(self) -> Description:
        await self._find_tool()
        tool = self._inspector.tool
        facts = {"usbmuxd": "simulated" if self._settings.simulate else self._settings.usbmuxd or "the host's"}
        facts["tool"] = "none" if tool is None else str(tool)
        if self._inspector.missing:
            facts["missing"] = self._inspector.missing
        offered = [*NATIVE, *DEVELOPER, *(TESTS if tool is not None else ()), Mend.capability]
        if self._settings.simulate:
            offered.append(Rehearsal.capability)
        return Description(
            name=self.name,
            version=version("anvild-driver-ios"),
            platforms=("ios",),
            capabilities=tuple(offered),
            health=await self._health(),
            facts=facts,
        )

    async def _health(self) -> Health:
        if self._settings.simulate:
            reason = f"{self._settings.simulate} simulated devices; {self._inspector.missing or 'a tool is set'}"
            return Health(state=HealthState.HEALTHY, reason=reason)
        try:
            address = MuxAddress.choose(self._settings.usbmuxd)
            await Usbmux(address).system_id()
        except (ValueError, WireBroken) as error:
            return Health(state=HealthState.ABSENT, reason=f"{error}; {NO_MUX}")
        if self._inspector.missing:
            return Health(state=HealthState.DEGRADED, reason=self._inspector.missing)
        return Health(state=HealthState.HEALTHY, reason=f"usbmuxd at {address}, {self._inspector.tool}")

    async def _find_tool(self) -> None:
        """Look for a tool where none is known; devices are looked at again when one was found."""
        wanted = self._settings.tool
        if self._settings.simulate and wanted is None:
            self._inspector.missing = NOT_SIMULATED
            return
        if self._inspector.tool is not None:
            return
        self._inspector.tool = await find_tool(wanted)
        self._inspector.missing = ""
        if self._inspector.tool is None:
            self._inspector.missing = NO_TOOL if wanted is None else f"{wanted} cannot be run: {INSTALL}"
        else:
            self._roster.look_again()

    async def watch(self, report: Report) -> NoReturn:
        async with trio.open_nursery() as nursery:
            if not self._settings.simulate:
                nursery.start_soon(partial(watch_usb, self._plugged, vendors={APPLE}))
            await self._roster.watch(report)
        raise AssertionError("a watch does not end")

    async def _plugged(self, _: Sequence[UsbDevice]) -> None:
        """Something came or went at the ports: look now, also for a usbmuxd that may have come with it."""
        self._roster.look_again()

    def open(self, device: DeviceFact, lease: Lease) -> AbstractAsyncContextManager[Session]:
        return self._open(device)

    @contextlib.asynccontextmanager
    async def _open(self, device: DeviceFact) -> AsyncIterator[Session]:
        tunnel = self._tunnel if needs_tunnel(device.firmware_version) else None
        helper = Helper(self._inspector.tool, tunnel, self._mux.address, self._inspector.missing)
        async with open_session(
            device,
            await self._link(device.identity, device.name),
            ledger=self._ledger,
            helper=helper,
            roster=self._roster,
            cache=self.context.cache_dir,
            log_bytes=self._settings.log_bytes,
            on_error=self._failed,
        ) as session:
            yield session

    async def clean(self, device: DeviceFact) -> None:
        left = await self._ledger.read(device.identity)
        if left.apps is not None or left.paths:
            link = await self._link(device.identity, device.name)
            if left.apps is not None:
                removed = await remove_apps_but(link, left.apps)
                self.context.log("info", "cleaned", device=device.identity, apps=len(removed), paths=len(left.paths))
            async with link.verb(), link.afc(services.AFC) as afc:
                for path in left.paths:
                    await remove_if_there(afc, path)
        await self._ledger.forget(device.identity)

    async def _link(self, udid: str, name: str) -> Link:
        return Link(self._mux, await self._roster.find(udid), name)

    def _failed(self, error: Exception) -> None:
        self.context.log("error", "task_failed", error=str(error))

    # ----- Mend

    async def remedies(self, identity: str) -> Sequence[Remedy]:
        helper = (Remedy.RESTART_HELPER,) if self._tunnel.runs else ()
        port = self._known(identity).facts.get("usb_path")
        switched = port is not None and await trio.to_thread.run_sync(can_power_cycle, port)
        return (Remedy.RECONNECT, *helper, *((Remedy.POWER_CYCLE,) if switched else ()), Remedy.REBOOT)

    async def mend(self, identity: str, remedy: Remedy) -> str:
        if remedy not in await self.remedies(identity):
            raise CapabilityMissing(f"there is no remedy {remedy.value} for {identity}")
        known = self._known(identity)
        name = known.name
        try:
            if remedy is Remedy.POWER_CYCLE:
                await replug(self._mux, self._roster, identity, known.facts["usb_path"])
            link = await self._link(identity, name)
            if remedy is Remedy.REBOOT:
                await restart(link, self._roster)
                return f"{name} has been restarted and answers"
            if remedy is Remedy.RESTART_HELPER:
                await self._tunnel.restart()
            fact = await self._inspector.look(link.plugging)
        except (AnvilError, WireBroken) as error:
            raise Unavailable(f"{name} still does not answer: {error}") from error
        self._roster.look_again(identity)
        if fact.status is not DeviceStatus.READY:
            raise Unavailable(f"{name} answers, and cannot be used: {fact.reason}")
        done = (
            "has a new tunnel at its next use" if remedy is Remedy.RESTART_HELPER else "answers over a new connection"
        )
        return f"{name} {done}"

    def _known(self, identity: str) -> DeviceFact:
        fact = self._roster.facts.get(identity)
        if fact is None:
            raise NotFound(f"this driver does not know a device {identity}")
        return fact

    # ----- Rehearsal

    async def unplug(self, identity: str) -> None:
        self._simulated(identity).unplug(identity)

    async def plug(self, identity: str) -> None:
        self._simulated(identity).plug(identity)

    def _simulated(self, identity: str) -> Simulator:
        if self._simulator is not None and identity in self._simulator.devices:
            return self._simulator
        if self._simulator is None and identity in self._roster.facts:
            raise WrongState(f"{identity} is a real device: pull its cable yourself")
        raise NotFound(f"there is no simulated device {identity}")
