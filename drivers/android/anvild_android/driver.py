"""The driver: android devices behind a real adb server."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NoReturn

import msgspec
import trio

from anvild.sdk import (
    CapabilityMissing,
    Description,
    DeviceFact,
    DeviceLost,
    DeviceStatus,
    Driver,
    DriverContext,
    Health,
    HealthState,
    Lease,
    Mend,
    NotFound,
    Recovery,
    RecoveryState,
    Rehearsal,
    Remedy,
    Report,
    Session,
    Sighting,
    Unavailable,
)
from anvild.sdk.background import Background
from anvild.sdk.usb import UsbDevice, watch_usb
from anvild.sdk.usb_power import can_power_cycle, power_cycle

from .adb.child import ServerChild, find_adb
from .adb.client import AdbServer
from .cleaning import clean
from .fleet import PLATFORM, Fleet
from .session.power import restart
from .session.session import OFFERED, AndroidSession
from .session.tagged import KEPT_OUTPUT
from .settings import AndroidSettings
from .simulation import Simulation

__all__ = ["AndroidDriver"]

NO_ADB = "there is no adb program: install the package adb, or name the program in the setting drivers.android.adb"
MEND_SECONDS = 60.0
PLUG_SECONDS = 25.0
LIST_SECONDS = 10.0


class AndroidDriver(Driver, Mend, Rehearsal):
    """Finds the devices of an adb server, its own or a given one, and opens sessions on them."""

    name = "android"
    settings_type = AndroidSettings
    context: DriverContext[AndroidSettings]

    def __init__(self, context: DriverContext[AndroidSettings]) -> None:
        super().__init__(context)
        self._background = Background(self._note)
        self._child: ServerChild | None = None
        self._version: int | None = None
        self._fleet: Fleet | None = None
        self._simulation = Simulation(context.settings.simulate, context.cache_dir / "simulated")

    def _note(self, error: Exception) -> None:
        self.context.log("error", "a task of the driver ended", error=repr(error))

    # life

    async def start(self) -> None:
        settings = self.context.settings
        await self._background.open()
        server = await self._find_server()
        self._version = await server.version()
        self._fleet = Fleet(server, network=settings.network, capabilities=OFFERED, log=self.context.log)
        self._background.start_soon(self._fleet.run)
        with trio.move_on_after(LIST_SECONDS):
            while self._fleet.problem is not None:
                await self._fleet.changes()
        for address in settings.network.values():
            self._background.start_soon(self._fleet.keep_attached, address)
        await self._simulation.start(self._background, self._fleet)
        self._background.start_soon(self._heed_usb)

    async def _heed_usb(self) -> NoReturn:
        """Have the server look again at what it holds for away when something was plugged in or out."""

        known = False

        async def look(_: Sequence[UsbDevice]) -> None:
            nonlocal known
            if not known:  # what is there at the start is no change
                known = True
                return
            try:
                await self.fleet.look_again()
            except Unavailable as error:
                self.context.log("debug", "the adb server does not look again", reason=error.message)

        await watch_usb(look)

    async def _find_server(self) -> AdbServer:
        settings = self.context.settings
        if settings.server is not None:
            host, _, port = settings.server.rpartition(":")
            return AdbServer(host, int(port))
        program = await trio.to_thread.run_sync(find_adb, settings.adb)
        if program is None:
            raise Unavailable(NO_ADB)
        self._child = ServerChild(program, self.context.state_dir, self.context.log)
        await self._background.start(self._child.run)
        return self._child.server

    async def stop(self) -> None:
        await self._background.close()
        self._fleet = self._child = None

    async def describe(self) -> Description:
        return Description(
            name=self.name,
            version=importlib.metadata.version("anvild-driver-android"),
            platforms=(PLATFORM,),
            capabilities=(*OFFERED, Mend.capability, Rehearsal.capability),
            health=await self._examine(),
            facts=self._facts(),
        )

    async def _examine(self) -> Health:
        settings = self.context.settings
        if settings.server is None and await trio.to_thread.run_sync(find_adb, settings.adb) is None:
            return Health(state=HealthState.ABSENT, reason=NO_ADB)
        if self._fleet is None:
            return Health(state=HealthState.HEALTHY, reason="adb is there")
        if self._fleet.problem is not None:
            return Health(state=HealthState.UNHEALTHY, reason=self._fleet.problem)
        waiting = self._fleet.waiting()
        if waiting:
            reason = f"these devices in the network do not let the lab in, so nobody knows them: {', '.join(waiting)}"
            return Health(state=HealthState.DEGRADED, reason=reason)
        return Health(state=HealthState.HEALTHY, reason="the adb server answers")

    def _facts(self) -> dict[str, str]:
        facts = {"exec_kept_output": str(KEPT_OUTPUT), "users": "shell"}
        if self._fleet is not None:
            facts["adb_server"] = f"{self._fleet.server.host}:{self._fleet.server.port}"
        if self._version is not None:
            facts["adb_protocol"] = str(self._version)
        if self._child is not None:
            facts["adb_restarts"] = str(self._child.restarts)
        return facts

    @property
    def fleet(self) -> Fleet:
        """The devices. Raises Unavailable before the driver has been started."""
        if self._fleet is None:
            raise Unavailable("the driver has not been started")
        return self._fleet

    # devices

    async def watch(self, report: Report) -> NoReturn:
        fleet = self.fleet
        told: dict[str, DeviceFact] = {}
        while True:
            present = fleet.facts()
            for identity in told.keys() - present.keys():
                fact = told.pop(identity)
                gone = msgspec.structs.replace(fact, status=DeviceStatus.OFFLINE, reason="it is not attached any more")
                await report(Sighting(kind="lost", device=gone))
            for identity, fact in present.items():
                if told.get(identity) != fact:
                    told[identity] = fact
                    await report(Sighting(kind="seen", device=fact))
            if fleet.facts() == told:
                await fleet.changes()

    def open(self, device: DeviceFact, lease: Lease) -> AbstractAsyncContextManager[Session]:
        return self._open(device)

    @contextlib.asynccontextmanager
    async def _open(self, device: DeviceFact) -> AsyncIterator[Session]:
        fleet = self.fleet
        fact = fleet.facts().get(device.identity)
        if fact is None:
            raise DeviceLost(f"the device {device.identity} is not attached")
        if fact.status is not DeviceStatus.READY:
            raise Unavailable(f"the device {device.identity}: {fact.reason}")
        session = AndroidSession(fact, fleet.link(device.identity), fleet)
        try:
            yield session
        finally:
            for error in await session.close():
                if not isinstance(error, DeviceLost):
                    self.context.log("warning", "session not closed", identity=device.identity, error=error.message)

    async def clean(self, device: DeviceFact) -> None:
        await clean(self.fleet.link(device.identity))

    async def recover(self, handle: str) -> Recovery:
        try:
            identity = msgspec.json.decode(handle, type=str)
        except msgspec.DecodeError:
            return Recovery(state=RecoveryState.LOST, reason="the handle is not one of this driver")
        with trio.move_on_after(MEND_SECONDS / 3):
            await self.fleet.wait_ready(identity)
        fact = self.fleet.facts().get(identity)
        if fact is None or fact.status not in (DeviceStatus.READY, DeviceStatus.PROVISIONING):
            reason = fact.reason if fact is not None and fact.reason else f"the device {identity} is not attached"
            return Recovery(state=RecoveryState.LOST, reason=reason)
        return Recovery(state=RecoveryState.RUNNING, reason="the device is attached", device=fact)

    # mending

    async def remedies(self, identity: str) -> Sequence[Remedy]:
        self._known(identity)
        restarting = (Remedy.RESTART_HELPER,) if self._child is not None else ()
        port = self._port(identity)
        switched = port is not None and await trio.to_thread.run_sync(can_power_cycle, port)
        return (Remedy.RECONNECT, *restarting, *((Remedy.POWER_CYCLE,) if switched else ()), Remedy.REBOOT)

    def _port(self, identity: str) -> str | None:
        """The USB port that a device is at, or was; None for one of the network."""
        fact = self.fleet.facts().get(identity)
        return None if fact is None else fact.facts.get("usb_path")

    def _known(self, identity: str) -> None:
        if not self.fleet.knows(identity):
            raise NotFound(f"there is no device {identity!r}")

    async def mend(self, identity: str, remedy: Remedy) -> str:
        if remedy not in await self.remedies(identity):
            raise CapabilityMissing(f"the driver cannot {remedy} the device {identity}")
        if remedy is Remedy.REBOOT:
            await restart(self.fleet, identity)
            return "the device was restarted"
        with self.fleet.restarting(identity, "its connection is being mended"):
            match remedy:
                case Remedy.RECONNECT:
                    done = await self._reconnect(identity)
                case Remedy.POWER_CYCLE:
                    done = await self._power_cycle(identity)
                case _:
                    done = await self._restart_server()
            with trio.move_on_after(MEND_SECONDS) as waiting:
                await self.fleet.wait_ready(identity)
        if waiting.cancelled_caught:
            raise Unavailable(f"{done}, and the device {identity} still does not answer")
        return done

    async def _reconnect(self, identity: str) -> str:
        await self.fleet.reconnect(identity)
        return "the adb server took the device up again"

    async def _power_cycle(self, identity: str) -> str:
        port = self._port(identity)
        if port is None:
            raise Unavailable(f"the device {identity} is at no USB port now")
        await power_cycle(port)
        return f"the USB port {port} was switched off and on"

    async def _restart_server(self) -> str:
        assert self._child is not None
        await self._child.restart()
        return "the adb server was restarted"

    # simulated devices

    async def unplug(self, identity: str) -> None:
        fleet = self.fleet
        before = fleet.connections(identity)
        await self._simulation.device(identity, fleet).unplug()
        await fleet.wait_gone(before)

    async def plug(self, identity: str) -> None:
        await self._simulation.device(identity, self.fleet).plug()
        self.fleet.kick()
        with trio.move_on_after(PLUG_SECONDS) as waiting:
            await self.fleet.wait_ready(identity)
        if waiting.cancelled_caught:
            raise Unavailable(f"the simulated device {identity} did not come back within {PLUG_SECONDS:g} s")
