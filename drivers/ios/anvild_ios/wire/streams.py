"""Byte streams that are read in exact pieces, and the errors of a wire."""

from __future__ import annotations

import trio

__all__ = ["Wire", "WireBroken", "WireClosed", "WireGarbled"]

RECEIVE_BYTES = 65536


class WireBroken(Exception):
    """The base of all that can be wrong with a wire."""


class WireClosed(WireBroken):
    """The other end has gone, or was never there."""


class WireGarbled(WireBroken):
    """What came does not fit the protocol."""


class Wire:
    """A trio stream with exact reads. One task reads and one writes at a time.

    All errors of the stream are raised as :class:`WireClosed`.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def send(self, data: bytes) -> None:
        """Send all of ``data``."""
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise WireClosed("the connection is closed") from error

    async def receive(self) -> bytes:
        """Return what has come, at least one byte; empty at the end of the stream."""
        if self._buffer:
            data = bytes(self._buffer)
            self._buffer.clear()
            await trio.lowlevel.checkpoint()
            return data
        return await self._more()

    async def exactly(self, count: int) -> bytes:
        """Return the next ``count`` bytes. Raises WireClosed when the stream ends before."""
        while len(self._buffer) < count:
            more = await self._more()
            if not more:
                raise WireClosed("the connection ended in the middle of a message" if self._buffer else "it has ended")
            self._buffer += more
        data = bytes(memoryview(self._buffer)[:count])
        del self._buffer[:count]
        return data

    async def _more(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some(RECEIVE_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise WireClosed("the connection is broken") from error

    def release(self) -> trio.abc.Stream:
        """Give the bare stream away, to go on with it in another form. Raises WireGarbled when bytes came too early."""
        if self._buffer:
            raise WireGarbled(f"{len(self._buffer)} bytes came before they were asked for")
        return self._stream

    async def aclose(self) -> None:
        """Close the stream. Closing twice is fine."""
        await trio.aclose_forcefully(self._stream)
