"""Templates that are made of capsules, while those go on."""

from __future__ import annotations

import secrets

import trio
from sqlalchemy import Connection, insert, select, update

from anvild.core.clock import utcnow
from anvild.core.engine import Actor, Engine
from anvild.core.engine.persist import fetch
from anvild.core.errors import Conflict, FieldProblem, Forbidden, InvalidRequest
from anvild.core.events import append
from anvild.core.ids import new_id
from anvild.core.logging import get_logger
from anvild.core.store import Store
from anvild.sdk import AnvilError, NotFound, Snapshot, Unavailable
from anvild.sdk import Template as Made

from .errors import NameReserved, TemplateNameTaken
from .life import Capsules
from .tables import templates
from .templates import MEGABYTE, NAME, REMOVE_SECONDS, Templates, own_template
from .values import PLATFORM, Capsule, Template

__all__ = ["SNAPSHOT_SECONDS", "Snapshots", "check_name", "tell"]

SNAPSHOT_SECONDS = 300.0

log = get_logger(__name__)


class _Making:
    """A template that is being made, for whoever waits for it."""

    def __init__(self) -> None:
        self.over = trio.Event()
        self.made: Template | None = None
        self.failed: AnvilError | None = None


class Snapshots:
    """Makes and removes templates, of teams and of the platform. :meth:`run` must be running."""

    def __init__(self, engine: Engine, store: Store, capsules: Capsules, seen: Templates) -> None:
        self._engine = engine
        self._store = store
        self._capsules = capsules
        self._seen = seen
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Remove what an earlier daemon had begun and not ended, and make templates, until cancelled."""
        query = select(templates).where(templates.c.ready.is_(False), templates.c.run_id.is_(None))
        async with trio.open_nursery() as nursery:
            for row in await fetch(self._store, lambda conn: conn.execute(query).all()):
                nursery.start_soon(self._seen.discard, own_template(row))
            self._nursery = nursery
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    async def create(
        self, team_id: str | None, capsule_id: str, name: str | None, by: Actor, *, overwrite: bool = False
    ) -> Template:
        """Make a template of a running capsule; ``overwrite`` puts it in the place of one with the same name.

        With ``team_id`` None it is made of a capsule of any team, and is for all of them.
        It is made to its end even when the caller is cancelled. Raises NotFound, InvalidState, InvalidRequest for what
        is no name, NameReserved, TemplateNameTaken, CapabilityMissing, and what the driver says.
        """
        name = name or f"template-{secrets.token_hex(4)}"
        check_name(name)
        owner = PLATFORM if team_id is None else team_id
        capsule = await self._capsules.get(team_id, capsule_id)
        if await (self._seen.is_drivers(name) if owner == PLATFORM else self._seen.is_shared(name)):
            raise NameReserved(f"{name!r} is the name of a template that all teams see")
        if not overwrite:
            await self._store.read(lambda conn: _check_free(conn, owner, name))
        if self._nursery is None:
            raise Unavailable("the daemon is starting or stopping")
        making = _Making()
        self._nursery.start_soon(self._make, making, capsule, owner, name, by, overwrite)
        await making.over.wait()
        if making.made is None:
            assert making.failed is not None
            raise making.failed
        return making.made

    async def remove(self, team_id: str, name: str, by: Actor) -> None:
        """Remove a template of a team; what was made from it lives on. Raises NotFound, and Forbidden for one that all
        teams see."""

        def job(conn: Connection) -> Template | None:
            where = (templates.c.team_id == team_id, templates.c.name == name, templates.c.ready.is_(True))
            row = conn.execute(select(templates).where(*where)).one_or_none()
            if row is None:
                return None
            conn.execute(update(templates).where(templates.c.id == row.id).values(ready=False))
            tell(conn, "delete", team_id, name, by)
            return own_template(row)

        found = await self._store.write(job)
        if found is None:
            if await self._seen.is_shared(name):
                raise Forbidden(f"{name!r} is for all teams: it is not yours to remove")
            raise NotFound(f"there is no template {name!r}")
        await self._seen.discard(found)

    async def remove_any(self, name: str, by: Actor, *, team_id: str | None = None) -> None:
        """Remove a template for the platform: the one that all teams see, else that of the only team that has one.

        ``team_id`` says whose is meant. Raises NotFound, Conflict where several teams have one, and what the driver
        says of its own: PermissionDenied for one that is built in.
        """

        def job(conn: Connection) -> Template | None:
            query = select(templates).where(templates.c.name == name, templates.c.ready.is_(True))
            if team_id is not None:
                query = query.where(templates.c.team_id == team_id)
            rows = conn.execute(query).all()
            rows = [row for row in rows if row.team_id == PLATFORM] or rows
            if len(rows) > 1:
                raise Conflict(f"{len(rows)} teams have a template {name!r}: say whose with ?team_id=")
            for row in rows:
                conn.execute(update(templates).where(templates.c.id == row.id).values(ready=False))
                tell(conn, "delete", row.team_id, name, by)
                _tell_removed(conn, name, by)
            return own_template(rows[0]) if rows else None

        found = await self._store.write(job)
        if found is not None:
            await self._seen.discard(found)
            return
        own = await self._seen.of_driver(name) if team_id is None else None
        if own is None:
            raise NotFound(f"there is no template {name!r}")
        hosted = self._engine.driver(own.driver)
        remove = hosted.require(Snapshot).remove_template
        await hosted.call("remove_template", REMOVE_SECONDS, remove, own.reference)
        await self._store.write(lambda conn: _tell_removed(conn, name, by))

    async def _make(self, making: _Making, capsule: Capsule, owner: str, name: str, by: Actor, overwrite: bool) -> None:
        try:
            async with self._capsules.use(capsule.team_id, capsule.id):
                making.made = await self._taken(capsule, owner, name, by, overwrite)
        except AnvilError as error:
            making.failed = error
        finally:
            making.over.set()

    async def _taken(self, capsule: Capsule, owner: str, name: str, by: Actor, overwrite: bool) -> Template:
        """Take the snapshot. Its row is there before it is, so that none is left behind unknown."""
        hosted = self._engine.driver(capsule.driver)
        snapshot = hosted.require(Snapshot).snapshot
        id_ = new_id()
        template = Template(
            name=name,
            team_id=owner,
            driver=capsule.driver,
            reference=id_,
            memory=False,
            vcpus=capsule.vcpus,
            memory_mb=capsule.memory_mb,
            disk_mb=capsule.disk_size_mb or 0,
            size_bytes=0,
            created_at=utcnow(),
        )
        await self._store.write(lambda conn: _enter(conn, template, by))
        try:
            made = await hosted.call("snapshot", SNAPSHOT_SECONDS, snapshot, capsule.id, id_)
            ready, replaced = await self._store.write(lambda conn: _finish(conn, template, made, by, overwrite))
        except AnvilError:
            await self._seen.discard(template)
            raise
        for old in replaced:
            await self._seen.discard(old)
        return ready


def check_name(name: str) -> None:
    """Raise InvalidRequest for what is no name of a template."""
    if not NAME.fullmatch(name):
        expected = "up to 64 letters, digits, dots, underscores and dashes, a letter or digit first"
        raise InvalidRequest("a template cannot be called this", (FieldProblem("body.name", expected),))


def _check_free(conn: Connection, team_id: str, name: str) -> None:
    where = (templates.c.team_id == team_id, templates.c.name == name, templates.c.ready.is_(True))
    if conn.execute(select(templates.c.id).where(*where)).one_or_none() is not None:
        raise TemplateNameTaken(f"your team has a template {name!r} already; templates are never changed")


def _enter(conn: Connection, template: Template, by: Actor) -> None:
    conn.execute(
        insert(templates).values(
            id=template.reference,
            team_id=template.team_id,
            name=template.name,
            driver=template.driver,
            reference=template.reference,
            type="base",
            vcpus=template.vcpus,
            memory_mb=template.memory_mb,
            disk_mb=template.disk_mb,
            size_bytes=0,
            ready=False,
            created_by=by.actor,
            created_at=template.created_at,
        )
    )


def _finish(
    conn: Connection, template: Template, made: Made, by: Actor, overwrite: bool
) -> tuple[Template, list[Template]]:
    """Let a template that has been made be seen, and return it with those whose place it takes."""
    assert template.team_id is not None
    replaced: list[Template] = []
    if overwrite:
        where = (
            templates.c.team_id == template.team_id,
            templates.c.name == template.name,
            templates.c.ready.is_(True),
        )
        replaced = [own_template(row) for row in conn.execute(select(templates).where(*where))]
        conn.execute(update(templates).where(*where).values(ready=False))
    _check_free(conn, template.team_id, template.name)
    conn.execute(
        update(templates)
        .where(templates.c.id == template.reference)
        .values(
            ready=True,
            type="snapshot" if made.fixed else "base",
            vcpus=made.vcpus,
            memory_mb=made.memory // MEGABYTE,
            disk_mb=made.disk // MEGABYTE,
            size_bytes=made.size,
        )
    )
    tell(conn, "create", template.team_id, template.name, by)
    row = conn.execute(select(templates).where(templates.c.id == template.reference)).one()
    return own_template(row), replaced


def _tell_removed(conn: Connection, name: str, by: Actor) -> None:
    append(
        conn,
        "template.deleted",
        subject=("template", name),
        actor=by.actor,
        audit=True,
        ip=by.ip,
        user_agent=by.user_agent,
    )


def tell(conn: Connection, what: str, team_id: str, name: str, by: Actor) -> None:
    """Append that a template has been made or deleted: ``create`` or ``delete``. Of one that all see, all hear."""
    append(
        conn,
        f"template.snapshot.{what}",
        subject=("snapshot", name),
        team_id=None if team_id == PLATFORM else team_id,
        actor=by.actor,
        data={"outcome": "success"},
        audit=True,
        ip=by.ip,
        user_agent=by.user_agent,
    )
