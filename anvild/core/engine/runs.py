"""What people and wings do with runs: submit, look, cancel, pause, resume, retry."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
from sqlalchemy import Connection, bindparam, func, select, update

from anvild.core.errors import Conflict, InvalidRequest
from anvild.core.ids import new_id
from anvild.core.store import Store
from anvild.sdk import NotFound, Requirements, Severity, Workload

from . import journal
from .claims import Supply
from .devices import visible
from .journal import move, note, run_from, run_row, select_runs
from .persist import persist
from .tables import attempts, devices, findings, runs
from .values import Actor, Attempt, Finding, Run, RunRequest, RunState
from .waiting import why_waiting

__all__ = ["Runs"]

Change = Callable[[Connection, str, Actor], None]
Also = Callable[[Connection, str], None]
"""What else a transaction does about a run, by its id."""

_ACTIVE = (RunState.QUEUED, RunState.RUNNING, RunState.PAUSED)

_newest = (
    select_runs().where(runs.c.team_id == bindparam("team_id")).order_by(runs.c.number.desc()).limit(bindparam("limit"))
)


class Runs:
    """The runs of all teams. Whether somebody may see or change a run is the caller's question, not this class's.

    Every change is one store job and is durable when the call returns. Cancelling a call before that changes nothing.
    ``workloads`` says which kinds exist; the engine fills it before it runs.
    """

    def __init__(
        self,
        store: Store,
        workloads: Mapping[str, Workload],
        *,
        default_deadline: float,
        supply: Callable[[], Supply],
    ) -> None:
        self._store = store
        self._supply = supply
        self._workloads = workloads
        self._default_deadline = default_deadline

    async def submit(self, request: RunRequest, by: Actor = journal.SYSTEM, *, also: Also | None = None) -> Run:
        """Add a run and return it, queued (or as a draft). ``also`` runs in the same transaction.

        Raises InvalidRequest for a kind that nobody executes and for limits out of range, NotFound when the team
        cannot see the requested device.
        """
        return await self._insert(request, by, retry_of=None, also=also)

    async def get(self, run_id: str) -> Run:
        """Return a run. Raises NotFound."""
        return await self._store.read(lambda conn: journal.get_run(conn, run_id))

    async def by_number(self, number: int) -> Run:
        """Return the run that people call by this number. Raises NotFound."""

        def job(conn: Connection) -> Run:
            row = conn.execute(select_runs().where(runs.c.number == number)).one_or_none()
            if row is None:
                raise NotFound(f"there is no run {number}")
            return run_from(row)

        return await self._store.read(job)

    async def list(
        self,
        team_id: str,
        *,
        limit: int = 50,
        before: int | None = None,
        state: RunState | None = None,
        kind: str | None = None,
    ) -> list[Run]:
        """Return a team's runs, newest first; ``before`` is the number of the last one of the previous page."""
        query = _newest
        if before is not None:
            query = query.where(runs.c.number < before)
        if state is not None:
            query = query.where(runs.c.state == state)
        if kind is not None:
            query = query.where(runs.c.kind == kind)
        values = {"team_id": team_id, "limit": limit}
        return await self._store.read(lambda conn: [run_from(row) for row in conn.execute(query, values)])

    async def request(self, run_id: str) -> RunRequest:
        """Return what was asked for when the run was submitted. Raises NotFound."""

        def job(conn: Connection) -> RunRequest:
            row = run_row(conn, run_id)
            return RunRequest(
                team_id=row.team_id,
                kind=row.kind,
                name=row.name,
                spec=row.spec,
                requirements=msgspec.convert(row.requirements, Requirements),
                metadata=row.metadata,
                device_id=row.device_id,
                priority=row.priority,
                deadline=row.deadline,
                max_attempts=row.max_attempts,
            )

        return await self._store.read(job)

    async def start(self, run_id: str, by: Actor = journal.SYSTEM) -> Run:
        """Put a draft into the queue. Raises Conflict when it is no draft."""
        return await self._change(run_id, by, _start)

    async def admit(self, kind: str, at_once: int) -> int:
        """Put the oldest drafts of a kind into the queue, as long as fewer than ``at_once`` of its runs are queued or
        at work, however long the store makes us wait. Returns how many that were."""

        def job(conn: Connection) -> int:
            of_kind = runs.c.kind == kind
            count = select(func.count()).select_from(runs).where(of_kind, runs.c.state.in_(_ACTIVE))
            room = max(0, at_once - conn.execute(count).scalar_one())
            query = select(runs.c.id).where(of_kind, runs.c.state == RunState.DRAFT).order_by(runs.c.number)
            drafts = conn.scalars(query.limit(room)).all()
            for run_id in drafts:
                _start(conn, run_id, journal.SYSTEM)
            return len(drafts)

        return await persist(self._store, job)

    async def cancel(
        self, run_id: str, by: Actor = journal.SYSTEM, *, reason: str | None = None, also: Also | None = None
    ) -> Run:
        """End a run that has not ended. Its work is stopped and its device cleaned behind the answer.

        Cancelling a cancelled run is fine; Conflict is raised for one that has passed or failed. ``also`` runs in the
        transaction that cancels it.
        """

        def change(conn: Connection, run_id: str, by: Actor) -> None:
            row = run_row(conn, run_id)
            if row.state != RunState.CANCELLED:
                text = reason or f"cancelled by {by.actor}"
                move(
                    conn,
                    row,
                    RunState.CANCELLED,
                    by=by,
                    data={"reason": text},
                    audit=True,
                    reason_code="cancelled",
                    reason=text,
                )
                if also is not None:
                    also(conn, run_id)

        return await self._change(run_id, by, change)

    async def pause(self, run_id: str, by: Actor = journal.SYSTEM) -> Run:
        """Take a queued run out of the queue, or have a running one stop at its next pause point.

        A paused run keeps its device, as it is, until it is resumed or cancelled; its deadline stands still. Only a
        restart of the daemon with work that cannot be taken up again, or the loss of the device, takes it away: the
        run stays paused then and begins anew when it is resumed. Raises Conflict where the workload cannot pause.
        """
        return await self._change(run_id, by, self._pause)

    async def resume(self, run_id: str, by: Actor = journal.SYSTEM) -> Run:
        """Let a paused run go on: at once when it holds its device, else through the queue. Raises Conflict."""
        return await self._change(run_id, by, _resume)

    async def retry(self, run_id: str, by: Actor = journal.SYSTEM) -> Run:
        """Submit a new run that asks for the same as one that has ended. Raises Conflict when it has not."""
        run = await self.get(run_id)
        if not run.state.terminal:
            raise Conflict(f"the run {run.number} is {run.state}: only a run that has ended can be retried")
        return await self._insert(await self.request(run_id), by, retry_of=run_id)

    async def findings(self, run_id: str) -> Sequence[Finding]:
        """Return the findings of a run, oldest first. Raises NotFound."""

        def job(conn: Connection) -> Sequence[Finding]:
            run_row(conn, run_id)
            rows = conn.execute(select(findings).where(findings.c.run_id == run_id).order_by(findings.c.id))
            return [Finding(**{**row._asdict(), "severity": Severity(row.severity)}) for row in rows]

        return await self._store.read(job)

    async def why_waiting(self, run_id: str) -> str | None:
        """Say in words why a run is not running; None when it is, or has ended. Raises NotFound."""
        supply = self._supply()
        return await self._store.read(lambda conn: why_waiting(conn, run_id, supply))

    async def attempts(self, run_id: str) -> Sequence[Attempt]:
        """Return the attempts of a run, first one first. Raises NotFound."""

        def job(conn: Connection) -> Sequence[Attempt]:
            run_row(conn, run_id)
            rows = conn.execute(select(attempts).where(attempts.c.run_id == run_id).order_by(attempts.c.attempt))
            return [journal.attempt_from(row) for row in rows]

        return await self._store.read(job)

    async def _insert(self, request: RunRequest, by: Actor, *, retry_of: str | None, also: Also | None = None) -> Run:
        if request.kind not in self._workloads:
            raise InvalidRequest(f"nothing here executes runs of the kind {request.kind!r}")
        if request.max_attempts < 1 or (request.deadline is not None and not request.deadline > 0):
            raise InvalidRequest("a run has at least one attempt, and a deadline of more than 0 seconds")
        if request.deadline is None:
            request = msgspec.structs.replace(request, deadline=self._default_deadline)
        run_id = new_id()

        def job(conn: Connection) -> Run:
            if request.device_id is not None:
                _check_device(conn, request.device_id, request.team_id)
            run = journal.insert_run(conn, run_id, request, by, retry_of=retry_of)
            if also is not None:
                also(conn, run_id)
            return run

        return await self._store.write(job)

    async def _change(self, run_id: str, by: Actor, change: Change) -> Run:
        def job(conn: Connection) -> Run:
            change(conn, run_id, by)
            return journal.get_run(conn, run_id)

        return await self._store.write(job)

    def _pause(self, conn: Connection, run_id: str, by: Actor) -> None:
        row = run_row(conn, run_id)
        if row.state == RunState.QUEUED:
            move(conn, row, RunState.PAUSED, by=by, audit=True)
        elif row.state == RunState.RUNNING:
            workload = self._workloads.get(row.kind)
            if workload is None or not workload.pausable:
                raise Conflict(f"a running run of the kind {row.kind!r} cannot be paused")
            if not row.pausing:
                conn.execute(
                    update(runs).where(runs.c.number == row.number).values(pausing=True, version=row.version + 1)
                )
                note(conn, row, "pausing", by=by, audit=True)
        elif row.state != RunState.PAUSED:
            raise Conflict(f"the run {row.number} is {row.state}: only a queued or running run can be paused")


