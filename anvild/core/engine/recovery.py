"""What an earlier incarnation of the daemon left behind: every lease of this host that was active when it ended.

Each is settled with its driver, by these rules:

- The device runs on and the workload can go on: the same attempt goes on, from its last checkpoint.
- Anything else that was executing becomes a new attempt, which costs the run nothing.
- A run that had its verdict keeps it; only the cleaning is done again.
- A person's lease with a duration goes on with its full duration if the device runs on. One without has ended with the
  connection that it was for.
- A person's lease that lasts until it is released waits for a driver that does not get ready in time.
- Before any of these leases ends, its device is cleaned, or destroyed if it was made to order. A driver that does not
  get ready in time does that when it does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import trio
from sqlalchemy import Connection, select, update

from anvild.core.logging import get_logger
from anvild.core.store import Store
from anvild.sdk import AnvilError, DeviceFact, Workload

from . import journal
from .devices import device_row, fact_of
from .execution import Release
from .guard import Fences
from .hosting import HostedDriver
from .leases import Fate, lasts, lease_from, leave_slot, takes_slot
from .persist import fetch, persist
from .states import DAEMON_RESTART, Ending
from .tables import attempts, leases
from .tenure import Tenure
from .values import LeaseInfo, RunState

__all__ = ["Recoverer"]

PATIENCE_SECONDS = 20.0
"""How long a driver may take to get ready before what it held is settled without it."""

RESTARTED = Ending(
    state=RunState.FAILED, code=DAEMON_RESTART, reason="the daemon was restarted", began=True, retry=True
)

log = get_logger(__name__)


class Recoverer:
    """Settles the leases that earlier incarnations left. ``adopt`` goes on with an attempt, ``hold`` with a person's
    lease, told why its driver is away if it is. ``settling`` tells others which devices are not settled yet, with an
    event each."""

    def __init__(
        self,
        *,
        store: Store,
        host: str,
        incarnation: str,
        drivers: Mapping[str, HostedDriver],
        workloads: Mapping[str, Workload],
        fences: Fences,
        release: Release,
        adopt: Callable[[LeaseInfo], None],
        hold: Callable[[Tenure, str | None], None],
        settling: dict[str, trio.Event],
    ) -> None:
        self._store = store
        self._host = host
        self._incarnation = incarnation
        self._drivers = drivers
        self._workloads = workloads
        self._fences = fences
        self._release = release
        self._adopt = adopt
        self._hold = hold
        self._settling = settling

    async def run(self, nursery: trio.Nursery) -> int:
        """Begin to settle all of them, each in a task of its own, and return how many there are."""
        query = select(leases).where(
            leases.c.host == self._host,
            leases.c.released_at.is_(None),
            leases.c.incarnation != self._incarnation,
        )
        left = await fetch(self._store, lambda conn: [lease_from(row) for row in conn.execute(query)])
        for lease in left:
            self._settling[lease.device_id] = trio.Event()
            nursery.start_soon(self._settle_one, lease)
        return len(left)

    async def _settle_one(self, lease: LeaseInfo) -> None:
        try:
            await self._settle(lease)
        finally:
            self._settling.pop(lease.device_id).set()

    async def _settle(self, lease: LeaseInfo) -> None:
        hosted = self._drivers.get(lease.driver)
        fact = await fetch(self._store, lambda conn: fact_of(device_row(conn, lease.device_id)))
        ready = hosted is not None and await self._ready(hosted)
        if hosted is not None and not ready and lasts(lease) and fact.handle is not None:
            tenure = Tenure(hosted, lease, fact, store=self._store, fences=self._fences)
            await self._go_on_holding(tenure, away=hosted.blocked or "its driver is away")
            return
        if hosted is None or not ready:
            log.warning("recovery_without_driver", driver=lease.driver, lease=lease.id)
            await self._end_attempt(lease)
            await self._release(lease, Fate(unclean=True), DAEMON_RESTART)
            return
        tenure = Tenure(hosted, lease, fact, store=self._store, fences=self._fences)
        alive, reason = await self._ask(tenure)
        log.info("recovery", lease=lease.id, run=lease.run_id, alive=alive, reason=reason)
        if alive and lease.run_id is not None:
            if await self._take_over(lease, tenure.fact):
                self._adopt(lease)
                return
        elif alive and lease.duration is not None:
            await self._go_on_holding(tenure)
            return
        await self._end_attempt(lease)
        if not alive:
            tenure.lost = reason
        await self._release(lease, await tenure.finish(), DAEMON_RESTART)

    async def _ready(self, hosted: HostedDriver) -> bool:
        with trio.move_on_after(PATIENCE_SECONDS):
            await hosted.wait_ready()
            return True
        return False

    async def _ask(self, tenure: Tenure) -> tuple[bool, str]:
        """Whether the device runs on, and why it is thought so."""
        try:
            return await tenure.survived()
        except AnvilError as error:
            return False, error.message

    async def _take_over(self, lease: LeaseInfo, fact: DeviceFact) -> bool:
        """Make the attempt one of this incarnation, if it can go on."""

        def job(conn: Connection) -> bool:
            row = journal.run_row(conn, lease.run_id or "")
            workload = self._workloads.get(row.kind)
            if workload is None or not workload.adoptable:
                return False
            if row.state not in (RunState.RUNNING, RunState.PAUSED) or row.attempt != lease.attempt:
                return False
            taken = conn.execute(
                update(attempts)
                .where(
                    attempts.c.run_id == lease.run_id,
                    attempts.c.attempt == lease.attempt,
                    attempts.c.verdict.is_(None),
                    attempts.c.ended_at.is_(None),
                )
                .values(incarnation=self._incarnation)
            )
            if taken.rowcount != 1:
                return False
            _take_lease(conn, lease, self._incarnation)
            journal.note(conn, row, "adopted", data={"attempt": lease.attempt, "device": fact.name})
            return True

        return await persist(self._store, job)

    async def _go_on_holding(self, tenure: Tenure, *, away: str | None = None) -> None:
        lease = tenure.lease
        tenure.lease = await persist(self._store, lambda conn: self._take_holding(conn, lease, aside=tenure.aside))
        self._hold(tenure, away)

    def _take_holding(self, conn: Connection, lease: LeaseInfo, *, aside: bool) -> LeaseInfo:
        """Make a person's lease one of this incarnation. A device that is aside has no slot, whatever the end of the
        daemon cut short."""
        _take_lease(conn, lease, self._incarnation)
        return leave_slot(conn, lease) if aside and takes_slot(lease) else lease

    async def _end_attempt(self, lease: LeaseInfo) -> None:
        run_id, attempt = lease.run_id, lease.attempt
        if run_id is not None and attempt is not None:
            await persist(self._store, lambda conn: journal.settle(conn, run_id, attempt, RESTARTED))


def _take_lease(conn: Connection, lease: LeaseInfo, incarnation: str) -> None:
    conn.execute(update(leases).where(leases.c.id == lease.id).values(incarnation=incarnation))
