"""The scheduler: woken by commits, it claims places for waiting runs, many in one store job.

A slow sweep is the safety net. A lease that ends and the next claim are one job, so a device goes from hand to hand in
one commit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio
from sqlalchemy import Connection

from anvild.core.store import Store

from .claims import Grant, Supply, claim
from .journal import close_attempt
from .leases import Fate, release
from .persist import persist
from .values import LeaseInfo
from .waiting import tell_heads

__all__ = ["Scheduler"]

SWEEP_SECONDS = 30.0
EXPLAIN_SECONDS = 1.0


class Scheduler:
    """Matches waiting runs with free places of this host.

    ``supply`` says what there is now, ``idle`` whether any of it may be free; ``start`` begins a granted attempt.
    """

    def __init__(
        self,
        store: Store,
        *,
        supply: Callable[[], Supply],
        idle: Callable[[], bool],
        start: Callable[[Sequence[Grant]], None],
    ) -> None:
        self.claims = 0
        self.granted = 0
        self.last_claim_seconds = 0.0
        self._store = store
        self._supply = supply
        self._idle = idle
        self._start = start
        self._wake = trio.Event()
        self._explain = trio.Event()

    def wake(self) -> None:
        """Something has changed that may let a run start, or change why it waits."""
        self._wake.set()
        self._explain.set()

    async def run(self) -> None:
        """Claim whenever woken, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell_why)
            while True:
                with trio.move_on_after(SWEEP_SECONDS):
                    await self._wake.wait()
                self._wake = trio.Event()
                if self._idle():
                    await self._claim()

    async def release(self, lease: LeaseInfo, fate: Fate, reason: str) -> None:
        """End a lease, and the attempt that it was for, and give the device on in the same commit.

        Cancellation: as ``Store.write``; grants that were committed are started in any case.
        """
        supply = self._supply()

        def job(conn: Connection) -> list[Grant]:
            release(conn, lease, fate, reason)
            if lease.run_id is not None and lease.attempt is not None:
                close_attempt(conn, lease.run_id, lease.attempt)
            return claim(conn, supply)

        self._started(await persist(self._store, job))

    async def _claim(self) -> None:
        supply = self._supply()
        since = trio.current_time()
        grants = await persist(self._store, lambda conn: claim(conn, supply))
        self.last_claim_seconds = trio.current_time() - since
        self.claims += 1
        self._started(grants)

    def _started(self, grants: Sequence[Grant]) -> None:
        self.granted += len(grants)
        if grants:
            self._start(grants)

    async def _tell_why(self) -> None:
        """Write why the heads of the lanes wait, a second after a change: what passes sooner is not worth telling."""
        while True:
            await self._explain.wait()
            await trio.sleep(EXPLAIN_SECONDS)
            self._explain = trio.Event()
            await tell_heads(self._store, self._supply())
