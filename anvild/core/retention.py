"""Retention: what has ended long ago is removed, so that a lab can be left alone for years."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial

import trio
from sqlalchemy import Connection

from anvild.core.clock import utcnow
from anvild.core.errors import StorageFull
from anvild.core.logging import get_logger
from anvild.core.store import Store
from anvild.sdk import Unavailable

__all__ = ["SLICE", "Remove", "Retention"]

SLICE = 200
"""How many things are removed in one transaction."""

PAUSE_SECONDS = 0.2
EVERY_SECONDS = 3600.0

Remove = Callable[[datetime, Connection], int]
"""Removes at most :data:`SLICE` things that ended before a moment, and returns how many those were."""

log = get_logger(__name__)


class Retention:
    """Removes what ended long ago, in slices, with pauses that leave the writer to the work.

    ``kept`` says of each kind of things how one slice of them is removed, and how long they are kept.
    """

    def __init__(self, store: Store, kept: Sequence[tuple[Remove, timedelta]]) -> None:
        self._store = store
        self._kept = kept

    async def run(self) -> None:
        """Sweep now and every hour, until cancelled. A sweep that fails is tried again with the next one."""
        while True:
            try:
                await self.sweep()
            except (StorageFull, Unavailable) as error:
                log.warning("retention_put_off", reason=error.message)
            except Exception:
                log.exception("retention_failed")
            await trio.sleep(EVERY_SECONDS)

    async def sweep(self) -> int:
        """Remove all that is too old; return how many things that were.

        Cancelled in between, the next sweep does the rest.
        """
        now = utcnow()
        removed = 0
        for remove, keep in self._kept:
            while count := await self._store.write(partial(remove, now - keep)):
                removed += count
                await trio.sleep(PAUSE_SECONDS)
        return removed
