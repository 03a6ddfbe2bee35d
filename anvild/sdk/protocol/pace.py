"""How fast a connection is read: fast enough for everything but a flood."""

from __future__ import annotations

import trio

__all__ = ["STRETCH", "Pace"]

STRETCH = 16
"""How many messages are read without letting other tasks run."""

PACE = 10_000
"""How many text messages a second are read at most, after as many at once."""


class Pace:
    """Holds up a side that sends faster than it can be listened to without harm to others."""

    def __init__(self) -> None:
        self._left = float(PACE)
        self._at = trio.current_time()

    async def keep(self) -> None:
        """A text message was read: wait when there were too many."""
        self._left -= 1
        if self._left < 0:
            now = trio.current_time()
            self._left = min(self._left + (now - self._at) * PACE, PACE)
            self._at = now
            if self._left < 0:
                await trio.sleep(STRETCH / PACE)
