"""The wing with namespace sandboxes to build in, and an admin who has templates built."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from anvild.capsules.values import PLATFORM
from anvild.core.artifacts import Artifacts
from anvild.core.events import EventFilter, EventLog
from anvild_sandbox.driver import SandboxDriver
from tests.support.capsules import Caller, Lab, contract, served_lab

__all__ = ["Yard", "contract"]

ALL = "/v1/admin/builds"
ONE = "/v1/admin/builds/{id}"
CANCEL = "/v1/admin/builds/{id}/cancel"
PATIENCE = 300
ENDS = ("success", "failed", "cancelled")


@dataclass
class Yard:
    """An admin's session, and what builds need waiting for."""

    lab: Lab
    admin: Caller
    driver: str = "sandbox"

    async def submit(self, *recipe: str, name: str = "made", **wish: Any) -> str:
        """Ask for a build on the host's own template, and return its id."""
        body = {"name": name, "base_template": "host", "recipe": recipe, **wish}
        return str((await self.admin("POST", ALL, 202, json=body))["id"])

    async def get(self, build: str) -> Any:
        """Return a build as it stands."""
        return await self.admin("GET", ONE, 200, values={"id": build})

    async def reaches(self, build: str, *states: str, steps: int = 0) -> Any:
        """Wait until a build is in one of the states, and so many steps have ended; return it."""
        with trio.fail_after(PATIENCE):
            while (shown := await self.get(build))["status"] not in states or shown["current_step"] < steps:
                assert shown["status"] not in ENDS, shown
                await trio.sleep(0.02)
        return shown

    async def built(self, *recipe: str, **wish: Any) -> Any:
        """Have something built to whatever end, and return the build."""
        return await self.reaches(await self.submit(*recipe, **wish), *ENDS)

    async def capsule(self, template: str) -> Mapping[str, str]:
        """Have a capsule made of a template, by a program of the first team, and return what names it in paths."""
        api = self.lab.by_key()
        one = {"id": (await api("POST", "/v1/capsules", 202, json={"template": template}))["id"]}
        with trio.fail_after(PATIENCE):
            while True:
                if (await api("GET", "/v1/capsules/{id}", 200, values=one))["status"] == "running":
                    return one
                await trio.sleep(0.02)

    async def driver_has(self) -> set[str]:
        """The driver's own names for what it has."""
        return {made.name for made in await self.lab.wing.engine.driver(self.driver).provision.templates()}

    async def nothing_is_left(self, *, templates: int = 0) -> None:
        """Wait until no machine of a build is left, no archive, and no template but those that were made."""
        wing = self.lab.wing
        archives = wing.services.get(Artifacts)
        with trio.fail_after(PATIENCE):
            while True:
                leases, runs = await wing.engine.leases.list(), await wing.engine.runs.list(PLATFORM)
                left = [found for run in runs for found in await archives.list(run.id)]
                left += await archives.without_run(PLATFORM)
                if not leases and not left and len(await self.driver_has()) == 1 + templates:
                    return
                await trio.sleep(0.02)

    async def told(self, *kinds: str) -> list[Mapping[str, Any]]:
        """The data of events, oldest first."""
        events = await self.lab.wing.services.get(EventLog).read(where=EventFilter(kinds=kinds))
        return [event.data for event in events]


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    """A yard whose driver takes work."""
    async with served_lab(tmp_path / "data", drivers={"sandbox": SandboxDriver}) as lab:
        await lab.wing.engine.driver("sandbox").wait_ready()
        yield Yard(lab, await lab.signed_in())
