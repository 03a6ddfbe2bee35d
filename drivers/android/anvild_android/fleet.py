"""The devices that an adb server has, by their own serial numbers, whatever transports they are reached by."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import msgspec
import trio

from anvild.sdk import AnvilError, DeviceFact, DeviceLost, DeviceStatus, Unavailable

from .adb.client import AdbServer
from .adb.errors import UNAUTHORIZED
from .adb.listing import Listed
from .facts import Battery, Properties, read_properties, watch_battery
from .link import Link, Route

__all__ = ["PLATFORM", "Fleet"]

PLATFORM = "android"
SHORTEST_PAUSE = 0.2
LONGEST_PAUSE = 30.0
PATIENCE = 1.0

WAIT_BOOTED = 'while [ "$(getprop sys.boot_completed)" != 1 ]; do sleep 0.2; done'

AWAY = {
    "unauthorized": f"it does not trust this lab yet: {UNAUTHORIZED}",
    "offline": "it is attached and does not answer: draw the cable and plug it in again, or restart it",
    "no permissions": "the daemon may not open its USB port: install the udev rules of android devices and put the "
    "daemon's user into the group plugdev",
    "recovery": "it is in its recovery system: restart it",
    "sideload": "it waits for an update in its recovery system: restart it",
    "rescue": "it is in its rescue mode: restart it",
    "bootloader": "it is in its boot loader: restart it",
}
"""What a transport's state means to the operator, where it is not the state of a device that works."""


class _Transport:
    """One transport and what is known of the device behind it."""

    def __init__(self, listed: Listed) -> None:
        self.listed = listed
        self.scope = trio.CancelScope()
        self.attended = False
        self.route: Route | None = None
        self.properties: Properties | None = None
        self.booted = False
        self.battery = Battery()
        self.problem: str | None = None

    @property
    def rank(self) -> tuple[bool, bool, bool, int]:
        """The better of two transports of one device is the greater."""
        return self.booted, self.properties is not None, not self.listed.network, self.listed.number


