"""Builds of templates that all teams see. Each is a run of the kind ``build``; what comes of it is settled here."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal

import msgspec
import trio
from sqlalchemy import Connection, Row, bindparam, func, select, update

from anvild.core.artifacts import Artifact, Artifacts
from anvild.core.artifacts.tables import artifacts as artifact_rows
from anvild.core.engine import Actor, Engine, RunRequest, RunState
from anvild.core.engine.persist import fetch, persist
from anvild.core.engine.tables import leases, runs
from anvild.core.errors import Conflict, InvalidRequest
from anvild.core.events import EventFilter, EventLog, append
from anvild.core.events.tables import events
from anvild.core.logging import get_logger
from anvild.core.store import Store
from anvild.sdk import (
    AnvilError,
    CapabilityMissing,
    Event,
    Exec,
    Files,
    InvalidArgument,
    NotFound,
    Requirements,
    Snapshot,
    Suspend,
)
from anvild.sdk.recipes import Copy, Step, parse_health_check, parse_recipe

from .build_files import PIECE, open_archive
from .building import KIND, PREPARED, STEP, BuildSpec, Prepared
from .errors import NameReserved
from .life import MEMORY_MB, VCPUS, device_request
from .network import Networks
from .snapshots import check_name, tell
from .tables import templates
from .templates import Templates, own_template
from .values import PLATFORM, Order, Template

__all__ = ["AT_ONCE", "Build", "BuildWish", "Builds"]

AT_ONCE = 2
DEADLINE = 3600.0
LISTED = 200
EVENTS = 1000

Status = Literal["pending", "running", "success", "failed", "cancelled"]

_STATUS: Mapping[RunState, Status] = {
    RunState.DRAFT: "pending",
    RunState.QUEUED: "pending",
    RunState.RUNNING: "running",
    RunState.PAUSED: "running",
    RunState.PASSED: "success",
    RunState.FAILED: "failed",
    RunState.CANCELLED: "cancelled",
}
_ENDS = (RunState.PASSED, RunState.FAILED, RunState.CANCELLED)
_HEARD = ("lease.released", *(f"run.{state}" for state in _ENDS))

_builds = select(runs).where(runs.c.kind == KIND, runs.c.team_id == PLATFORM)
_last = (
    select(func.max(events.c.id))
    .where(events.c.run_id.in_(bindparam("builds", expanding=True)), events.c.kind == f"run.{STEP}")
    .group_by(events.c.run_id)
)
_last_steps = select(events.c.run_id, events.c.data).where(events.c.id.in_(_last))
_unseen = select(templates).where(templates.c.ready.is_(False), templates.c.run_id.is_not(None))
_done_with = (
    select(artifact_rows)
    .join(runs, runs.c.id == artifact_rows.c.run_id)
    .where(runs.c.kind == KIND, runs.c.state.in_(_ENDS))
)

logger = get_logger(__name__)


class BuildWish(msgspec.Struct, frozen=True, kw_only=True):
    """A template that somebody wants built. None leaves a size to what is usual."""

    name: str
    base_template: str
    recipe: tuple[str, ...]
    healthcheck: str | None = None
    vcpus: int | None = None
    memory_mb: int | None = None
    skip_pre_post: bool = False


class Build(msgspec.Struct, frozen=True, kw_only=True):
    """A build as it stands. ``steps`` of its present attempt have ended, and ``logs`` tells of them, oldest first; None
    where nobody has looked. ``prepared`` is there when all have ended well, ``error`` when it did not succeed."""

    id: str
    status: Status
    spec: BuildSpec
    steps: int = 0
    device_id: str | None
    error: str | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    logs: Sequence[Step] | None = None
    prepared: Prepared | None = None


class Builds:
    """The builds of the lab. :meth:`run` must be running for them to begin and to be settled.

    ``spool`` is a folder for files without a name.
    """

    def __init__(
        self,
        engine: Engine,
        store: Store,
        log: EventLog,
        artifacts: Artifacts,
        seen: Templates,
        networks: Networks,
        *,
        spool: Path,
    ) -> None:
        self._engine = engine
        self._store = store
        self._log = log
        self._artifacts = artifacts
        self._seen = seen
        self._networks = networks
        self._spool = spool
        self._wake = trio.Event()

    async def run(self) -> None:
        """Let builds begin, :data:`AT_ONCE` at a time, and settle what they leave, until cancelled."""
        forget = self._log.on_commit(self._hear)
        try:
            while True:
                self._wake = trio.Event()
                await self._settle_templates()
                await self._drop_archives()
                await self._engine.runs.admit(KIND, AT_ONCE)
                await self._wake.wait()
        finally:
            forget()

    async def submit(self, wish: BuildWish, by: Actor, *, archive: IO[bytes] | None = None) -> Build:
        """Let a build wait for its turn, and return it. ``archive`` is a file that COPY takes from.

        Raises InvalidRequest for what is no recipe, health check, name or archive, NameReserved for the name of a
        driver's own template, NotFound for an unknown base template, CapabilityMissing for what its driver cannot do.
        """
        sources = _read(wish)
        template = await self._base(wish)
        await self._check_archive(archive, sources)
        spec = BuildSpec(
            name=wish.name,
            base_template=wish.base_template,
            recipe=wish.recipe,
            healthcheck=wish.healthcheck,
            vcpus=template.vcpus if template.memory else wish.vcpus or VCPUS,
            memory_mb=template.memory_mb if template.memory else wish.memory_mb or MEMORY_MB,
            skip_pre_post=wish.skip_pre_post,
            driver=template.driver,
        )
        order = Order(template=template.name, vcpus=spec.vcpus, memory_mb=spec.memory_mb)
        network = self._networks.policy(self._networks.choose(None, template.driver))
        wanted = device_request(f"build-{wish.name}", "build", template, order, network)
        stored = None if archive is None else await self._store_archive(archive, by)
        request = RunRequest(
            team_id=PLATFORM,
            kind=KIND,
            name=wish.name,
            spec=spec if stored is None else msgspec.structs.replace(spec, archive=stored.id),
            requirements=Requirements(
                drivers=(template.driver,),
                capabilities=(Exec.capability, Files.capability, Snapshot.capability),
                make={template.driver: wanted},
            ),
            deadline=DEADLINE,
            draft=True,
        )
        try:
            run = await self._engine.runs.submit(request, by, also=partial(_note, "created", wish.name, by, stored))
        except BaseException:
            if stored is not None:
                with trio.CancelScope(shield=True):
                    await self._artifacts.remove(stored)
            raise
        self._wake.set()
        return await self.get(run.id)

    async def list(self) -> Sequence[Build]:
        """Return the builds of the lab, newest first, without their logs."""

        def job(conn: Connection) -> list[Build]:
            rows = conn.execute(_builds.order_by(runs.c.number.desc()).limit(LISTED)).all()
            unsettled = {row.run_id for row in conn.execute(_unseen)}
            last = {row.run_id: row.data for row in conn.execute(_last_steps, {"builds": [row.id for row in rows]})}
            return [_build(row, settled=row.id not in unsettled, last=last.get(row.id)) for row in rows]

        return await self._store.read(job)

    async def get(self, build_id: str) -> Build:
        """Return a build with its log. Raises NotFound."""

        def job(conn: Connection) -> tuple[Build, int]:
            row = conn.execute(_builds.where(runs.c.id == build_id)).one_or_none()
            if row is None:
                raise NotFound("there is no such build")
            unsettled = conn.execute(_unseen.where(templates.c.run_id == build_id)).first()
            return _build(row, settled=unsettled is None), row.attempt

        build, attempt = await self._store.read(job)
        told = EventFilter(run_id=build_id, kinds=(f"run.{STEP}", f"run.{PREPARED}"))
        found = await self._log.read(where=told, limit=EVENTS, newest_first=True)
        present = [event for event in reversed(found) if event.data["attempt"] == attempt]
        steps = [msgspec.convert(event.data, Step) for event in present if event.kind == f"run.{STEP}"]
        prepared = [msgspec.convert(event.data, Prepared) for event in present if event.kind == f"run.{PREPARED}"]
        return msgspec.structs.replace(build, steps=len(steps), logs=steps, prepared=prepared[-1] if prepared else None)

    async def cancel(self, build_id: str, by: Actor) -> None:
        """End a build; nothing is left of it. Raises NotFound, and InvalidRequest for one that has ended."""
        build = await self.get(build_id)
        ended = InvalidRequest("the build has ended already")
        if build.status in ("success", "failed", "cancelled"):
            raise ended
        try:
            await self._engine.runs.cancel(build_id, by, also=partial(_note, "cancelled", build.spec.name, by, None))
        except Conflict:
            raise ended from None

    # ----- before a build

    async def _base(self, wish: BuildWish) -> Template:
        """Return the base template of a wish that can be fulfilled."""
        if await self._seen.is_drivers(wish.name):
            raise NameReserved(f"{wish.name!r} is the name of a template that its driver has by itself")
        template = await self._seen.get(wish.base_template, PLATFORM)
        capabilities = self._engine.driver(template.driver).info.capabilities
        if Snapshot.capability not in capabilities:
            raise CapabilityMissing(f"the driver {template.driver!r} makes no templates")
        if wish.healthcheck is not None and Suspend.capability not in capabilities:
            raise CapabilityMissing(
                f"the driver {template.driver!r} keeps no memory, so that what is healthy now would not be there in "
                "capsules of the template: leave the health check out"
            )
        return template

    async def _check_archive(self, file: IO[bytes] | None, sources: Sequence[str]) -> None:
        """Look whether an archive is in order, and holds what COPY takes from it."""
        if file is not None:
            async with open_archive(file, self._spool) as archive:
                with _asked_wrongly():
                    for source in sources:
                        archive.find(source)
        elif sources:
            raise InvalidRequest(f"COPY takes {sources[0]!r} from an archive, and none came with the recipe")

    async def _store_archive(self, file: IO[bytes], by: Actor) -> Artifact:
        file.seek(0)
        name = "archive of a build"
        media_type = "application/octet-stream"
        async with aclosing(_pieces(file)) as content:
            return await self._artifacts.put(
                content, team_id=PLATFORM, run_id=None, name=name, media_type=media_type, actor=by.actor
            )

    # ----- after a build

    def _hear(self, heard: Sequence[Event]) -> None:
        if any(event.team_id == PLATFORM and event.kind in _HEARD for event in heard):
            self._wake.set()

    async def _settle_templates(self) -> None:
        """Let templates of attempts that have passed be seen, and remove those of attempts that ended otherwise."""
        if not await fetch(self._store, lambda conn: conn.execute(_unseen).first()):
            return
        for template in await persist(self._store, _settle):
            await self._seen.discard(template)

    async def _drop_archives(self) -> None:
        """Remove the archives of builds that have ended. What cannot be removed now is with the next one."""
        for row in await fetch(self._store, lambda conn: conn.execute(_done_with).all()):
            try:
                await self._artifacts.remove(Artifact(**row._asdict()))
            except AnvilError as error:
                logger.warning("archive_not_removed", artifact=row.id, reason=error.message)


def _settle(conn: Connection) -> list[Template]:
    """Let the templates be seen whose attempts have passed and let go of their machines; they take the place of those
    of the same name. Returns those that are seen no more, or were never to be."""
    done_with = []
    for row in conn.execute(_unseen).all():
        attempt = (leases.c.run_id == row.run_id, leases.c.attempt == row.attempt, leases.c.released_at.is_(None))
        if conn.execute(select(leases.c.id).where(*attempt)).first() is not None:
            continue
        run = conn.execute(_builds.where(runs.c.id == row.run_id)).one_or_none()
        if run is None or run.state != RunState.PASSED or run.attempt != row.attempt:
            done_with.append(own_template(row))
            continue
        same = (templates.c.team_id == PLATFORM, templates.c.name == row.name, templates.c.ready.is_(True))
        done_with += [own_template(old) for old in conn.execute(select(templates).where(*same))]
        conn.execute(update(templates).where(*same).values(ready=False))
        shown = update(templates).where(templates.c.id == row.id).values(ready=True, run_id=None, attempt=None)
        conn.execute(shown)
        tell(conn, "create", PLATFORM, row.name, Actor(actor=row.created_by))
    return done_with


def _build(row: Row[Any], *, settled: bool, last: Mapping[str, Any] | None = None) -> Build:
    """Make the value of a row of runs; ``last`` is what its last step has told."""
    state = RunState(row.state)
    status = "running" if state is RunState.PASSED and not settled else _STATUS[state]
    return Build(
        id=row.id,
        status=status,
        spec=msgspec.convert(row.spec, BuildSpec),
        steps=last["step"] if last is not None and last["attempt"] == row.attempt else 0,
        device_id=row.used_device_id,
        error=row.reason if state in (RunState.FAILED, RunState.CANCELLED) else None,
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
    )


def _note(what: str, name: str, by: Actor, archive: Artifact | None, conn: Connection, build_id: str) -> None:
    """Tell the audit log of a build, and make the archive that came with it the build's own."""
    append(
        conn,
        f"build.{what}",
        subject=("build", build_id),
        actor=by.actor,
        data={"name": name, "outcome": "success"},
        audit=True,
        ip=by.ip,
        user_agent=by.user_agent,
    )
    if archive is not None:
        conn.execute(update(artifact_rows).where(artifact_rows.c.id == archive.id).values(run_id=build_id))


def _read(wish: BuildWish) -> list[str]:
    """Read the texts of a wish, and return what its recipe copies. Raises InvalidRequest."""
    check_name(wish.name)
    with _asked_wrongly():
        recipe = parse_recipe(wish.recipe)
        if not recipe:
            raise InvalidArgument("the recipe says nothing")
        if wish.healthcheck is not None:
            parse_health_check(wish.healthcheck)
    return [source for each in recipe if isinstance(each, Copy) for source in each.sources]


@contextmanager
def _asked_wrongly() -> Iterator[None]:
    """What is wrong with a recipe is wrong with the request."""
    try:
        yield
    except (InvalidArgument, NotFound) as error:
        raise InvalidRequest(error.message) from None


async def _pieces(file: IO[bytes]) -> AsyncGenerator[bytes, None]:
    while piece := await trio.to_thread.run_sync(file.read, PIECE):
        yield piece
