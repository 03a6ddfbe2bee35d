"""The connections of helpers, and which devices each of them may speak for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import trio

from anvild.core.logging import get_logger
from anvild.sdk import (
    AnvilError,
    DeviceFact,
    DeviceLost,
    DeviceStatus,
    Driver,
    InvalidArgument,
    Recovery,
    Report,
    Sighting,
    Unavailable,
)
from anvild.sdk.protocol import RemoteDriver

__all__ = ["Helpers", "Scope"]

FAREWELL_SECONDS = 5.0

PING_SECONDS = 15.0
ANSWER_SECONDS = 10.0
"""How often a helper is asked whether it is there, and how long it may take to say so."""

HANDLE_MARK = "\n"
"""Stands between the identity and the helper's own handle: the daemon hands back a handle alone."""

log = get_logger(__name__)


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """What a connection may speak for: the device with ``identity``.

    ``name`` replaces the name that the helper gives its device, where a person has named it.
    """

    holder: str
    identity: str
    name: str | None = None

    def inward(self, fact: DeviceFact) -> DeviceFact:
        """Return a fact as the lab knows it. Raises InvalidArgument for a device that is not the connection's."""
        if fact.identity != self.identity:
            raise InvalidArgument(
                f"this connection speaks for the device {self.identity!r} and reported {fact.identity!r}"
            )
        changed = {
            "name": self.name or fact.name,
            "handle": None if fact.handle is None else f"{fact.identity}{HANDLE_MARK}{fact.handle}",
        }
        try:
            return msgspec.convert({**msgspec.to_builtins(fact), **changed}, DeviceFact)
        except msgspec.ValidationError as error:
            raise InvalidArgument(f"this is no device: {error}") from error

    def outward(self, fact: DeviceFact) -> DeviceFact:
        """Return a fact as its helper knows it."""
        handle = None if fact.handle is None else fact.handle.partition(HANDLE_MARK)[2]
        return msgspec.structs.replace(fact, handle=handle)


class _Connection:
    """One helper that is connected."""

    def __init__(self, driver: RemoteDriver, scope: Scope) -> None:
        self.driver = driver
        self.scope = scope
        self.devices: dict[str, DeviceFact] = {}
        self.running = trio.CancelScope()
        self.replaced = False
        self.failure: AnvilError | None = None


class Helpers:
    """All helpers that are connected to this daemon. ``report`` is where their sightings go while somebody watches."""

    def __init__(self) -> None:
        self._connections: list[_Connection] = []
        self._report: Report | None = None
        self._seen = trio.Event()
        self._telling = trio.Lock()

    @property
    def connected(self) -> int:
        """How many connections there are."""
        return len(self._connections)

    @property
    def platforms(self) -> tuple[str, ...]:
        """The platforms of the devices that are there."""
        return tuple(sorted({fact.platform for each in self._connections for fact in each.devices.values()}))

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What the devices that are there can do."""
        found = {name for each in self._connections for fact in each.devices.values() for name in fact.capabilities}
        return tuple(sorted(found))

    async def serve(self, driver: RemoteDriver, scope: Scope) -> None:
        """Take part in the lab with a helper's devices until its watch fails or the task is cancelled.

        A second connection for the same device takes the place of the first, which the network may not have ended yet.
        At the end the devices are away, and what ran on them ends as with an unplugged device. Raises what the
        helper's driver raises.
        """
        connection = _Connection(driver, scope)
        for other in self._connections:
            if other.scope.identity == scope.identity:
                other.replaced = True
                other.running.cancel()
        self._connections.append(connection)
        log.info("helper_connected", holder=scope.holder)
        try:
            with connection.running:
                await self._attend(connection)
        finally:
            self._connections.remove(connection)
            log.info("helper_gone", holder=scope.holder, replaced=connection.replaced)
            with trio.move_on_after(FAREWELL_SECONDS, shield=True):
                await self._farewell(connection)
        if connection.failure is not None:
            raise connection.failure

    @asynccontextmanager
    async def watching(self, report: Report) -> AsyncIterator[None]:
        """Send all sightings to ``report`` during the block, beginning with all that is there."""
        self._report = report
        try:
            for connection in list(self._connections):
                for fact in list(connection.devices.values()):
                    await report(Sighting(kind="seen", device=fact))
            yield
        finally:
            self._report = None

    def find(self, fact: DeviceFact) -> tuple[Driver, DeviceFact]:
        """Return the driver that has a device now, and the device as that driver knows it. Raises DeviceLost."""
        for connection in reversed(self._connections):
            if fact.identity in connection.devices:
                return connection.driver, connection.scope.outward(fact)
        raise DeviceLost(f"the helper of the device {fact.name!r} is not connected")

    async def recover(self, handle: str) -> Recovery:
        """Wait until the helper of this handle's device is back, and ask it what became of the device."""
        identity, _, own = handle.partition(HANDLE_MARK)
        while True:
            for connection in self._connections:
                if identity in connection.devices:
                    answer = await connection.driver.recover(own)
                    if answer.device is None:
                        return answer
                    return msgspec.structs.replace(answer, device=connection.scope.inward(answer.device))
            await self._seen.wait()

    async def _attend(self, connection: _Connection) -> None:
        """Take what the helper reports, until it fails or does not answer."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_keep_asking, connection)
            try:
                await connection.driver.start()
                await connection.driver.watch(lambda sighting: self._sighted(connection, sighting))
            except AnvilError as error:
                connection.failure = error  # raised outside, so that the nursery does not wrap it
            nursery.cancel_scope.cancel()

    async def _sighted(self, connection: _Connection, sighting: Sighting) -> None:
        fact = connection.scope.inward(sighting.device)
        if sighting.kind == "seen":
            connection.devices[fact.identity] = fact
            seen, self._seen = self._seen, trio.Event()
            seen.set()
        else:
            connection.devices.pop(fact.identity, None)
        await self._tell(Sighting(kind=sighting.kind, device=fact))

    async def _farewell(self, connection: _Connection) -> None:
        """Tell that the devices of a connection are away, unless another one has them."""
        reason = "its helper has connected anew" if connection.replaced else "its helper has disconnected"
        for identity, fact in connection.devices.items():
            gone = msgspec.structs.replace(fact, status=DeviceStatus.OFFLINE, reason=reason)
            if any(identity in other.devices for other in self._connections):
                continue
            try:
                await self._tell(Sighting(kind="lost", device=gone))
            except AnvilError as error:
                log.warning("helper_farewell", device=identity, error=error.message)

    async def _tell(self, sighting: Sighting) -> None:
        # One after the other: what a helper says of a device comes after what an earlier one left to be said of it.
        async with self._telling:
            if self._report is not None:
                await self._report(sighting)


async def _keep_asking(connection: _Connection) -> None:
    """Ask for ever whether the helper is there; end a connection whose helper does not answer."""
    while True:
        await trio.sleep(PING_SECONDS)
        with trio.move_on_after(ANSWER_SECONDS) as scope:
            try:
                await connection.driver.ping()
            except Unavailable:
                return  # its watch tells of the end
        if scope.cancelled_caught:
            connection.failure = Unavailable(f"the helper did not answer within {ANSWER_SECONDS:g} s")
            connection.running.cancel()