class Fleet:
    """Follows the adb server's list, asks each new device what it is, and keeps the facts.

    ``network`` are the addresses of devices in the network by their serial numbers; the server is connected to them
    again whenever they are away. ``capabilities`` is what a session on a device offers.
    """

    def __init__(
        self,
        server: AdbServer,
        *,
        network: Mapping[str, str],
        capabilities: tuple[str, ...],
        log: Callable[..., None],
    ) -> None:
        self.server = server
        self.problem: str | None = "the list of devices has not come yet"
        self._capabilities = capabilities
        self._log = log
        self._transports: dict[int, _Transport] = {}
        self._addresses: dict[str, str] = {address: identity for identity, address in network.items()}
        self._known: dict[str, Properties] = {}
        self._restarting: dict[str, str] = {}
        self._nursery: trio.Nursery | None = None
        self._changed = trio.Event()
        self._kicked = trio.Event()

    # what others ask

    def facts(self) -> dict[str, DeviceFact]:
        """Return the devices that are there, by identity."""
        best: dict[str, _Transport] = {}
        for transport in self._transports.values():
            identity = self._identity(transport)
            if identity is not None and (identity not in best or transport.rank > best[identity].rank):
                best[identity] = transport
        found = {}
        for identity in {*best, *self._restarting}:
            fact = self._fact(identity, best.get(identity))
            if fact is not None:
                found[identity] = fact
        return found

    def waiting(self) -> list[str]:
        """Return the addresses in the network whose devices nobody knows, for they do not let the lab in."""
        return sorted(
            each.listed.serial
            for each in self._transports.values()
            if self._identity(each) is None and each.listed.state in AWAY
        )

    def link(self, identity: str) -> Link:
        """Return the way to a device, which stays good as long as the device comes back."""
        return Link(self.server, identity, lambda: self._route(identity))

    def _route(self, identity: str) -> Route:
        for transport in sorted(self._transports.values(), key=lambda each: each.rank, reverse=True):
            if self._identity(transport) == identity:
                if transport.route is not None and transport.listed.state == "device":
                    return transport.route
                if transport.listed.state == "unauthorized":
                    raise Unavailable(f"the device {identity}: {AWAY['unauthorized']}")
        raise DeviceLost(f"the device {identity} is not attached")

    async def changes(self) -> None:
        """Return when something has changed since the call."""
        await self._changed.wait()

    async def wait_ready(self, identity: str) -> None:
        """Return when the device takes verbs."""
        while True:
            fact = self.facts().get(identity)
            if fact is not None and fact.status is DeviceStatus.READY:
                return
            await self.changes()

    def connections(self, identity: str) -> list[object]:
        """Return what stands for the device's present connections, for :meth:`wait_gone`."""
        return [each for each in self._transports.values() if self._identity(each) == identity]

    async def wait_gone(self, connections: Sequence[object]) -> None:
        """Return when none of these connections is left."""
        while any(each in connections for each in self._transports.values()):
            await self.changes()

    @contextmanager
    def restarting(self, identity: str, reason: str) -> Iterator[None]:
        """Hold a device that goes away inside the block for one that is being made ready."""
        self._restarting[identity] = reason
        self._tell()
        try:
            yield
        finally:
            self._restarting.pop(identity, None)
            self._tell()

    def knows(self, identity: str) -> bool:
        """Whether the device is there, or was since the start."""
        return identity in self._known or identity in self.facts()

    async def reconnect(self, identity: str) -> None:
        """Have the server take all transports of a device up again; return when none of the old ones is left.

        A device that has none now is looked for. Raises Unavailable when the server refuses.
        """
        old = self.connections(identity)
        for number in [number for number, each in self._transports.items() if each in old]:
            await self.server.reconnect(number)
        self.kick()
        await self.wait_gone(old)

    async def look_again(self) -> None:
        """Have the server take up again what it holds for offline, and try the addresses that are away.

        Raises Unavailable when the server refuses.
        """
        if any(each.listed.state == "offline" for each in self._transports.values()):
            await self.server.reconnect_offline()
        self.kick()

    def add_address(self, identity: str, address: str) -> None:
        """Name the device behind an address of the network."""
        self._addresses[address] = identity
        self._tell()

    # the list

    async def run(self) -> None:
        """Follow the server's list until cancelled, over restarts of the server."""
        async with trio.open_nursery() as self._nursery:
            pause = SHORTEST_PAUSE
            while True:
                began = trio.current_time()
                try:
                    await self.server.track(self._heard)
                except Unavailable as error:
                    self.problem = error.message
                    self._heard([], problem=error.message)
                pause = SHORTEST_PAUSE if trio.current_time() - began > LONGEST_PAUSE else min(2 * pause, LONGEST_PAUSE)
                await trio.sleep(pause)

    def _heard(self, listed: list[Listed], problem: str | None = None) -> None:
        self.problem = problem
        present = {each.number: each for each in listed}
        for number in [number for number in self._transports if number not in present]:
            self._transports.pop(number).scope.cancel()
        for number, each in present.items():
            known = self._transports.get(number)
            if known is not None and known.listed.state == "device" and each.state != "device":
                known.scope.cancel()
                known = None
            if known is None:
                known = self._transports[number] = _Transport(each)
            known.listed = each
            if each.state == "device" and not known.attended and self._nursery is not None:
                known.attended = True
                self._nursery.start_soon(self._attend, known)
        self._tell()

    def _tell(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def _attend(self, transport: _Transport) -> None:
        """Learn what the device behind a transport is, and then its charge now and then, until it goes."""
        pause = SHORTEST_PAUSE
        with transport.scope:
            while True:
                try:
                    await self._learn(transport)
                    await self._measure(transport)
                except AnvilError as error:
                    transport.problem = error.message
                    await self._look_again()  # which ends this task when the device has gone
                    await trio.lowlevel.checkpoint()
                    self._log("info", "device does not answer", transport=transport.listed.serial, why=error.message)
                pause = min(2 * pause, LONGEST_PAUSE)
                await trio.sleep(pause)

    async def _look_again(self) -> None:
        """Ask for the list: an adb server of before 2020 does not tell all that happens to devices in the network."""
        with contextlib.suppress(Unavailable):  # then the server has gone too, which the end of its list tells
            self._heard(await self.server.devices())

    async def _learn(self, transport: _Transport) -> None:
        number = transport.listed.number
        route = Route(number, await self.server.features(number))
        link = Link(self.server, transport.listed.serial, lambda: route)
        properties = await read_properties(link)
        transport.route, transport.properties, transport.problem = route, properties, None
        self._known[properties.serial] = properties
        if transport.listed.network:
            self._addresses[transport.listed.serial] = properties.serial
        self._tell()
        if not transport.booted:
            result = await link.shell(WAIT_BOOTED)
            if result.code != 0:
                raise Unavailable(f"it did not start up: {result.said}")
            # What it says of itself while it starts up may be less than all.
            transport.properties = self._known[properties.serial] = await read_properties(link)
            transport.booted = True
            self._tell()

    async def _measure(self, transport: _Transport) -> None:
        """Hear of the charge once a minute, by a stream whose end also tells that the device has gone."""
        assert transport.route is not None
        route = transport.route
        link = Link(self.server, transport.listed.serial, lambda: route)
        async with contextlib.aclosing(watch_battery(link)) as reports:
            async for battery in reports:
                if battery != transport.battery:
                    transport.battery = battery
                    self._tell()
        raise Unavailable(f"the device at {transport.listed.serial} ended its report")

    # what a transport says of a device

    def _identity(self, transport: _Transport) -> str | None:
        if transport.properties is not None:
            return transport.properties.serial
        serial = transport.listed.serial
        if transport.listed.network:
            return self._addresses.get(serial)
        return serial if transport.listed.named else None

    def _fact(self, identity: str, transport: _Transport | None) -> DeviceFact | None:
        """The fact of a device; None for one that is not there, or not yet known well enough to be shown."""
        state = None if transport is None else transport.listed.state
        if transport is not None and transport.booted and state == "device":
            status, reason = DeviceStatus.READY, None
        elif identity in self._restarting:
            status, reason = DeviceStatus.PROVISIONING, self._restarting[identity]
        elif transport is None:
            return None
        elif state == "device":
            if transport.problem is not None:
                status, reason = DeviceStatus.OFFLINE, transport.problem
            elif transport.properties is not None:
                status, reason = DeviceStatus.PROVISIONING, "it starts up"
            else:
                return None
        elif state in AWAY and not (state == "offline" and transport.listed.network):
            status, reason = DeviceStatus.OFFLINE, AWAY[state]
        else:
            return None
        known = self._known.get(identity) or Properties(serial=identity)
        facts = dict(known.facts)
        if transport is not None:
            facts["transport"] = "network" if transport.listed.network else "usb"
            if transport.listed.usb_path:
                facts["usb_path"] = transport.listed.usb_path
            facts.update(transport.battery.facts())
        return DeviceFact(
            identity=identity,
            platform=PLATFORM,
            name=f"{known.model or 'Android device'} {identity}"[:120],
            status=status,
            model=known.model,
            firmware_version=known.version,
            capabilities=self._capabilities,
            facts=facts,
            reason=reason,
            handle=msgspec.json.encode(identity).decode(),
        )

    # the network

    async def keep_attached(self, address: str) -> None:
        """Have the server connected to an address of the network whenever it is not, until cancelled."""
        pause = SHORTEST_PAUSE
        while True:
            kicked = self._kicked
            if self._state(address) == "offline":  # as it also is for a moment while it connects
                with trio.move_on_after(PATIENCE):
                    while self._state(address) == "offline" and not kicked.is_set():
                        await self.changes()
            if self._state(address) not in (None, "offline"):
                pause = SHORTEST_PAUSE
                await self.changes()
                continue
            with contextlib.suppress(Unavailable):  # the list tells whether it came
                if self._state(address) is not None:
                    await self.server.detach(address)
                await self.server.attach(address)
                await self._look_again()
            with trio.move_on_after(pause):
                await kicked.wait()
                pause = SHORTEST_PAUSE
            pause = min(2 * pause, LONGEST_PAUSE)

    def _state(self, address: str) -> str | None:
        """What the server says of an address; None where it does not know it."""
        return next((each.listed.state for each in self._transports.values() if each.listed.serial == address), None)

    def kick(self) -> None:
        """Try all addresses of the network that are away, now."""
        kicked, self._kicked = self._kicked, trio.Event()
        kicked.set()
        self._tell()
