"""The driver: Macs here and behind SSH, their simulators, and the devices paired with them."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import secrets
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import NoReturn

import trio

from anvild.sdk import (
    AnvilError,
    AppTests,
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
    Power,
    Recovery,
    RecoveryState,
    Remedy,
    Report,
    Session,
    Unavailable,
)

from . import mac, paired, simulator
from .app_tests import XcodeTests
from .base import CLEAN_UP_SECONDS, REMOVE_FOLDER, HostedSession
from .mac import MacSession, RestartableMac
from .machine import DEVICE, MAC, SIMULATOR, read_handle
from .paired import PairedSession
from .place import LocalPlace, Place, refused
from .programs import KEPT
from .settings import MacosSettings
from .shell import script
from .simulator import SimulatorSession
from .ssh import SshPlace, need_ssh
from .tagged import end_all
from .touched import TouchedRecord
from .watcher import Site, Watcher

PLATFORMS = ("macos", "ios", "watchos", "tvos", "visionos")
RECOVER_SECONDS = 25.0
MEND_SECONDS = 240.0
HELPER = "com.apple.CoreSimulator.CoreSimulatorService"
END_HELPER = 'killall -9 "$1" 2>/dev/null; exec xcrun simctl list -j >/dev/null'


class MacosDriver(Driver, Mend):
    """Offers every configured Mac, its simulators, and the devices paired with it, each under its own platform."""

    name = "macos"
    settings_type = MacosSettings
    context: DriverContext[MacosSettings]

    def __init__(self, context: DriverContext[MacosSettings]) -> None:
        super().__init__(context)
        settings = context.settings
        local = sys.platform == "darwin" if settings.local is None else settings.local
        places: list[Place] = [LocalPlace()] if local else []
        places += [SshPlace(host, context.log) for host in settings.hosts]
        self.watcher = Watcher(places, context.log)
        self._record = TouchedRecord(context.state_dir / "touched.json")
        self._folder = ""
        self._open: dict[str, int] = {}

    # life

    async def start(self) -> None:
        health = self._health()
        if health.state is HealthState.ABSENT:
            raise Unavailable(health.reason)
        if self.context.settings.hosts:
            await trio.to_thread.run_sync(need_ssh)
        token = await trio.to_thread.run_sync(token_of, self.context.state_dir)
        self._folder = f"/tmp/anvild-{token}"  # noqa: S108 the name cannot be guessed, and only its owner may enter
        await trio.to_thread.run_sync(self._record.load)

    async def describe(self) -> Description:
        health = self._health()
        return Description(
            name=self.name,
            version=importlib.metadata.version("anvild-driver-macos"),
            platforms=PLATFORMS,
            capabilities=(
                *("exec", "files", "apps", "app_tests", "screen", "logs", "power", "attachments"),
                Mend.capability,
            ),
            health=health,
            facts={site.place.name: site.trouble or site.place.reason for site in self.watcher.sites},
        )

    async def watch(self, report: Report) -> NoReturn:
        await self.watcher.run(report)
        raise AssertionError("the watcher runs until it is cancelled")

    async def recover(self, handle: str) -> Recovery:
        try:
            name, identity = read_handle(handle)
        except ValueError:
            return Recovery(state=RecoveryState.LOST, reason="the handle is not one of this driver")
        sites = [site for site in self.watcher.sites if site.place.name == name]
        if not sites:
            return Recovery(state=RecoveryState.ENDED, reason=f"the Mac {name!r} is no longer in the settings")
        with trio.move_on_after(RECOVER_SECONDS):
            await sites[0].looked.wait()
        found = self.watcher.find(identity)
        if found is None:
            reason = sites[0].trouble or sites[0].place.reason
            if sites[0].looked.is_set():
                reason = f"the Mac {name!r} has no such device any more"
            return Recovery(state=RecoveryState.LOST, reason=reason)
        return Recovery(state=RecoveryState.RUNNING, reason="the device is there", device=found[1])

    # sessions

    def open(self, device: DeviceFact, lease: Lease) -> AbstractAsyncContextManager[Session]:
        """Open a session; a simulator that is shut is booted, and shut again when it is cleaned."""
        return self._opened(device.identity)

    @contextlib.asynccontextmanager
    async def _opened(self, identity: str) -> AsyncIterator[Session]:
        site, fact = self._find(identity)
        assert site.machine is not None, "a device that is there was seen at a Mac that is known"
        kind = fact.facts["kind"]
        if kind == SIMULATOR and await simulator.boot(site.place, identity):
            self._record.of(identity).booted = True
            await self._record.save()
            site.look_again()
        self._open[identity] = self._open.get(identity, 0) + 1
        failure: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                session = session_type(kind, fact.capabilities)(
                    fact, site.place, site.machine, self._record, f"{self._folder}/{identity}", nursery
                )
                try:
                    yield session
                except BaseException as error:  # the caller's own error passes as it is, not as a group
                    failure = error
                with trio.move_on_after(CLEAN_UP_SECONDS, shield=True), contextlib.suppress(AnvilError):
                    await session.close()  # where the Mac has gone, the next cleaning removes what is left
                nursery.cancel_scope.cancel()
            if failure is not None:
                raise failure
        finally:
            self._open[identity] -= 1

    async def clean(self, device: DeviceFact) -> None:
        """End and remove what sessions have launched and installed; shut a simulator that they have booted."""
        site, fact = self._find(device.identity)
        place, identity, touched = site.place, device.identity, self._record.of(device.identity)
        await place.run(end_all(f"{self._folder}/{identity}/{KEPT}"), housekeeping=True)
        done = await place.run(script(REMOVE_FOLDER, f"{self._folder}/{identity}", self._folder), housekeeping=True)
        if done.code:
            raise refused("what runs have left on the Mac cannot be removed", done)
        if fact.facts["kind"] == SIMULATOR:
            await self._clean_simulator(place, identity)
        elif fact.facts["kind"] == DEVICE:
            for app in touched.launched:
                await paired.end_app(place, identity, app)
            installed = {each.bundle_identifier for each in await paired.apps(place, identity)} if touched.apps else ()
            for app in touched.apps:
                if app in installed:
                    await paired.uninstall(place, identity, app)
        touched.apps, touched.launched, touched.booted = [], [], False
        await self._record.save()
        site.look_again()

    async def _clean_simulator(self, place: Place, identity: str) -> None:
        touched = self._record.of(identity)
        for app in touched.launched:
            await simulator.end_app(place, identity, app)
        for app in touched.apps:
            await simulator.uninstall(place, identity, app)
        if touched.booted or self.context.settings.erase_simulators:
            await simulator.shut(place, identity)
        if self.context.settings.erase_simulators:
            await simulator.erase(place, identity)

    # remedies

    async def remedies(self, identity: str) -> Sequence[Remedy]:
        found = self.watcher.find(identity)
        if found is None:
            raise NotFound(f"no Mac has a device {identity!r}")
        site, fact = found
        offered = [Remedy.RECONNECT] if isinstance(site.place, SshPlace) else []
        if fact.facts["kind"] == SIMULATOR and not self._others_in_use(site, identity):
            offered.append(Remedy.RESTART_HELPER)
        if Power.capability in fact.capabilities and (
            fact.facts["kind"] != MAC or not self._others_in_use(site, identity)
        ):
            offered.append(Remedy.REBOOT)
        return offered

    async def mend(self, identity: str, remedy: Remedy) -> str:
        """Apply a remedy. The service of the simulators, and a whole Mac, are restarted only while nobody works on
        another device there, for that would lose it."""
        if remedy not in await self.remedies(identity):
            raise CapabilityMissing(f"{remedy.value} is no remedy for this device here and now")
        found = self.watcher.find(identity)
        assert found is not None, "remedies have been found for it"
        site, fact = found
        name = site.place.name
        if remedy is Remedy.RECONNECT:
            await site.place.reconnect()
            said = f"the connection to the Mac {name!r} was made anew"
        elif remedy is Remedy.RESTART_HELPER:
            done = await site.place.run(script(END_HELPER, HELPER))
            if done.code:
                raise refused("the service of the simulators does not come back", done)
            await simulator.boot(site.place, identity, seconds=MEND_SECONDS)
            said = f"the service of the simulators on the Mac {name!r} was restarted"
        else:
            said = await self._reboot(site, fact)
        site.look_again()
        return said

    async def _reboot(self, site: Site, fact: DeviceFact) -> str:
        kind = fact.facts["kind"]
        if kind == SIMULATOR:
            await simulator.shut(site.place, fact.identity)
            await simulator.boot(site.place, fact.identity, seconds=MEND_SECONDS)
        elif kind == DEVICE:
            await paired.reboot(site.place, fact.identity)
        else:
            await mac.restart(site.place)
        return f"{fact.name!r} was restarted"

    def _others_in_use(self, site: Site, identity: str) -> bool:
        return any(count and each != identity and each in site.devices for each, count in self._open.items())

    # parts

    def _find(self, identity: str) -> tuple[Site, DeviceFact]:
        """Return a device that can be worked on. Raises DeviceLost, Unavailable."""
        found = self.watcher.find(identity)
        if found is None:
            raise DeviceLost(f"no Mac has a device {identity!r} any more")
        site, fact = found
        if fact.status is not DeviceStatus.READY:
            raise Unavailable(f"{fact.name!r} cannot be used: {fact.reason}")
        return site, fact

    def _health(self) -> Health:
        sites = self.watcher.sites
        if not sites:
            return Health(
                state=HealthState.ABSENT,
                reason="there is no Mac: name one in [[drivers.macos.hosts]], or run anvild on a Mac",
            )
        wrong = [site.trouble or site.place.reason for site in sites if site.trouble or site.place.connection is None]
        if not wrong:
            return Health(state=HealthState.HEALTHY, reason=f"{len(sites)} of {len(sites)} Macs are connected")
        hopeful = len(wrong) < len(sites) or any(not site.place.tried for site in sites)
        state = HealthState.DEGRADED if hopeful else HealthState.UNHEALTHY
        return Health(state=state, reason="; ".join(wrong))


@functools.cache
def session_type(kind: str, capabilities: tuple[str, ...]) -> type[HostedSession]:
    """Return the class of sessions that offer what a device declares and no more."""
    bases: dict[str, type[HostedSession]] = {
        MAC: RestartableMac if Power.capability in capabilities else MacSession,
        SIMULATOR: SimulatorSession,
        DEVICE: PairedSession,
    }
    base = bases[kind]
    if AppTests.capability not in capabilities:
        return base
    return type(f"Tested{base.__name__}", (base, XcodeTests), {"__doc__": base.__doc__})


def token_of(folder: Path) -> str:
    """Return the word that keeps this daemon's folder on a Mac apart from others'; it is made once. Blocks."""
    path = folder / "token"
    with contextlib.suppress(FileNotFoundError):
        return path.read_text()
    folder.mkdir(parents=True, exist_ok=True)
    token = secrets.token_hex(12)
    path.write_text(token)
    return token
