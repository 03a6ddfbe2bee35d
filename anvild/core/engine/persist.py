"""Jobs that must come through: what the engine itself has to record waits out a full disk or a lost database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from anvild.core.errors import StorageFull
from anvild.core.logging import get_logger
from anvild.core.store import Job, Store
from anvild.sdk import Unavailable

__all__ = ["fetch", "persist"]

T = TypeVar("T")

LONGEST_PAUSE = 5.0

log = get_logger(__name__)


async def persist(store: Store, job: Job[T]) -> T:
    """Run a write job until it is committed, with growing pauses while the store cannot take it.

    Cancellation: as ``Store.write``.
    """
    return await _insist(store.write, job)


async def fetch(store: Store, job: Job[T]) -> T:
    """Run a read job until it has an answer, in the same way."""
    return await _insist(store.read, job)


async def _insist(call: Callable[[Job[T]], Awaitable[T]], job: Job[T]) -> T:
    pause = 0.1
    while True:
        try:
            return await call(job)
        except (StorageFull, Unavailable) as error:
            log.warning("engine_waits_for_store", reason=error.message, pause=pause)
            await trio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
