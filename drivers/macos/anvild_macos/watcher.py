"""What is at the Macs: each is looked at again and again, and the differences are told.

A simulator or a paired device tells nobody over SSH that it has come or gone: neither ``simctl`` nor ``devicectl`` has
a command that waits for changes. So a Mac is asked every :data:`LOOK_SECONDS`, and at once after what this driver
itself has changed there. That a Mac itself has come or gone is told by its connection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import trio

from anvild.sdk import AnvilError, DeviceFact, DeviceStatus, Report, Sighting
from anvild.sdk.usb import UsbDevice, watch_usb

from .machine import Machine, examine, look
from .place import Connection, LocalPlace, Place

LOOK_SECONDS = 15.0
LOOK_LIMIT = 60.0
VENDOR = 0x05AC


class Site:
    """A Mac with what was last seen there."""

    def __init__(self, place: Place, log: Callable[..., None]) -> None:
        self.place = place
        self.machine: Machine | None = None
        self.devices: dict[str, DeviceFact] = {}
        self._seen: dict[str, DeviceFact] = {}
        self.trouble: str | None = None
        self.looked = trio.Event()
        self._log = log
        self._again = trio.Event()

    def look_again(self) -> None:
        """Have the Mac looked at now."""
        self._again.set()

    async def watch(self, changed: Callable[[], None]) -> None:
        """Look for ever; call ``changed`` after every look and when the connection has come or gone."""
        while True:
            seen = self.place.changed
            connection = self.place.connection
            if connection is None:
                self._leave(self.place.reason)
                changed()
                await seen.wait()
                continue
            self.machine = None
            await self._keep_looking(connection, changed)

    async def _keep_looking(self, connection: Connection, changed: Callable[[], None]) -> None:
        while not connection.ended.is_set():
            self._again = trio.Event()
            await self._look()
            changed()
            with trio.move_on_after(LOOK_SECONDS):
                async with trio.open_nursery() as nursery:
                    for event in (connection.ended, self._again):
                        nursery.start_soon(_first, event, nursery.cancel_scope)

    async def _look(self) -> None:
        try:
            with trio.move_on_after(LOOK_LIMIT) as patience:
                if self.machine is None:
                    self.machine = await examine(self.place)
                looked = await look(self.place, self.machine)
        except AnvilError as error:
            self._fail(error.message)
            return
        if patience.cancelled_caught:
            self._fail(f"the Mac {self.place.name!r} did not say within {LOOK_LIMIT:g} s what is there")
            return
        self._note(looked.trouble)
        kept = [fact for fact in self._seen.values() if fact.facts["kind"] not in looked.found]
        found = [fact for kind in looked.found.values() for fact in kind]
        self._seen = self.devices = {fact.identity: fact for fact in (*found, *kept)}
        self.looked.set()

    def _fail(self, trouble: str) -> None:
        self._note(trouble)
        if self.machine is None:
            self._leave(trouble)

    def _note(self, trouble: str | None) -> None:
        if trouble is not None and trouble != self.trouble:
            self._log("warning", "a Mac cannot be looked at", mac=self.place.name, reason=trouble)
        self.trouble = trouble

    def _leave(self, reason: str) -> None:
        """What was here cannot be reached any more: it is away, or being restarted."""
        status = DeviceStatus.PROVISIONING if self.place.restarting else DeviceStatus.OFFLINE
        reason = f"the Mac {self.place.name!r} is being restarted" if self.place.restarting else reason
        self.devices = {
            identity: msgspec.structs.replace(fact, status=status, reason=reason) if not away(fact) else fact
            for identity, fact in self._seen.items()
        }


async def _first(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


class Watcher:
    """All Macs, and what is told of them. A device that several Macs know is told once: from a Mac that reaches it."""

    def __init__(self, places: Sequence[Place], log: Callable[..., None]) -> None:
        self.sites = [Site(place, log) for place in places]
        self._told: dict[str, DeviceFact] = {}
        self._changed = trio.Event()

    def find(self, identity: str) -> tuple[Site, DeviceFact] | None:
        """Return where a device is, and what is known of it."""
        found: tuple[Site, DeviceFact] | None = None
        for site in self.sites:
            fact = site.devices.get(identity)
            if fact is not None and (found is None or (away(found[1]) and not away(fact))):
                found = site, fact
        return found

    async def run(self, report: Report) -> None:
        """Keep the places reachable, look, and report, until cancelled."""
        self._told.clear()
        async with trio.open_nursery() as nursery:
            for site in self.sites:
                nursery.start_soon(site.place.serve)
                nursery.start_soon(site.watch, self._wake)
                if isinstance(site.place, LocalPlace):
                    nursery.start_soon(_hear_plugs, site)
            while True:
                changed = self._changed = trio.Event()
                await self._report(report)
                await changed.wait()

    def _wake(self) -> None:
        self._changed.set()

    async def _report(self, report: Report) -> None:
        now: dict[str, DeviceFact] = {}
        for identity in dict.fromkeys(identity for site in self.sites for identity in site.devices):
            found = self.find(identity)
            assert found is not None, "it is among the devices of a site"
            now[identity] = found[1]
        for identity, fact in now.items():
            if self._told.get(identity) != fact:
                self._told[identity] = fact
                await report(Sighting(kind="seen", device=fact))
        for identity in [each for each in self._told if each not in now]:
            await report(Sighting(kind="lost", device=self._told.pop(identity)))


async def _hear_plugs(site: Site) -> None:
    """Look at once when something is plugged into the daemon's own Mac. Why does not matter: it is a hint."""

    async def on_change(_devices: Sequence[UsbDevice]) -> None:
        site.look_again()
        await trio.lowlevel.checkpoint()

    await watch_usb(on_change, vendors={VENDOR})


def away(fact: DeviceFact) -> bool:
    return fact.status is not DeviceStatus.READY
