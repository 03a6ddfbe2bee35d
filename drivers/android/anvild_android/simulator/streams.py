"""One stream of a connection: what the transport protocol calls a socket."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable

import trio

from .packets import Command, Packet

__all__ = ["WINDOW", "AdbStream"]

WINDOW = 32 << 20  # how much a peer with delayed acknowledgement may send before the first of them
ACKNOWLEDGED = struct.Struct("<i")


class AdbStream(trio.abc.Stream):
    """A stream inside a connection. Either side's close ends both directions; there is no half close.

    Without delayed acknowledgement one packet is under way at a time; with it, as many bytes as the peer has granted.
    ``post`` hands a packet to the connection; it does not wait, since what it may hand over is bounded here.
    """

    def __init__(
        self,
        local: int,
        remote: int,
        post: Callable[[Packet], None],
        *,
        max_payload: int,
        delayed: bool,
        credit: int = 0,
    ) -> None:
        self.local = local
        self.remote = remote
        self._post = post
        self._max_payload = max_payload
        self._delayed = delayed
        self._credit = credit
        self._chunks: deque[bytes] = deque()
        self._open = True
        self._accepted = False
        self._peer_open = True
        self._moved = trio.lowlevel.ParkingLot()
        self._heard = trio.lowlevel.ParkingLot()
        self._sending = trio.StrictFIFOLock()

    # what the connection tells

    def acknowledged(self, packet: Packet) -> None:
        """Take the peer's OKAY, which grants bytes with delayed acknowledgement, else one packet."""
        if not self._accepted:
            self._accepted = True
            self.remote = packet.arg0
        if self._delayed:
            self._credit += ACKNOWLEDGED.unpack(packet.payload)[0]
        else:
            self._credit = 1
        self._moved.unpark_all()

    def arrived(self, data: bytes) -> None:
        """Take the peer's data."""
        self._chunks.append(data)
        self._heard.unpark_all()

    def hung_up(self) -> None:
        """The peer has closed, or the connection is gone."""
        self._peer_open = False
        self._moved.unpark_all()
        self._heard.unpark_all()

    # what a service does

    def accept(self) -> None:
        """Tell the peer that what it asked for is here. Returning from a service without it refuses."""
        self._accepted = True
        if not self._delayed:
            self._credit = 1
        self._okay(WINDOW)

    def _okay(self, size: int) -> None:
        payload = ACKNOWLEDGED.pack(size) if self._delayed else b""
        self._post(Packet(Command.OKAY, self.local, self.remote, payload))

    async def opened(self) -> bool:
        """Wait until the peer has taken or refused a stream that this side asked for. One that it has taken and closed
        meanwhile was taken: what it sent is there to be received."""
        while self._peer_open and not self._accepted:
            await self._moved.park()
        return self._accepted

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return what the peer sent next, and nothing when it has closed."""
        await trio.lowlevel.checkpoint()
        while not self._chunks:
            if not (self._peer_open and self._open):
                return b""
            await self._heard.park()
        chunk = self._chunks.popleft()
        if max_bytes is not None and len(chunk) > max_bytes:
            self._chunks.appendleft(chunk[max_bytes:])
            chunk = chunk[:max_bytes]
            if not self._delayed:
                return chunk  # the packet is acknowledged when its last byte is taken
        if self._open and self._peer_open:
            self._okay(len(chunk))
        return chunk

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send; returns when the last packet is on its way. Raises BrokenResourceError once the peer has closed."""
        view = memoryview(data)
        async with self._sending:
            while view:
                await self._wait_for_credit()
                size = min(len(view), self._max_payload)
                self._credit -= size if self._delayed else 1
                self._post(Packet(Command.WRTE, self.local, self.remote, bytes(view[:size])))
                view = view[size:]

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the peer takes more."""
        async with self._sending:
            await self._wait_for_credit()

    async def _wait_for_credit(self) -> None:
        while self._open and self._peer_open and self._credit <= 0:
            await self._moved.park()
        if not self._open:
            raise trio.ClosedResourceError("this side has closed the stream")
        if not self._peer_open:
            raise trio.BrokenResourceError("the peer has closed the stream")

    async def drained(self) -> None:
        """Wait until the peer has taken all that was sent, or has closed; a close before that loses data."""
        while not self._delayed and self._accepted and self._peer_open and self._credit <= 0:
            await self._moved.park()

    def close(self) -> None:
        """Close at once."""
        if self._open:
            self._open = False
            if self._peer_open:
                self._post(Packet(Command.CLSE, self.local if self._accepted else 0, self.remote))
            self._moved.unpark_all()
            self._heard.unpark_all()

    async def aclose(self) -> None:
        """Close after what was sent has been taken; when cancelled, at once."""
        try:
            await self.drained()
        finally:
            self.close()
