"""An allowance: so much a second, and so much at once after a time of silence."""

from __future__ import annotations

import trio

__all__ = ["Allowance"]


class Allowance:
    """What one source may use up. ``rate`` is an amount a second, ``at_once`` the most that can be saved up.

    Its time is trio's: make it and use it on the loop.
    """

    def __init__(self, rate: float, at_once: float) -> None:
        self._rate = rate
        self._most = at_once
        self._left = at_once
        self._at: float | None = None

    def take(self, amount: float = 1) -> bool:
        """Take an amount if it is there."""
        self._fill()
        if self._left < amount:
            return False
        self._left -= amount
        return True

    async def wait(self, amount: float = 1) -> bool:
        """Take an amount, and wait until it is there. Returns whether that took time.

        Cancelled, it is taken all the same.
        """
        self._fill()
        self._left -= amount
        late = self._left < 0
        await trio.sleep(-self._left / self._rate if late else 0)
        return late

    def _fill(self) -> None:
        now = trio.current_time()
        if self._at is not None:
            self._left = min(self._most, self._left + (now - self._at) * self._rate)
        self._at = now
