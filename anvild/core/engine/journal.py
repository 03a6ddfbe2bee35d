"""The changes of runs, as functions of a connection: each is called inside a store job and appends its own event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, Select, bindparam, insert, select, update

from anvild.core.clock import utcnow
from anvild.core.errors import Conflict
from anvild.core.events import append
from anvild.core.ids import new_id
from anvild.sdk import NotFound, Requirements, Severity, StaleLease

from .queue import Demand, lane_of
from .states import Ending, check_transition, next_state
from .tables import attempts, findings, runs
from .values import Actor, Attempt, Finding, Run, RunRequest, RunState

__all__ = [
    "SYSTEM",
    "add_finding",
    "attempt_from",
    "close_attempt",
    "demand_of",
    "get_run",
    "insert_run",
    "move",
    "note",
    "own_row",
    "run_from",
    "run_row",
    "select_runs",
    "settle",
]

SYSTEM = Actor()

_RUN_COLUMNS = (
    "id",
    "number",
    "team_id",
    "kind",
    "name",
    "metadata",
    "device_id",
    "used_device_id",
    "priority",
    "deadline",
    "state",
    "phase",
    "version",
    "attempt",
    "max_attempts",
    "reason_code",
    "reason",
    "waiting",
    "retry_of",
    "created_by",
    "created_at",
    "started_at",
    "ended_at",
)

_insert_run = insert(runs)
_shown_by_id = select(*(runs.c[name] for name in _RUN_COLUMNS)).where(runs.c.id == bindparam("run_id"))
_run_by_id = select(runs).where(runs.c.id == bindparam("run_id"))
_open_attempt = select(attempts.c.incarnation).where(
    attempts.c.run_id == bindparam("run_id"),
    attempts.c.attempt == bindparam("attempt"),
    attempts.c.ended_at.is_(None),
)
# Without the columns that are large: it is read for every line that a workload writes.
_own_run: Select[Any] = (
    select(runs.c.number, runs.c.id, runs.c.team_id, runs.c.state, runs.c.version, runs.c.pausing)
    .join(attempts)
    .where(
        runs.c.id == bindparam("run_id"),
        attempts.c.attempt == bindparam("attempt"),
        attempts.c.incarnation == bindparam("incarnation"),
        attempts.c.ended_at.is_(None),
    )
)

# Compare-and-set: what it sets is what is handed over beside the three that are compared.
_swap = update(runs).where(
    runs.c.number == bindparam("b_number"),
    runs.c.state == bindparam("b_state"),
    runs.c.version == bindparam("b_version"),
)
_of_attempt = (attempts.c.run_id == bindparam("b_run_id"), attempts.c.attempt == bindparam("b_attempt"))
_judge = (
    update(attempts)
    .where(*_of_attempt, attempts.c.verdict.is_(None))
    .values(verdict=bindparam("b_verdict"), reason_code=bindparam("b_code"), reason=bindparam("b_reason"))
)
_close = update(attempts).where(*_of_attempt, attempts.c.ended_at.is_(None)).values(ended_at=bindparam("b_now"))
_same_finding = select(findings).where(
    findings.c.run_id == bindparam("run_id"),
    findings.c.attempt == bindparam("attempt"),
    findings.c.severity == bindparam("severity"),
    findings.c.title == bindparam("title"),
    findings.c.category.is_not_distinct_from(bindparam("category", type_=findings.c.category.type)),
    findings.c.detail.is_not_distinct_from(bindparam("detail", type_=findings.c.detail.type)),
)


def insert_run(conn: Connection, run_id: str, request: RunRequest, by: Actor, *, retry_of: str | None = None) -> Run:
    """Add a run, queued or as a draft. It reads nothing."""
    now = utcnow()
    state = RunState.DRAFT if request.draft else RunState.QUEUED
    shown: dict[str, Any] = {
        "id": run_id,
        "team_id": request.team_id,
        "kind": request.kind,
        "name": request.name,
        "metadata": request.metadata,
        "device_id": request.device_id,
        "used_device_id": None,
        "priority": request.priority,
        "deadline": request.deadline,
        "state": state,
        "phase": None,
        "version": 1,
        "attempt": 0,
        "max_attempts": request.max_attempts,
        "reason_code": None,
        "reason": None,
        "waiting": None,
        "retry_of": retry_of,
        "created_by": by.actor,
        "created_at": now,
        "started_at": None,
        "ended_at": None,
    }
    inserted = conn.execute(
        _insert_run,
        {
            **shown,
            "spec": request.spec,
            "requirements": request.requirements,
            "lane": lane_of(request.team_id, request.priority, Demand(request.device_id, request.requirements)),
            "pausing": False,
            "spent": 0,
            "false_starts": 0,
            "checkpoint": None,
        },
    )
    number = inserted.inserted_primary_key[0] if inserted.inserted_primary_key is not None else 0
    run = Run(number=number, **shown)
    data = {"kind": run.kind, "name": run.name, "number": run.number}
    note(conn, run, "draft" if request.draft else "queued", by=by, data=data, audit=True)
    return run


def run_row(conn: Connection, run_id: str) -> Row[Any]:
    """Return the row of a run. Raises NotFound."""
    row = conn.execute(_run_by_id, {"run_id": run_id}).one_or_none()
    if row is None:
        raise NotFound(f"there is no run {run_id}")
    return row


def select_runs() -> Select[Any]:
    """A selection of what a :class:`Run` shows, for :func:`run_from`."""
    return select(*(runs.c[name] for name in _RUN_COLUMNS))


def run_from(row: Row[*tuple[Any, ...]]) -> Run:
    """Make the value of a row of :func:`select_runs`."""
    values = dict(zip(_RUN_COLUMNS, row, strict=True))
    values["state"] = RunState(values["state"])
    return Run(**values)


def get_run(conn: Connection, run_id: str) -> Run:
    """Return a run. Raises NotFound."""
    row = conn.execute(_shown_by_id, {"run_id": run_id}).one_or_none()
    if row is None:
        raise NotFound(f"there is no run {run_id}")
    return run_from(row)


def attempt_from(row: Row[Any]) -> Attempt:
    """Make the value of a row of attempts."""
    return Attempt(**row._asdict())


def demand_of(row: Row[*tuple[Any, ...]]) -> Demand:
    """What a row of runs needs."""
    return Demand(row.device_id, msgspec.convert(row.requirements, Requirements))


def note(
    conn: Connection,
    run: Run | Row[Any],
    what: str,
    *,
    by: Actor = SYSTEM,
    data: Mapping[str, Any] | None = None,
    audit: bool = False,
) -> None:
    """Append the event ``run.WHAT`` of a run."""
    append(
        conn,
        f"run.{what}",
        subject=("run", run.id),
        team_id=run.team_id,
        run_id=run.id,
        actor=by.actor,
        data=data,
        audit=audit,
        ip=by.ip,
        user_agent=by.user_agent,
    )


def move(
    conn: Connection,
    row: Row[Any],
    state: RunState,
    *,
    what: str | None = None,
    by: Actor = SYSTEM,
    data: Mapping[str, Any] | None = None,
    audit: bool = False,
    **values: Any,
) -> None:
    """Bring a run into a state, by compare-and-set on its state and version, and append ``run.WHAT``.

    ``what`` defaults to the state's name; ``values`` are further columns to set. Raises Conflict when the transition
    does not exist or ``row`` is out of date.
    """
    check_transition(RunState(row.state), state)
    if state.terminal:
        values |= {"ended_at": utcnow(), "phase": None, "checkpoint": None}
    if row.state == RunState.QUEUED:
        values["waiting"] = None
    expected = {"b_number": row.number, "b_state": row.state, "b_version": row.version}
    changed = conn.execute(_swap, {**expected, "state": state, "version": row.version + 1, "pausing": False, **values})
    if changed.rowcount != 1:
        raise Conflict(f"the run {row.number} has changed meanwhile")
    note(conn, row, what or str(state), by=by, data=data, audit=audit)


def settle(conn: Connection, run_id: str, attempt: int, ending: Ending) -> RunState:
    """End an attempt: write its verdict and bring its run into the state that follows. Returns the run's state.

    A run that has ended already, or is at a later attempt, stays as it is.
    """
    row = run_row(conn, run_id)
    judged = conn.execute(
        _judge,
        {
            "b_run_id": run_id,
            "b_attempt": attempt,
            "b_verdict": str(ending.state),
            "b_code": ending.code,
            "b_reason": ending.reason,
        },
    )
    state = RunState(row.state)
    if state.terminal or row.attempt != attempt or judged.rowcount != 1:
        return state
    following, spent, false_starts = next_state(
        ending, spent=row.spent, false_starts=row.false_starts, max_attempts=row.max_attempts
    )
    counts: dict[str, Any] = {"spent": spent, "false_starts": false_starts}
    told = {"attempt": attempt, "reason_code": ending.code, "reason": ending.reason}
    if following is RunState.QUEUED:
        values: dict[str, Any] = {
            **counts,
            "phase": None,
            "checkpoint": None,
            "reason_code": ending.code,
            "reason": ending.reason,
        }
        if state is RunState.PAUSED:
            # It waits for its resume outside the queue, now without a device.
            conn.execute(update(runs).where(runs.c.number == row.number).values(version=row.version + 1, **values))
            return state
        following = RunState.PAUSED if row.pausing else following
        move(conn, row, following, data=told, **values)
    else:
        code = None if following is RunState.PASSED else ending.code
        move(conn, row, following, data=told, reason_code=code, reason=ending.reason, **counts)
    return following


def own_row(conn: Connection, run_id: str, attempt: int, incarnation: str) -> Row[Any]:
    """Return what a writer of this attempt needs of its run's row. Raises StaleLease unless the attempt is open and
    belongs to this daemon."""
    row = conn.execute(_own_run, {"run_id": run_id, "attempt": attempt, "incarnation": incarnation}).one_or_none()
    if row is None:
        raise StaleLease(f"the attempt {attempt} of the run has lost its lease")
    return row


def close_attempt(conn: Connection, run_id: str, attempt: int) -> None:
    """Note that an attempt has let go of its device."""
    conn.execute(_close, {"b_run_id": run_id, "b_attempt": attempt, "b_now": utcnow()})


def add_finding(
    conn: Connection,
    run: Run | Row[Any],
    attempt: int,
    severity: Severity,
    *,
    title: str,
    category: str | None,
    detail: str | None,
) -> Finding:
    """Add a finding and its event. The same one again in the same attempt is the one that is there."""
    present = conn.execute(
        _same_finding,
        {
            "run_id": run.id,
            "attempt": attempt,
            "severity": severity,
            "title": title,
            "category": category,
            "detail": detail,
        },
    ).first()
    if present is not None:
        return Finding(**{**present._asdict(), "severity": Severity(present.severity)})
    finding = Finding(
        id=new_id(),
        run_id=run.id,
        attempt=attempt,
        severity=severity,
        category=category,
        title=title,
        detail=detail,
        created_at=utcnow(),
    )
    conn.execute(insert(findings), msgspec.structs.asdict(finding))
    data = {"finding_id": finding.id, "severity": str(severity), "title": title, "category": category}
    note(conn, run, "finding", data=data)
    return finding


def fail_wanting(conn: Connection, device_id: str, reason: str) -> Sequence[str]:
    """End the queued and paused runs that ask for a device which will never come back."""
    wanting = conn.execute(
        select(runs).where(
            runs.c.device_id == device_id, runs.c.state.in_([RunState.QUEUED, RunState.DRAFT, RunState.PAUSED])
        )
    ).all()
    ended = []
    for row in wanting:
        holds_lease = conn.execute(_open_attempt, {"run_id": row.id, "attempt": row.attempt}).scalar() is not None
        if holds_lease:
            continue
        code = "device_retired"
        to = RunState.CANCELLED if row.state == RunState.DRAFT else RunState.FAILED
        move(conn, row, to, reason_code=code, reason=reason, data={"reason_code": code, "reason": reason})
        ended.append(row.id)
    return ended
