"""One connection of an adb host to a device: greeting, authorisation, and the streams inside it."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from .auth import TOKEN_SIZE, KeyRing
from .packets import MAX_PAYLOAD, VERSION, Command, Packet, Reader, read_packet
from .streams import WINDOW, AdbStream

__all__ = ["Connection", "Served"]

TOKEN, SIGNATURE, PUBLIC_KEY = 1, 2, 3


class Served(Protocol):
    """What a connection needs to know of its device."""

    features: tuple[str, ...]
    keys: KeyRing | None

    def banner(self) -> str:
        """How the device introduces itself."""

    async def serve(self, connection: Connection, stream: AdbStream, destination: str) -> None:
        """Serve a stream that the host has opened, until it is over."""

    async def unfrozen(self) -> None:
        """Wait while the device is to look hung."""


class Connection:
    """The device's side of one transport.

    ``run`` ends when the host goes or speaks nonsense; all streams are closed then.
    """

    def __init__(self, stream: trio.abc.Stream, device: Served) -> None:
        self._stream = stream
        self._device = device
        self._reader = Reader(stream)
        self._outgoing, self._queue = trio.open_memory_channel[Packet](float("inf"))
        self._streams: dict[int, AdbStream] = {}
        self._next = 1
        self._max_payload = 4096
        self._online = False
        self._token = b""
        self._asked = False
        self._nursery: trio.Nursery | None = None
        self.features: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Serve the connection until it ends. Cancelled, it drops it."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._write)
                await self._read(nursery)
                nursery.cancel_scope.cancel()
        finally:
            for stream in list(self._streams.values()):
                stream.hung_up()
            await trio.aclose_forcefully(self._stream)

    async def _write(self) -> None:
        async for packet in self._queue:
            await self._device.unfrozen()
            try:
                await self._stream.send_all(packet.encode())
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return  # the reader hears of it too, and ends the connection

    async def _read(self, nursery: trio.Nursery) -> None:
        while True:
            try:
                packet = await read_packet(self._reader)
                await self._device.unfrozen()
                self._take(packet, nursery)
            except (EOFError, ValueError, trio.BrokenResourceError, trio.ClosedResourceError):
                return

    def post(self, packet: Packet) -> None:
        """Hand over a packet to be sent. It does not wait: streams bound what they hand over."""
        self._outgoing.send_nowait(packet)

    def _take(self, packet: Packet, nursery: trio.Nursery) -> None:
        if packet.command == Command.CNXN:
            self._greet(packet)
        elif packet.command == Command.AUTH and not self._online:
            self._check(packet, nursery)
        elif self._online:
            self._route(packet, nursery)

    # the greeting

    def _greet(self, packet: Packet) -> None:
        self._max_payload = min(packet.arg1, MAX_PAYLOAD)
        _kind, _, features = packet.payload.rstrip(b"\0").decode(errors="replace").partition("features=")
        self.features = frozenset(features.split(",")) & frozenset(self._device.features)
        if self._device.keys is None:
            self._welcome()
        else:
            self._challenge()

    def _welcome(self) -> None:
        self._online = True
        self.post(Packet(Command.CNXN, VERSION, MAX_PAYLOAD, self._device.banner().encode()))

    def _challenge(self) -> None:
        self._token = os.urandom(TOKEN_SIZE)
        self.post(Packet(Command.AUTH, TOKEN, 0, self._token))

    def _check(self, packet: Packet, nursery: trio.Nursery) -> None:
        keys = self._device.keys
        if keys is None:
            return
        if packet.arg0 == SIGNATURE:
            if self._token and keys.accepts(self._token, packet.payload):
                self._welcome()
            else:
                self._challenge()
        elif packet.arg0 == PUBLIC_KEY and not self._asked:
            self._asked = True
            nursery.start_soon(self._ask, keys, packet.payload.rstrip(b"\0").decode(errors="replace"))

    async def _ask(self, keys: KeyRing, line: str) -> None:
        try:
            await keys.offered(line)
        except ValueError:
            await trio.aclose_forcefully(self._stream)
        else:
            self._welcome()

    # streams

    def _make(self, remote: int, credit: int) -> AdbStream:
        local, self._next = self._next, self._next + 1
        delayed = "delayed_ack" in self.features
        stream = AdbStream(local, remote, self.post, max_payload=self._max_payload, delayed=delayed, credit=credit)
        self._streams[local] = stream
        return stream

    def _route(self, packet: Packet, nursery: trio.Nursery) -> None:
        if packet.command == Command.OPEN:
            stream = self._make(packet.arg0, packet.arg1)
            nursery.start_soon(self._serve, stream, packet.payload.rstrip(b"\0").decode(errors="surrogateescape"))
            return
        known = self._streams.get(packet.arg1)
        if known is None:
            if packet.command != Command.CLSE:
                self.post(Packet(Command.CLSE, 0, packet.arg0))
        elif packet.command == Command.OKAY:
            known.acknowledged(packet)
        elif packet.command == Command.WRTE:
            known.arrived(packet.payload)
        elif packet.command == Command.CLSE:
            known.hung_up()

    async def _serve(self, stream: AdbStream, destination: str) -> None:
        try:
            await self._device.serve(self, stream, destination)
            await stream.drained()
        except* (EOFError, trio.BrokenResourceError):
            pass  # the host has closed the stream, and wants no more of it
        finally:
            self.release(stream)

    async def spawn(self, task: Callable[..., Awaitable[None]], *arguments: object) -> None:
        """Start a task that ends with the connection, and return when it says that it has started."""
        assert self._nursery is not None
        await self._nursery.start(task, *arguments)

    async def connect(self, destination: str) -> AdbStream | None:
        """Open a stream to something on the host; None when it refuses. The caller releases it."""
        stream = self._make(0, 0)
        window = WINDOW if "delayed_ack" in self.features else 0
        self.post(Packet(Command.OPEN, stream.local, window, destination.encode() + b"\0"))
        try:
            if await stream.opened():
                return stream
        except BaseException:
            self.release(stream)
            raise
        self.release(stream)
        return None

    def release(self, stream: AdbStream) -> None:
        """Close a stream and forget it."""
        stream.close()
        self._streams.pop(stream.local, None)
