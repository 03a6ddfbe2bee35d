"""What waits to be sent: one queue, written by one task, with room for so much and no more."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NoReturn

import trio

from .statistics import Statistics
from .transports import Transport

__all__ = ["Outbox", "Traffic"]

Traffic = Callable[[str, "str | bytes"], None]
"""Hears of every message: ``"sent"`` or ``"received"``, and the message."""

ROOM = 262144
"""How many bytes may wait to be sent before those who would send more have to wait."""


class Outbox:
    """The messages that are still to be sent.

    Whoever adds to it waits for :meth:`room` first, except for what a reader must say at once (credit, answers that
    refuse), because a reader that waited for a writer could wait for ever.
    """

    def __init__(self, transport: Transport, counts: Statistics, on_traffic: Traffic | None) -> None:
        self.size = 0
        self._transport = transport
        self._counts = counts
        self._on_traffic = on_traffic
        self._queue: deque[str | bytes] = deque()
        self._wake = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()

    async def room(self) -> None:
        """Wait while too much is still to be sent. It is no checkpoint when there is room."""
        while self.size > ROOM:
            await self._room.park()

    def post(self, message: str | bytes) -> None:
        """Add a message."""
        self._queue.append(message)
        self.size += len(message)
        self._counts.peak_unsent = max(self._counts.peak_unsent, self.size)
        self._wake.unpark_all()

    def clear(self) -> None:
        """Forget everything: the connection has ended."""
        self._queue.clear()
        self.size = 0
        self._room.unpark_all()

    async def write(self) -> NoReturn:
        """Send for ever. Raises TransportClosed."""
        queue, counts = self._queue, self._counts
        while True:
            while queue:
                message = queue.popleft()
                if self._on_traffic is not None:
                    self._on_traffic("sent", message)
                counts.messages_sent += 1
                counts.bytes_sent += len(message)
                await self._transport.send(message)
                self.size -= len(message)
                if self.size <= ROOM:
                    self._room.unpark_all()
            await self._wake.park()
