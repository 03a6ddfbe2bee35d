"""What is asked of the adb server itself, and how a device's services are opened through it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import trio

from anvild.sdk import DeviceLost, Unavailable

from .listing import Listed, parse_devices
from .wire import AdbStream, Closed

__all__ = ["AdbServer"]

ANSWER_SECONDS = 10.0
GOING_SECONDS = 0.3


class AdbServer:
    """An adb server at a TCP address of this host. It holds no connection: each request has its own.

    All methods raise Unavailable when the server does not answer.
    """

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port

    async def connect(self, device: str = "") -> AdbStream:
        """Connect; the caller closes the stream. ``device`` is the name that errors give to what it is about."""
        try:
            return AdbStream(await trio.open_tcp_stream(self.host, self.port), device)
        except OSError as error:
            raise Unavailable(f"the adb server at {self.host}:{self.port} does not answer: {error}") from None

    @asynccontextmanager
    async def _asked(self, service: str) -> AsyncIterator[AdbStream]:
        stream = await self.connect()
        try:
            await stream.request(service)
            yield stream
        except Closed:
            raise stream.lost() from None
        finally:
            await stream.aclose()

    async def query(self, service: str) -> str:
        """Ask the server for a text. Raises Unavailable with its words when it refuses, or takes 10 s."""
        with trio.move_on_after(ANSWER_SECONDS):
            async with self._asked(service) as stream:
                return await stream.receive_text()
        raise Unavailable(f"the adb server at {self.host}:{self.port} took too long to answer {service}")

    async def version(self) -> int:
        """Return the version of the server's protocol."""
        text = await self.query("host:version")
        try:
            return int(text, 16)
        except ValueError:
            raise Unavailable(f"the adb server says {text!r} in place of its version") from None

    async def devices(self) -> list[Listed]:
        """Return the transports that the server has now."""
        return parse_devices(await self.query("host:devices-l"))

    async def track(self, heard: Callable[[list[Listed]], None]) -> None:
        """Call ``heard`` with all transports, at once and whenever one changes, until cancelled. Raises Unavailable
        when the server goes away."""
        async with self._asked("host:track-devices-l") as stream:
            while True:
                heard(parse_devices(await stream.receive_text()))

    async def features(self, number: int) -> frozenset[str]:
        """Return what the device of a transport can do, in adb's words."""
        return frozenset(filter(None, (await self.query(f"host-transport-id:{number}:features")).split(",")))

    async def attach(self, address: str) -> str:
        """Connect the server to a device in the network; return what it says, which proves nothing: see the list."""
        return await self.query(f"host:connect:{address}")

    async def detach(self, address: str) -> str:
        """End the server's connection to a device in the network. Raises Unavailable for one that it has not."""
        return await self.query(f"host:disconnect:{address}")

    async def reconnect(self, number: int) -> str:
        """Have the server drop a transport and take it up again."""
        return await self.query(f"host-transport-id:{number}:reconnect")

    async def reconnect_offline(self) -> str:
        """Have the server take all transports up again that are offline."""
        return await self.query("host:reconnect-offline")

    async def open(self, number: int, device: str, service: str) -> AdbStream:
        """Open a service of a device; the caller closes the stream. Raises DeviceLost, Unavailable for a service that
        the device refuses, InvalidArgument for one that is too long."""
        stream = await self.connect(device)
        try:
            await stream.request(f"host:transport-id:{number}")
            await stream.request(service)
        except Closed:
            await stream.aclose()
            raise stream.lost() from None
        except Unavailable:
            await stream.aclose()
            # A device that is being pulled off refuses too, a moment before the server knows that it is gone.
            with trio.move_on_after(GOING_SECONDS):
                await self.track(partial(_raise_when_gone, number, device))
            raise
        except BaseException:
            with trio.CancelScope(shield=True):  # closing a socket does not wait
                await stream.aclose()
            raise
        return stream


def _raise_when_gone(number: int, device: str, listed: list[Listed]) -> None:
    if not any(each.number == number and each.state == "device" for each in listed):
        raise DeviceLost(f"the device {device} is not attached any more")
