"""The scheduler: woken by commits, it claims places for waiting runs, many in one store job.

A slow sweep is the safety net. A lease that ends and the next claim are one job, so a device goes from hand to hand in
one commit. A claim that fails for a reason that nobody has foreseen ends neither the daemon nor the lease: it is
logged, told as ``trouble``, and tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio
from sqlalchemy import Connection

from anvild.core.logging import get_logger
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
LONGEST_PAUSE = 60.0

log = get_logger(__name__)


class Scheduler:
    """Matches waiting runs with free places of this host.

    ``supply`` says what there is now, ``idle`` whether any of it may be free; ``start`` begins a granted attempt.
    ``trouble`` is why the last claim failed, None when it did not; ``failures`` counts those that did.
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
        self.failures = 0
        self.trouble: str | None = None
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
            pause = 1.0
            while True:
                with trio.move_on_after(SWEEP_SECONDS):
                    await self._wake.wait()
                self._wake = trio.Event()
                # A release whose commit has woken this task enters first what it has given on.
                await trio.lowlevel.checkpoint()
                if not self._idle():
                    continue
                try:
                    await self._claim()
                except Exception as error:
                    self._failed(error)
                    self._wake.set()
                    await trio.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
                else:
                    pause = 1.0

    async def release(self, lease: LeaseInfo, fate: Fate, reason: str) -> None:
        """End a lease, and the attempt that it was for, and give the device on in the same commit.

        Cancellation: as ``Store.write``; grants that were committed are started in any case.
        """
        supply = self._supply()

        def end(conn: Connection) -> None:
            release(conn, lease, fate, reason)
            if lease.run_id is not None and lease.attempt is not None:
                close_attempt(conn, lease.run_id, lease.attempt)

        def end_and_claim(conn: Connection) -> list[Grant]:
            end(conn)
            return claim(conn, supply)

        try:
            grants = await persist(self._store, end_and_claim)
        except Exception as error:
            self._failed(error)
            await persist(self._store, end)
            self._wake.set()
        else:
            self._started(grants)

    async def _claim(self) -> None:
        supply = self._supply()
        since = trio.current_time()
        grants = await persist(self._store, lambda conn: claim(conn, supply))
        self.last_claim_seconds = trio.current_time() - since
        self.claims += 1
        self._started(grants)

    def _started(self, grants: Sequence[Grant]) -> None:
        self.trouble = None
        self.granted += len(grants)
        if grants:
            self._start(grants)

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        self.trouble = f"no run can be given a device, by a {type(error).__name__}: see the log"
        log.error("claim_failed", exc_info=error)

    async def _tell_why(self) -> None:
        """Write why the heads of the lanes wait, a second after a change: what passes sooner is not worth telling."""
        while True:
            await self._explain.wait()
            await trio.sleep(EXPLAIN_SECONDS)
            self._explain = trio.Event()
            try:
                await tell_heads(self._store, self._supply())
            except Exception:
                log.exception("waiting_not_told")