def _start(conn: Connection, run_id: str, by: Actor) -> None:
    row = run_row(conn, run_id)
    if row.state != RunState.DRAFT:
        raise Conflict(f"the run {row.number} is {row.state}: only a draft can be started")
    move(conn, row, RunState.QUEUED, by=by, audit=True)


def _resume(conn: Connection, run_id: str, by: Actor) -> None:
    row = run_row(conn, run_id)
    if row.state == RunState.RUNNING and row.pausing:
        conn.execute(update(runs).where(runs.c.number == row.number).values(pausing=False, version=row.version + 1))
        note(conn, row, "resumed", by=by, audit=True, data={"state": str(RunState.RUNNING)})
        return
    if row.state != RunState.PAUSED:
        raise Conflict(f"the run {row.number} is {row.state}: only a paused run can be resumed")
    # An attempt that is open and has no verdict still holds its device.
    holds = conn.execute(
        select(attempts.c.attempt).where(
            attempts.c.run_id == row.id,
            attempts.c.attempt == row.attempt,
            attempts.c.ended_at.is_(None),
            attempts.c.verdict.is_(None),
        )
    ).scalar()
    state = RunState.QUEUED if holds is None else RunState.RUNNING
    move(conn, row, state, what="resumed", by=by, audit=True, data={"state": str(state)})


def _check_device(conn: Connection, device_id: str, team_id: str) -> None:
    known = conn.execute(
        select(devices.c.id).where(devices.c.id == device_id, devices.c.status != "retired", visible(team_id))
    ).scalar()
    if known is None:
        raise NotFound(f"there is no device {device_id}")
