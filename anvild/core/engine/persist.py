"""Writes that must come through: what the engine itself has to record waits out a full disk or a lost database."""

from __future__ import annotations

from typing import TypeVar

import trio

from anvild.core.errors import StorageFull
from anvild.core.logging import get_logger
from anvild.core.store import Job, Store
from anvild.sdk import Unavailable

__all__ = ["persist"]

T = TypeVar("T")

LONGEST_PAUSE = 10.0

log = get_logger(__name__)


async def persist(store: Store, job: Job[T]) -> T:
    """Run a write job until it is committed, with growing pauses while the store cannot take it.

    Cancellation: as ``Store.write``.
    """
    pause = 0.1
    while True:
        try:
            return await store.write(job)
        except (StorageFull, Unavailable) as error:
            log.warning("engine_write_waits", reason=error.message, pause=pause)
            await trio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
