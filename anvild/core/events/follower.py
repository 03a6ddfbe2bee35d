"""One reader of the live tail."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import trio

from anvild.core.events.filter import EventFilter
from anvild.sdk import AnvilError, Event

__all__ = ["PAGE", "Follower", "SlowReader"]

PAGE = 500  # events that are read from the log at once


class SlowReader(AnvilError):
    """The reader of a live tail has fallen behind its buffer and was cut off. It resumes from its last event's id."""

    code = "slow_reader"
    http = 503
    retry = True


class Follower(AsyncIterator[Event]):
    """The events after a position: first those that are in the log, then those that are committed from now on.

    Made by ``EventLog.follow``. Iterate over it, or take all that is ready at once with :meth:`batch`. A wait that is
    cancelled loses no event.
    """

    def __init__(
        self,
        where: EventFilter,
        *,
        after: int,
        buffer: int,
        page: Callable[[int, int | None], Awaitable[list[Event]]],
        join: Callable[[Follower], int],
    ) -> None:
        """``page(after, before)`` reads the log; ``join`` joins the tail and returns the id that it starts after."""
        self.where = where
        self._position = after  # the last event that the reader has got
        self._read_to = after  # the last event that was read from the log
        self._live_after: int | None = None  # the id after which events come live; None before the tail was joined
        self._replaying = True
        self._replayed: deque[Event] = deque()
        self._live: deque[Event] = deque()
        self._capacity = buffer
        self._overflowed = False
        self._page = page
        self._join = join
        self._parking = trio.lowlevel.ParkingLot()

    def join(self) -> None:
        """Take nothing from the log: begin with what is committed from now on."""
        self._live_after = self._position = self._read_to = self._join(self)
        self._replaying = False

    def offer(self, events: Sequence[Event]) -> None:
        """Put events of the live tail, already chosen, into the buffer. Called on the loop; never waits."""
        if self._overflowed:
            return
        self._live.extend(event for event in events if event.id > self._read_to)
        if len(self._live) > self._capacity:
            self._overflowed = True
            while len(self._live) > self._capacity:
                self._live.pop()
        self._parking.unpark_all()

    async def batch(self) -> list[Event]:
        """Wait for an event and return it with all others that are ready, in the order of their ids.

        Raises SlowReader when the buffer has overflowed and all that was in it has been returned.
        """
        queue = await self._ready()
        events = list(queue)
        queue.clear()
        self._position = events[-1].id
        return events

    async def __anext__(self) -> Event:
        event = (await self._ready()).popleft()
        self._position = event.id
        return event

    async def _ready(self) -> deque[Event]:
        """Wait until there is an event, and return the queue that holds the next one."""
        await trio.lowlevel.checkpoint()
        while True:
            if self._replayed:
                return self._replayed
            if self._replaying:
                await self._replay()
            elif self._live:
                return self._live
            elif self._overflowed:
                raise SlowReader(
                    f"the reader fell more than {self._capacity} events behind; it can resume after {self._position}",
                    last_id=self._position,
                )
            else:
                await self._parking.park()

    async def _replay(self) -> None:
        """Read the next page. The tail is joined when the end is near, so that a long replay needs no long buffer."""
        if self._live_after is None:
            found = await self._page(self._read_to, None)
            if len(found) < PAGE:
                self._live_after = self._join(self)
        else:
            found = await self._page(self._read_to, self._live_after + 1)
            self._replaying = len(found) == PAGE
        if found:
            self._read_to = found[-1].id
            self._replayed.extend(found)
