"""The socket protocol of the adb server: requests of four hex digits and a text, answers OKAY or FAIL."""

from __future__ import annotations

import trio

from anvild.sdk import AnvilError, DeviceLost, InvalidArgument, Unavailable

from .errors import from_server

__all__ = ["REQUEST_LIMIT", "AdbStream", "Closed"]

REQUEST_LIMIT = 0xFFFF
RECEIVE_SIZE = 65536


class Closed(Exception):
    """The stream ended where more was due."""


class AdbStream(trio.abc.Stream):
    """A connection to the adb server: first of requests, then of the bytes of the service that it was opened for.

    It holds at most one read of 64 KiB. Closing it ends the service on the device: no linger, no thread.
    """

    def __init__(self, stream: trio.SocketStream, device: str = "") -> None:
        self.device = device
        self._stream = stream
        self._rest = b""

    async def request(self, service: str) -> None:
        """Ask for a service and return when it is granted. Raises what the refusal means, InvalidArgument, Closed."""
        data = service.encode("utf-8", "surrogateescape")
        if len(data) > REQUEST_LIMIT:
            raise InvalidArgument(f"a command for a device has at most {REQUEST_LIMIT} bytes, and this has {len(data)}")
        await self.send_all(b"%04x" % len(data) + data)
        await self.status()

    async def status(self) -> None:
        """Read OKAY, or raise what FAIL means."""
        word = await self.receive_exactly(4)
        if word == b"FAIL":
            raise self._refusal(await self.receive_text())
        if word != b"OKAY":
            raise Unavailable(f"what answers in place of an adb server says {word!r}")

    def _refusal(self, text: str) -> AnvilError:
        return from_server(text, self.device) if self.device else Unavailable(f"the adb server refuses: {text}")

    async def receive_text(self) -> str:
        """Read a text with its length in four hex digits before it."""
        head = await self.receive_exactly(4)
        try:
            size = int(head, 16)
        except ValueError:
            raise Unavailable(f"the adb server sent {head!r} in place of a length") from None
        return (await self.receive_exactly(size)).decode("utf-8", "replace")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send with back-pressure. Raises DeviceLost, or Unavailable where no device is meant."""
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError:
            raise self.lost() from None

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return some bytes, or none at the end. Raises DeviceLost, or Unavailable where no device is meant."""
        if not self._rest:
            try:
                data = bytes(await self._stream.receive_some(RECEIVE_SIZE))
            except trio.BrokenResourceError:
                raise self.lost() from None
            if max_bytes is None or len(data) <= max_bytes:
                return data
            self._rest = data
        if max_bytes is None or len(self._rest) <= max_bytes:
            data, self._rest = self._rest, b""
        else:
            data, self._rest = self._rest[:max_bytes], self._rest[max_bytes:]
        return data

    @property
    def has_news(self) -> bool:
        """Whether there is something to receive, or the stream has ended."""
        return bool(self._rest) or self._stream.socket.is_readable()

    async def receive_exactly(self, size: int) -> bytes:
        """Return that many bytes. Raises Closed when there are fewer."""
        if len(self._rest) >= size:
            data, self._rest = self._rest[:size], self._rest[size:]
            return data
        parts: list[bytes] = []
        while size:
            part = await self.receive_some(size)
            if not part:
                raise Closed
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    async def receive_all(self, limit: int) -> bytes:
        """Return what comes until the end, at most ``limit`` bytes; the rest is dropped."""
        kept = bytearray()
        while data := await self.receive_some():
            kept += data[: max(limit - len(kept), 0)]
        return bytes(kept)

    def lost(self) -> AnvilError:
        """The error for a stream that ended where more was due."""
        if self.device:
            return DeviceLost(f"the device {self.device} has gone, or its connection has")
        return Unavailable("the adb server closed the connection")

    async def aclose(self) -> None:
        await self._stream.aclose()
