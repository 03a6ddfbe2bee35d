"""The workload ``build``: follows a recipe in a capsule, and makes a template of it.

The template's row is there before the template is, so that none is left behind unknown. It is seen only when the
attempt has passed and let go of its machine; that is up to :class:`~anvild.capsules.builds.Builds`, as is removing what
comes of any other end.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import msgspec
from sqlalchemy import Connection, insert, update

from anvild.core.clock import utcnow
from anvild.core.engine import Engine, RunState, journal
from anvild.core.engine.persist import persist
from anvild.core.ids import new_id
from anvild.core.store import Store
from anvild.sdk import Outcome, RunContext, RunFailed, Snapshot, StaleLease, Verdict, Workload
from anvild.sdk import Template as Made
from anvild.sdk.recipes import Cook, HealthCheck, Instruction, Step, StepFailed, parse_health_check, parse_recipe

from .build_files import ARCHIVE_LIMIT, Archive, open_archive, received
from .snapshots import SNAPSHOT_SECONDS
from .tables import templates
from .templates import MEGABYTE
from .values import PLATFORM

__all__ = ["KIND", "PREPARED", "STEP", "BuildSpec", "BuildWorkload", "Prepared"]

KIND = "build"
STEP, PREPARED = "step", "prepared"
"""A build's own events: a step has ended; all of them have."""

ROOM = 24 * 1024
"""How much of what a step writes is kept, of each of its outputs: the last bytes, as JSON."""

BEFORE = parse_recipe(["RUN uname -srm; df -hP /"])
"""What every build begins with: its log says on what it was built."""

AFTER = parse_recipe(["RUN rm -rf /var/cache/apt/archives/*.deb /var/lib/apt/lists/* /var/tmp/* 2>/dev/null; sync"])
"""What every build ends with: what only fills the template goes."""


class BuildSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What shall be built: the request, checked, with the driver that has the base template and, by its id, the
    archive that came with it."""

    name: str
    base_template: str
    recipe: tuple[str, ...]
    healthcheck: str | None
    vcpus: int
    memory_mb: int
    skip_pre_post: bool
    driver: str
    archive: str | None = None

    def instructions(self) -> tuple[Instruction, ...]:
        """The recipe, read."""
        return parse_recipe(self.recipe)

    def health(self) -> HealthCheck | None:
        """The health check, read."""
        return None if self.healthcheck is None else parse_health_check(self.healthcheck)

    @property
    def total_steps(self) -> int:
        """How many steps there are in all."""
        extra = 0 if self.skip_pre_post else len(BEFORE) + len(AFTER)
        return len(self.instructions()) + extra + (self.healthcheck is not None)


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """What processes in capsules of a built template find by default: who they are, and their environment."""

    account: str | None
    environment: Mapping[str, str]


class BuildWorkload(Workload):
    """Builds templates. ``spool`` is a folder for files without a name. An attempt that a restart of the daemon ends
    begins anew."""

    kind: ClassVar[str] = KIND

    def __init__(self, engine: Engine, store: Store, spool: Path) -> None:
        self._engine = engine
        self._store = store
        self._spool = spool

    async def run(self, context: RunContext) -> Outcome:
        """Follow the recipe and make the template. Raises RunFailed when a step has failed."""
        spec = msgspec.convert(context.run.spec, BuildSpec)
        async with self._archive(context, spec) as archive:
            try:
                prepared = await self._cook(context, spec, archive)
            except StepFailed as failure:
                raise RunFailed("step_failed", failure.message) from None
        await context.phase("snapshot")
        made = await self._keep(context, spec, prepared)
        return Outcome(verdict=Verdict.PASSED, reason=f"{spec.name} has been built, {made.size // MEGABYTE} MiB")

    @asynccontextmanager
    async def _archive(self, context: RunContext, spec: BuildSpec) -> AsyncIterator[Archive | None]:
        if spec.archive is None:
            yield None
            return
        async with (
            context.open_artifact(spec.archive) as content,
            received(content, self._spool, limit=ARCHIVE_LIMIT) as file,
            open_archive(file, self._spool) as archive,
        ):
            yield archive

    async def _cook(self, context: RunContext, spec: BuildSpec, archive: Archive | None) -> Prepared:
        """Do all steps."""
        numbers: Iterator[int] = itertools.count(1)

        async def report(step: Step) -> None:
            await context.emit(STEP, {**msgspec.to_builtins(_fitting(step)), "attempt": context.run.attempt})

        cook = Cook(context.session, report, tree=archive, numbers=numbers)
        around = Cook(context.session, report, numbers=numbers)
        if not spec.skip_pre_post:
            await context.phase("pre-build")
            await around.follow(BEFORE, phase="pre-build")
        await context.phase("recipe")
        await cook.follow(spec.instructions())
        await context.phase("post-build")
        if not spec.skip_pre_post:
            await around.follow(AFTER, phase="post-build")
        health = spec.health()
        if health is not None:
            await cook.check(health)
        prepared = Prepared(account=cook.user, environment=cook.environment)
        await context.emit(PREPARED, {**msgspec.to_builtins(prepared), "attempt": context.run.attempt})
        return prepared

    async def _keep(self, context: RunContext, spec: BuildSpec, prepared: Prepared) -> Made:
        """Make the template. Nobody sees it yet."""
        hosted = self._engine.driver(spec.driver)
        snapshot = hosted.require(Snapshot).snapshot
        id_ = new_id()
        await persist(self._store, lambda conn: self._enter(conn, id_, context, spec, prepared))
        identity = context.session.device.identity
        take = partial(snapshot, memory=spec.healthcheck is not None)
        made = await hosted.call("snapshot", SNAPSHOT_SECONDS, take, identity, id_)
        values = {
            "type": "snapshot" if made.fixed else "base",
            "vcpus": made.vcpus,
            "memory_mb": made.memory // MEGABYTE,
            "disk_mb": made.disk // MEGABYTE,
            "size_bytes": made.size,
        }
        filled = update(templates).where(templates.c.id == id_).values(**values)
        await persist(self._store, lambda conn: conn.execute(filled))
        return made

    def _enter(self, conn: Connection, id_: str, context: RunContext, spec: BuildSpec, prepared: Prepared) -> None:
        """Add the template's row. Raises StaleLease when the attempt has ended: nobody would remove it then."""
        run = context.run
        row = journal.own_row(conn, run.run_id, run.attempt, self._engine.incarnation)
        if row.state != RunState.RUNNING:
            raise StaleLease("the build has ended")
        values: dict[str, Any] = {
            "id": id_,
            "team_id": PLATFORM,
            "name": spec.name,
            "driver": spec.driver,
            "reference": id_,
            "type": "base",
            "vcpus": spec.vcpus,
            "memory_mb": spec.memory_mb,
            "disk_mb": 0,
            "size_bytes": 0,
            "ready": False,
            "run_id": run.run_id,
            "attempt": run.attempt,
            "environment": dict(prepared.environment),
            "account": prepared.account,
            "created_by": journal.run_row(conn, run.run_id).created_by,
            "created_at": utcnow(),
        }
        conn.execute(insert(templates).values(**values))


def _fitting(step: Step) -> Step:
    """Return a step whose outputs are short enough to be kept."""
    return msgspec.structs.replace(step, stdout=_end_of(step.stdout), stderr=_end_of(step.stderr))


def _end_of(text: str) -> str:
    """Return the end of a text that takes at most :data:`ROOM` bytes as JSON; a mark says that something is missing."""
    kept = text[-ROOM:]
    while len(msgspec.json.encode(kept)) > ROOM:
        kept = kept[len(kept) // 8 + 1 :]
    return kept if kept == text else f"[...] {kept}"
