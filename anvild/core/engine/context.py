"""The :class:`anvild.sdk.RunContext` of one attempt: durable writes, refused once the attempt has lost its lease."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
import trio
from sqlalchemy import Connection, Row, bindparam, update

from anvild.core.artifacts import Artifacts
from anvild.core.store import Job, Store
from anvild.sdk import InvalidArgument, NotFound, RunInfo, Session, Severity, StaleLease

from . import journal
from .persist import persist
from .tables import runs
from .values import RunState

__all__ = ["Context", "Gate"]

T = TypeVar("T")
Json = Any

MAX_JSON = 64 * 1024

RESERVED = frozenset({*RunState, "resumed", "pausing", "waiting", "phase", "log", "finding", "adopted"})
"""Event names that the engine itself gives a meaning to."""

_this = runs.c.number == bindparam("b_number")
_save = update(runs).where(_this).values(checkpoint=bindparam("b_checkpoint"))
_set_phase = update(runs).where(_this).values(phase=bindparam("b_phase"), version=bindparam("b_version"))


class Gate:
    """Where a run stands still while it is paused."""

    def __init__(self) -> None:
        self.wanted = False
        self.stands = trio.Event()
        self.goes = trio.Event()
        self.goes.set()

    def stand(self) -> None:
        """The run is paused now."""
        self.goes = trio.Event()
        self.stands.set()

    def go(self) -> None:
        """The run goes on, or is not to be paused after all."""
        self.wanted = False
        self.stands = trio.Event()
        self.goes.set()


class Context:
    """What a workload may use while it executes one attempt."""

    def __init__(
        self,
        info: RunInfo,
        session: Session,
        *,
        team_id: str,
        incarnation: str,
        store: Store,
        artifacts: Artifacts,
        gate: Gate,
    ) -> None:
        self.run = info
        self.session = session
        self._team_id = team_id
        self._incarnation = incarnation
        self._store = store
        self._artifacts = artifacts
        self._gate = gate
        self._ended = False

    def end(self) -> None:
        """The attempt is over: refuse everything from now on."""
        self._ended = True

    async def phase(self, name: str) -> None:
        """Enter a phase: a short word shown beside the state."""
        _check_phase(name)
        await self._write(lambda conn: _enter(conn, self._row(conn), name))

    async def log(self, message: str, **values: Json) -> None:
        """Append a line for people to the run's events."""
        await self._append("log", {"message": message, **values})

    async def emit(self, kind: str, data: Mapping[str, Json]) -> None:
        """Append an event ``run.KIND``. Raises InvalidArgument for a kind of the engine's own, or too much data."""
        await self._append(_own_kind(kind), data)

    async def finding(
        self, severity: Severity, *, title: str, category: str | None = None, detail: str | None = None
    ) -> None:
        """Record a judged result."""

        def job(conn: Connection) -> None:
            row = self._row(conn)
            journal.add_finding(
                conn, row, self.run.attempt, Severity(severity), title=title, category=category, detail=detail
            )

        await self._write(job)

    async def artifact(self, name: str, source: AsyncIterable[bytes], *, media_type: str) -> str:
        """Store a file that the run produced and return its id."""
        self._check()
        stored = await self._artifacts.put(
            source, team_id=self._team_id, run_id=self.run.run_id, name=name, media_type=media_type
        )
        return stored.id

    @asynccontextmanager
    async def open_artifact(self, artifact_id: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open an artifact of the run's team as a stream of chunks."""
        self._check()
        artifact = await self._artifacts.get(artifact_id)
        if artifact.team_id != self._team_id:
            raise NotFound(f"there is no artifact {artifact_id}")
        async with self._artifacts.open(artifact) as content:
            yield content

    async def checkpoint(
        self,
        state: Json,
        *,
        kind: str | None = None,
        data: Mapping[str, Json] | None = None,
        phase: str | None = None,
    ) -> None:
        """Save how far the work has come; in the same transaction append an event, and enter a phase."""
        if phase is not None:
            _check_phase(phase)
        kept = _small(state)
        what = None if kind is None else _own_kind(kind)
        told = _small(data or {})

        def job(conn: Connection) -> None:
            row = self._row(conn)
            conn.execute(_save, {"b_number": row.number, "b_checkpoint": kept})
            if what is not None:
                journal.note(conn, row, what, data=told)
            if phase is not None:
                _enter(conn, row, phase)

        await self._write(job)

    async def pause_point(self) -> None:
        """A place where the run may be paused: returns at once, or when a paused run is resumed."""
        await trio.lowlevel.checkpoint()
        if not self._gate.wanted:
            return

        def job(conn: Connection) -> bool:
            row = self._row(conn)
            if row.state == RunState.RUNNING and row.pausing:
                journal.move(conn, row, RunState.PAUSED)
                return True
            return bool(row.state == RunState.PAUSED)

        self._gate.stand()
        try:
            if await self._write(job):
                await self._gate.goes.wait()
        finally:
            self._gate.go()

    async def _append(self, what: str, data: Mapping[str, Json]) -> None:
        told = _small(data)
        await self._write(lambda conn: journal.note(conn, self._row(conn), what, data=told))

    def _row(self, conn: Connection) -> Row[Any]:
        return journal.own_row(conn, self.run.run_id, self.run.attempt, self._incarnation)

    async def _write(self, job: Job[T]) -> T:
        """Work waits out a full disk, within its deadline, instead of failing by it."""
        self._check()
        return await persist(self._store, job)

    def _check(self) -> None:
        if self._ended:
            raise StaleLease(f"the attempt {self.run.attempt} of the run has ended")


def _check_phase(name: str) -> None:
    if not 0 < len(name) <= 60:
        raise InvalidArgument("a phase is a word of at most 60 characters")


def _enter(conn: Connection, row: Row[Any], phase: str) -> None:
    if RunState(row.state).terminal:
        raise StaleLease("the run has ended")
    conn.execute(_set_phase, {"b_number": row.number, "b_phase": phase, "b_version": row.version + 1})
    journal.note(conn, row, "phase", data={"phase": phase})


def _own_kind(kind: str) -> str:
    if kind in RESERVED or not kind.replace("_", "").replace(".", "").isalnum() or len(kind) > 60:
        raise InvalidArgument(f"{kind!r} is no name for an event of a workload's own")
    return kind


def _small(data: Json) -> Json:
    """Return plain data, checked for its size. Raises InvalidArgument."""
    try:
        encoded = msgspec.json.encode(data)
    except TypeError as error:
        raise InvalidArgument(f"this cannot be written as JSON: {error}") from error
    if len(encoded) > MAX_JSON:
        raise InvalidArgument(
            f"{len(encoded)} bytes of JSON are more than the {MAX_JSON} that are allowed: use an artifact"
        )
    return msgspec.json.decode(encoded)
