"""What capsules can be made from: what all teams see, built for them or the drivers' own, and what teams have made."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from sqlalchemy import Row, delete, select

from anvild.core.engine import DriverInfo, Engine
from anvild.core.engine.persist import persist
from anvild.core.logging import get_logger
from anvild.core.store import Store
from anvild.sdk import AnvilError, HealthState, NotFound, Snapshot, Suspend, Unavailable
from anvild.sdk import Template as Made

from .tables import templates
from .values import PLATFORM, Template

__all__ = ["MEGABYTE", "NAME", "REMOVE_SECONDS", "Templates", "own_template"]

MEGABYTE = 2**20
LISTING_SECONDS = 60.0
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
        if not NAME.fullmatch(name):
            raise NotFound(f"there is no template {name!r}: no template can be called this")
        for owner in dict.fromkeys((team_id, PLATFORM)):
            own = await self._own(owner, name)
            if own:
                return own[0]
        found, away = await self._shared()
        for template in found:
            if template.name == name:
                return template
        known = ", ".join(sorted({template.name for template in found})) or "none"
        message = f"there is no template {name!r}; all teams see: {known}"
        if away:
            raise Unavailable(f"{message}; not ready: {', '.join(away)}")
        raise NotFound(message)

    async def list(self, team_id: str | None) -> list[Template]:
        """Return what a team sees: its own, newest first, then what all see. Those of all teams where that is None."""
        shared, _ = await self._shared()
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
        shared, _ = await self._shared()
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

    async def _own(self, team_id: str | None, name: str | None = None) -> Sequence[Template]:
        query = select(templates).where(templates.c.ready.is_(True)).order_by(templates.c.id.desc())
        if team_id is not None:
            query = query.where(templates.c.team_id == team_id)
        if name is not None:
            query = query.where(templates.c.name == name)
        return await self._store.read(lambda conn: [own_template(row) for row in conn.execute(query)])

    async def _shared(self) -> tuple[Sequence[Template], Sequence[str]]:
        """Return what all teams see, drivers that can put capsules aside first, and which drivers are not ready."""
        await self._engine.drivers_started()
        found: list[Template] = []
        away: list[str] = []
        for info in sorted(self._engine.drivers(), key=lambda info: Suspend.capability not in info.capabilities):
            if info.slots and info.health in USABLE:
                names = {template.name for template in found}
                found += [template for template in await self._of(info) if template.name not in names]
            elif info.health in (HealthState.UNHEALTHY, *USABLE) and info.state != "running":
                away.append(f"{info.name} ({info.reason})")
        return found, away

    async def _of(self, info: DriverInfo) -> Sequence[Template]:
        hosted = self._engine.driver(info.name)
        listed = await hosted.call("templates", LISTING_SECONDS, hosted.provision.templates)
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
