"""Joining two streams for as long as bytes flow between them."""

from __future__ import annotations

import trio

__all__ = ["BROKEN", "CHUNK", "IDLE_SECONDS", "Pulse", "part", "splice"]

CHUNK = 65536
IDLE_SECONDS = 600.0
PART_SECONDS = 2.0
PART_CHUNKS = 64
BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError)

Way = trio.abc.HalfCloseableStream


class Pulse:
    """A scope that ends when nothing has moved for so long."""

    def __init__(self, seconds: float = IDLE_SECONDS) -> None:
        self.scope = trio.CancelScope()
        self._seconds = seconds
        self.beat()

    def beat(self) -> None:
        """Something has moved."""
        self.scope.deadline = trio.current_time() + self._seconds


async def splice(one: Way, other: Way, *, idle: float = IDLE_SECONDS) -> None:
    """Carry bytes both ways until both have ended, one end breaks, or nothing has moved for ``idle`` seconds.

    Each direction ends by itself. The caller closes the streams.
    """
    pulse = Pulse(idle)
    with pulse.scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_carry, one, other, pulse)
            nursery.start_soon(_carry, other, one, pulse)


async def _carry(source: Way, sink: Way, pulse: Pulse) -> None:
    try:
        while data := await source.receive_some(CHUNK):
            pulse.beat()
            await sink.send_all(data)
            pulse.beat()
        await sink.send_eof()
    except BROKEN:
        pulse.scope.cancel()


async def part(stream: Way) -> None:
    """Say that nothing more comes, and hear the other side out for a moment: closing at once would take back what it
    has not read yet."""
    with trio.move_on_after(PART_SECONDS):
        try:
            await stream.send_eof()
            for _ in range(PART_CHUNKS):
                if not await stream.receive_some(CHUNK):
                    return
        except BROKEN:
            return
