"""The execution of one attempt: one nursery, from the first look at its run to the release of its device.

The order of an end: what the run has become is written; the workload is cancelled and has :data:`GRACE_SECONDS`; its
session closes; the device is cleaned or destroyed; the lease is released. When the daemon itself stops, nothing is
written: the next start finds the open attempt and takes it up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import trio
from sqlalchemy import Connection, Row

from anvild.core.artifacts import Artifacts
from anvild.core.logging import get_logger
from anvild.core.store import Store
from anvild.sdk import (
    AnvilError,
    DeviceFact,
    DeviceLost,
    DriverFault,
    NotFound,
    Outcome,
    RunInfo,
    Verdict,
    Workload,
)

from . import journal
from .context import Context, Gate
from .devices import device_row, fact_of
from .guard import Fences
from .hosting import HostedDriver
from .leases import Fate
from .persist import fetch, persist
from .queue import Demand, order_for
from .states import Ending, ending_of
from .tenure import Tenure
from .values import LeaseInfo, RunState

__all__ = ["GRACE_SECONDS", "Execution", "Release"]

GRACE_SECONDS = 10.0

log = get_logger(__name__)


class Release(Protocol):
    """How a tenant gives its lease back."""

    async def __call__(self, lease: LeaseInfo, fate: Fate, reason: str) -> None: ...


class Execution:
    """One attempt of one run on one device.

    ``resumed`` says that an earlier incarnation of the daemon began this very attempt. ``false_start`` is called when
    the place could not even begin it, before the lease is released. ``elsewhere`` says whether a driver other than the
    named one may make a device for a run of a team.
    """

    def __init__(
        self,
        run_id: str,
        attempt: int,
        lease: LeaseInfo,
        *,
        hosted: HostedDriver,
        workloads: Mapping[str, Workload],
        store: Store,
        artifacts: Artifacts,
        fences: Fences,
        release: Release,
        false_start: Callable[[], None],
        elsewhere: Callable[[Demand, str, str], bool],
        resumed: bool = False,
    ) -> None:
        self.run_id = run_id
        self.attempt = attempt
        self.lease = lease
        self.runaway = False
        self._hosted = hosted
        self._workloads = workloads
        self._store = store
        self._artifacts = artifacts
        self._fences = fences
        self._release = release
        self._false_start = false_start
        self._elsewhere = elsewhere
        self._resumed = resumed
        self._gate = Gate()
        self._scope = trio.CancelScope()
        self._ending: Ending | None = None
        self._over = trio.Event()
        self._work_done = trio.Event()
        self.began = False
        self._context: Context | None = None
        self._tenure: Tenure | None = None
        self._lost: str | None = None

    # ----- what the engine tells it, on the loop

    def cancelled(self, reason: str) -> None:
        """The run was cancelled; that is written already."""
        self._end(Ending(state=RunState.CANCELLED, code="cancelled", reason=reason, began=self.began))

    def device_lost(self, reason: str) -> None:
        """The device has gone."""
        self._lost = reason
        if self._tenure is not None:
            self._tenure.lost = reason
        self._broken(DeviceLost(reason))

    def driver_gone(self, reason: str) -> None:
        """The driver is taken away from its work; one on another machine takes its devices with it."""
        if self._hosted.elsewhere:
            self.device_lost(reason)
        else:
            self._broken(DriverFault(f"the driver {self._hosted.name!r} was stopped: {reason}"))

    def pause(self) -> None:
        """The run shall stop at its next pause point."""
        self._gate.wanted = True

    def resume(self) -> None:
        """The run shall go on."""
        self._gate.go()

    # ----- its life

    async def run(self) -> None:
        """Execute the attempt to its end. Cancelled only when the daemon stops."""
        row, fact = await fetch(self._store, self._load)
        self._tenure = Tenure(self._hosted, self.lease, fact, store=self._store, fences=self._fences)
        self._tenure.lost = self._lost
        if row.state not in (RunState.RUNNING, RunState.PAUSED) or row.attempt != self.attempt:
            self.cancelled(row.reason or "the run has ended")
        if row.pausing:
            self._gate.wanted = True
        if row.state == RunState.PAUSED:
            self._gate.stand()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._work, nursery, row, self._tenure)
            nursery.start_soon(self._watch_deadline, row.deadline)
            await self._over.wait()
            await self._finish(self._tenure)
            nursery.cancel_scope.cancel()

    async def _finish(self, tenure: Tenure) -> None:
        assert self._ending is not None
        ending = self._ending
        await persist(self._store, lambda conn: journal.settle(conn, self.run_id, self.attempt, ending))
        self._scope.cancel()
        with trio.move_on_after(GRACE_SECONDS):
            await self._work_done.wait()
        if not self._work_done.is_set():
            self.runaway = True
            log.error("workload_ignores_cancellation", run=self.run_id, attempt=self.attempt)
        if self._context is not None:
            self._context.end()
        fate = await tenure.finish()
        if ending.retry and not ending.began and not ending.elsewhere:
            self._false_start()
        await self._release(self.lease, fate, ending.code)

    async def _work(self, nursery: trio.Nursery, row: Row[Any], tenure: Tenure) -> None:
        try:
            with self._scope:
                self._end(await self._attempt(nursery, row, tenure))
        except Exception as error:
            self._end(ending_of(error, began=self.began))
        finally:
            self._work_done.set()

    async def _attempt(self, nursery: trio.Nursery, row: Row[Any], tenure: Tenure) -> Ending:
        workload = self._workloads.get(row.kind)
        if workload is None:
            raise NotFound(f"nothing here executes runs of the kind {row.kind!r}")
        await self._gate.goes.wait()
        if tenure.made_to_order and not self._resumed:
            demand = journal.demand_of(row)
            request = order_for(demand.requirements, tenure.hosted.name)
            assert request is not None
            try:
                await tenure.make(request)
            except NotFound as error:
                if not self._elsewhere(demand, tenure.hosted.name, row.team_id):
                    raise
                tenure.hosted.lacks(request.template, error.message)
                return Ending(
                    state=RunState.FAILED,
                    code=error.code,
                    reason=error.message,
                    began=False,
                    retry=True,
                    elsewhere=True,
                )
        opened = await tenure.open(nursery, self._broken)
        assert opened.session is not None
        info = RunInfo(
            run_id=self.run_id,
            attempt=self.attempt,
            kind=row.kind,
            name=row.name,
            spec=row.spec,
            metadata=row.metadata or {},
            checkpoint=row.checkpoint if self._resumed else None,
            resumed=self._resumed,
        )
        self._context = Context(
            info,
            opened.session,
            team_id=row.team_id,
            incarnation=self.lease.incarnation,
            store=self._store,
            artifacts=self._artifacts,
            gate=self._gate,
        )
        self.began = True
        outcome: object = await workload.run(self._context)
        if not isinstance(outcome, Outcome):
            raise TypeError(f"it returned {type(outcome).__name__} in place of an Outcome")
        passed = outcome.verdict is Verdict.PASSED
        return Ending(
            state=RunState.PASSED if passed else RunState.FAILED,
            code="passed" if passed else "failed",
            reason=outcome.reason,
            began=True,
        )

    async def _watch_deadline(self, seconds: float | None) -> None:
        if seconds is None:
            return
        left = seconds
        while True:
            await self._gate.goes.wait()
            since = trio.current_time()
            with trio.move_on_after(left):
                await self._gate.stands.wait()
                left -= trio.current_time() - since
                continue
            reason = f"it did not end within its deadline of {seconds:g} s"
            self._end(Ending(state=RunState.FAILED, code="deadline_exceeded", reason=reason, began=self.began))
            return

    def _load(self, conn: Connection) -> tuple[Row[Any], DeviceFact]:
        return journal.run_row(conn, self.run_id), fact_of(device_row(conn, self.lease.device_id))

    def _broken(self, error: AnvilError) -> None:
        self._end(ending_of(error, began=self.began))

    def _end(self, ending: Ending) -> None:
        """Take the first ending; what comes after it changes nothing."""
        if self._ending is None:
            self._ending = ending
            self._over.set()
