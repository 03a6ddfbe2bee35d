"""What capsules can be made from: what all teams see, built for them or the drivers' own, and what teams have made."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any

import trio
from sqlalchemy import Row, delete, select

from anvild.core.engine import DriverInfo, Engine
from anvild.core.engine.persist import persist
from anvild.core.identity.tables import teams
from anvild.core.logging import get_logger
from anvild.core.store import Store
from anvild.sdk import AnvilError, HealthState, NotFound, Snapshot, Suspend, Unavailable
from anvild.sdk import Template as Made

from .tables import templates
from .values import PLATFORM, Template

__all__ = ["MEGABYTE", "NAME", "REMOVE_SECONDS", "Templates", "own_template"]

MEGABYTE = 2**20
LISTING_SECONDS = 60.0
FAR_SECONDS = 5.0
"""How long a driver may take to list its templates, here and on another machine, which may have gone just now."""

REMOVE_SECONDS = 60.0
USABLE = (HealthState.HEALTHY, HealthState.DEGRADED)

log = get_logger(__name__)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

_OURS = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""The references of the templates that were made here are ids: whatever else a driver has is its own, and for all."""


class Templates:
    """Finds templates. A team's own come before those that all see."""

    def __init__(self, engine: Engine, store: Store) -> None:
        self._engine = engine
        self._store = store

    async def get(self, name: str, team_id: str) -> Template:
        """Return a template that a team sees. Raises NotFound, and Unavailable while a driver that may have it is not
        ready."""
        return (await self.places(name, team_id))[0]

    async def places(self, name: str, team_id: str) -> Sequence[Template]:
        """Return a template that a team sees once for each driver that has it, the best place for a capsule first.

        Raises as :meth:`get`.
        """
        if not NAME.fullmatch(name):
            raise NotFound(f"there is no template {name!r}: no template can be called this")
        own = await self._own(team_id, name)
        if own:
            return own[:1]
        infos = await self._open_to(team_id)
        drivers = {info.name for info in infos}
        built = [each for each in await self._own(PLATFORM, name) if each.driver in drivers]
        if built:
            return built[:1]
        listed, away = await self._listed(infos)
        found = [template for template in listed if template.name == name]
        if found:
            return found
        known = ", ".join(sorted({template.name for template in listed})) or "none"
        message = f"there is no template {name!r}; all teams see: {known}"
        if away:
            raise Unavailable(f"{message}; not ready: {', '.join(away)}")
        raise NotFound(message)

    async def list(self, team_id: str | None) -> list[Template]:
        """Return what a team sees: its own, newest first, then what all see. Those of all teams where that is None."""
        shared = await self._shared(team_id)
        owners = (None,) if team_id is None else dict.fromkeys((team_id, PLATFORM))
        found = [each for owner in owners for each in await self._own(owner)]
        return [*found, *shared]

    async def is_shared(self, name: str) -> bool:
        """Say whether a name is that of a template that all teams see."""
        return bool(await self._own(PLATFORM, name)) or await self.is_drivers(name)

    async def is_drivers(self, name: str) -> bool:
        """Say whether a name is that of a driver's own template, which is there without anybody having made it here."""
        return await self.of_driver(name) is not None

    async def of_driver(self, name: str) -> Template | None:
        """Return the driver's own template of this name, if there is one."""
        shared = await self._shared(None)
        return next((template for template in shared if template.name == name), None)

    async def discard(self, template: Template) -> None:
        """Remove what the driver has of a template that is seen no more, then its row. What cannot be removed now is
        after a restart."""
        try:
            await self._engine.drivers_started()
            hosted = self._engine.driver(template.driver)
            with suppress(NotFound):
                remove = hosted.require(Snapshot).remove_template
                await hosted.call("remove_template", REMOVE_SECONDS, remove, template.reference)
        except AnvilError as error:
            log.warning("template_not_removed", template=template.name, reason=error.message)
            return
        gone = delete(templates).where(templates.c.id == template.reference)
        await persist(self._store, lambda conn: conn.execute(gone))

    async def forsake(self, drivers: Collection[str]) -> None:
        """Forget the templates that were made here on drivers which are no more."""
        gone = delete(templates).where(templates.c.driver.in_(drivers))
        await self._store.write(lambda conn: conn.execute(gone))

    async def _own(self, team_id: str | None, name: str | None = None) -> Sequence[Template]:
        query = select(templates).where(templates.c.ready.is_(True)).order_by(templates.c.id.desc())
        if team_id is not None:
            query = query.where(templates.c.team_id == team_id)
        if name is not None:
            query = query.where(templates.c.name == name)
        return await self._store.read(lambda conn: [own_template(row) for row in conn.execute(query)])

    async def _shared(self, team_id: str | None) -> Sequence[Template]:
        """Return the drivers' own templates that a team may use, or any (None): one of each name, at its best place."""
        listed, _ = await self._listed(await self._open_to(team_id))
        best: dict[str, Template] = {}
        for template in listed:
            best.setdefault(template.name, template)
        return list(best.values())

    async def _open_to(self, team_id: str | None) -> Sequence[DriverInfo]:
        """Return the drivers that a team may use, or all (None), the best for a capsule first: those that can put it
        aside, then those of this machine, then those with the most room.

        A team that brings its own hosts uses those, and the others all that are nobody's own.
        """
        await self._engine.drivers_started()
        infos = self._engine.drivers()
        if team_id is not None:
            query = select(teams.c.byoc).where(teams.c.id == team_id)
            byoc = await self._store.read(lambda conn: conn.execute(query).scalar_one_or_none())
            infos = [info for info in infos if info.team_id == (team_id if byoc else None)]
        return sorted(
            infos,
            key=lambda info: (
                Suspend.capability not in info.capabilities,
                info.elsewhere,
                info.slots_used - info.slots if info.elsewhere else 0,
                info.name,
            ),
        )

    async def _listed(self, infos: Sequence[DriverInfo]) -> tuple[Sequence[Template], Sequence[str]]:
        """Return the drivers' own templates in the order of the drivers, and which drivers are not ready."""
        found: dict[str, Sequence[Template]] = {}
        away: dict[str, str] = {}

        async def ask(info: DriverInfo) -> None:
            try:
                found[info.name] = await self._of(info)
            except AnvilError as error:
                away[info.name] = error.message

        async with trio.open_nursery() as nursery:
            for info in infos:
                if info.slots and info.health in USABLE:
                    nursery.start_soon(ask, info)
                elif info.health in (HealthState.UNHEALTHY, *USABLE) and info.state != "running":
                    away[info.name] = info.reason
        told = [f"{info.name} ({away[info.name]})" for info in infos if info.name in away]
        return [template for info in infos for template in found.get(info.name, ())], told

    async def _of(self, info: DriverInfo) -> Sequence[Template]:
        hosted = self._engine.driver(info.name)
        seconds = FAR_SECONDS if info.elsewhere else LISTING_SECONDS
        listed = await hosted.call("templates", seconds, hosted.provision.templates)
        return [_shared_template(info.name, made) for made in listed if not _OURS.fullmatch(made.name)]


def _shared_template(driver: str, made: Made) -> Template:
    return Template(
        name=made.name,
        team_id=None,
        driver=driver,
        reference=made.name,
        memory=made.fixed,
        vcpus=made.vcpus,
        memory_mb=made.memory // MEGABYTE,
        disk_mb=made.disk // MEGABYTE,
        size_bytes=made.size,
        created_at=made.created,
    )


def own_template(row: Row[Any]) -> Template:
    """Make the value of a row of the templates that were made here."""
    return Template(
        name=row.name,
        team_id=None if row.team_id == PLATFORM else row.team_id,
        driver=row.driver,
        reference=row.reference,
        memory=row.type == "snapshot",
        vcpus=row.vcpus,
        memory_mb=row.memory_mb,
        disk_mb=row.disk_mb,
        size_bytes=row.size_bytes,
        created_at=row.created_at,
        environment=row.environment or {},
        account=row.account,
    )
