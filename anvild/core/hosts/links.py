"""The links of hosts: each connection lends one driver, which the engine hosts as ``NAME@HOST``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import trio

from anvild.core.engine import DriverFactory, Engine, Fault, Gone
from anvild.core.logging import get_logger
from anvild.sdk import AnvilError, Driver, DriverFault, Unavailable
from anvild.sdk.protocol import RemoteDriver, Transport, TransportClosed

from .hosts import Hosts
from .values import Host, place_of

__all__ = ["Line", "Links", "Pulse"]

log = get_logger(__name__)


class Pulse(msgspec.Struct, frozen=True, kw_only=True):
    """How often the other end of a link is asked whether it is there, and how long it may take to say so, in seconds.

    A machine that lends drivers connects again after ``pause``, which doubles up to ``longest_pause``.
    """

    ask: float = 15.0
    answer: float = 10.0
    pause: float = 1.0
    longest_pause: float = 30.0


class Line(Transport):
    """The transport of a link. Whoever hosts its driver hears of its end before those who use the driver."""

    def __init__(self, transport: Transport) -> None:
        self.gone: Gone | None = None
        self.on_fault: Fault | None = None
        self.over = trio.Event()
        self._transport = transport

    def end(self, reason: str) -> None:
        """The link has ended, or shall."""
        gone, self.gone = self.gone, None
        if gone is not None:
            gone(reason)
        self.over.set()

    def fault(self, error: DriverFault) -> None:
        """Count a breach of the protocol against the driver."""
        if self.on_fault is not None:
            self.on_fault("its protocol", error)

    async def send(self, message: str | bytes) -> None:
        """Send a message. Raises TransportClosed."""
        try:
            await self._transport.send(message)
        except TransportClosed as closed:
            self.end(closed.reason)
            raise

    async def receive(self) -> str | bytes:
        """Return the next message. Raises TransportClosed."""
        try:
            return await self._transport.receive()
        except TransportClosed as closed:
            self.end(closed.reason)
            raise

    async def aclose(self) -> None:
        """End the connection."""
        await self._transport.aclose()


class _Lent(msgspec.Struct):
    """What a connection lends, and whether an instance has been made of it."""

    driver: RemoteDriver
    line: Line
    used: bool = False


class Link(DriverFactory):
    """Makes instances of another machine's driver: one of each connection that the machine opens for it."""

    def __init__(self, host: Host, pulse: Pulse) -> None:
        self._host = host
        self._pulse = pulse
        self._lent: _Lent | None = None
        self._arrived = trio.Event()

    @property
    def elsewhere(self) -> bool:
        """It is on another machine."""
        return True

    @property
    def team_id(self) -> str | None:
        """The team that has brought the host."""
        return self._host.team_id

    @property
    def absent(self) -> str | None:
        """Why there is no connection to make an instance of."""
        if self._lent is None or self._lent.used:
            return f"the host {self._host.name!r} is not connected"
        return None

    async def present(self) -> None:
        """Return when the host has connected."""
        while self.absent is not None:
            await self._arrived.wait()

    def facts(self) -> dict[str, str]:
        """Name the host."""
        return {"host": self._host.name or self._host.id}

    @asynccontextmanager
    async def live(self, gone: Gone, fault: Fault) -> AsyncIterator[Driver]:
        """Use up a connection; it ends with the block, and the host opens another one. Raises Unavailable."""
        lent = self._lent
        if lent is None or lent.used:
            raise Unavailable(str(self.absent))
        lent.used = True
        lent.line.gone, lent.line.on_fault = gone, fault
        try:
            yield lent.driver
        finally:
            lent.line.gone = None
            lent.line.over.set()

    async def lend(self, driver: RemoteDriver, line: Line) -> None:
        """Offer a connection until it has ended. The one before, which the network may not have ended yet, ends."""
        if self._lent is not None:
            self._lent.line.end("the host has connected anew")
        lent = self._lent = _Lent(driver, line)
        arrived, self._arrived = self._arrived, trio.Event()
        arrived.set()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keep_asking, lent)
                await line.over.wait()
                nursery.cancel_scope.cancel()
        finally:
            if self._lent is lent:
                self._lent = None

    async def _keep_asking(self, lent: _Lent) -> None:
        """Ask for ever whether the host is there: a cut cable says nothing."""
        while True:
            await trio.sleep(self._pulse.ask)
            with trio.move_on_after(self._pulse.answer) as scope:
                try:
                    await lent.driver.ping()
                except AnvilError as error:
                    log.debug("ping", error=error.message)  # an error is an answer, too; an end is told of elsewhere
            if scope.cancelled_caught:
                lent.line.end(f"the host did not answer within {self._pulse.answer:g} s")


class Links:
    """The drivers of all hosts, as the engine sees them."""

    def __init__(self, hosts: Hosts, engine: Engine, pulse: Pulse = Pulse()) -> None:  # noqa: B008  # frozen
        self._hosts = hosts
        self._engine = engine
        self._pulse = pulse
        self._links: dict[str, Link] = {}

    async def open(self) -> None:
        """Attach the drivers that hosts have lent, so that what was on them is waited for. Call it before the engine
        runs."""
        for host in await self._hosts.list():
            for driver in host.drivers:
                self._attach(driver, host)

    async def lend(self, host_id: str, name: str, driver: RemoteDriver, line: Line) -> None:
        """Take part in the lab with a host's driver until the connection ends; ``name`` is what the host calls itself.

        Raises NotFound, WrongState for a host that is being deleted, ResourceExhausted for one driver too many.
        """
        host = await self._hosts.lend(host_id, driver.hello.name, name)
        link = self._attach(driver.hello.name, host)
        log.info("host_connected", host=host.name, driver=driver.hello.name)
        try:
            await link.lend(driver, line)
        finally:
            log.info("host_gone", host=host.name, driver=driver.hello.name)

    async def cut(self, host: Host, reason: str) -> None:
        """Detach the drivers of a host, with all that is on them."""
        for place in host.places:
            await self._engine.detach(place, reason)
            self._links.pop(place, None)

    def _attach(self, driver: str, host: Host) -> Link:
        assert host.name is not None
        place = place_of(driver, host.name)
        link = self._links.get(place)
        if link is None:
            link = self._links[place] = Link(host, self._pulse)
            self._engine.attach(place, link)
        return link
