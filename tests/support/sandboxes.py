"""The capsules wing with namespace sandboxes for capsules, and somebody who uses them.

The conftest of a folder that needs these fixtures imports them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from anvild.web.server import ConnectionLimits
from anvild_sandbox.driver import SandboxDriver
from tests.support.capsules import Caller, Lab, served_lab

__all__ = ["MakeCapsule", "api", "capsule", "make", "reaches", "sandboxes", "until"]

MakeCapsule = Callable[..., Awaitable[str]]


@pytest.fixture
async def sandboxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lab]:
    """The wing, when its driver takes work. It does not wait long for clients that do not close their end."""
    monkeypatch.setattr("tests.support.wing.ConnectionLimits", partial(ConnectionLimits, linger_seconds=0.05))
    async with served_lab(tmp_path / "data", drivers={"sandbox": SandboxDriver}) as found:
        await found.wing.engine.driver("sandbox").wait_ready()
        yield found


@pytest.fixture
def api(sandboxes: Lab) -> Caller:
    """A program with the first team's key, which its bare client sends too."""
    caller = sandboxes.by_key()
    caller.client.headers["X-API-Key"] = sandboxes.wing.first.api_key
    return caller


@pytest.fixture
def make(api: Caller) -> MakeCapsule:
    """Make a capsule, wait until it runs, and return its id."""

    async def made(**wish: Any) -> str:
        capsule = await api("POST", "/v1/capsules", 202, json={"template": "host", **wish})
        return await reaches(api, capsule["id"], "running")

    return made


async def reaches(api: Caller, capsule: str, *states: str, path: str = "/v1/capsules/{id}") -> str:
    """Wait until a capsule is in one of these states, as it is shown at ``path``."""
    with trio.fail_after(60):
        while True:
            shown = await api("GET", path, 200, values={"id": capsule})
            if shown["status"] in states:
                return capsule
            assert shown["status"] not in ("error", "stopped"), shown
            await trio.sleep(0.02)


@pytest.fixture
def until() -> Callable[..., Awaitable[str]]:
    """Wait for the state of a capsule."""
    return reaches


@pytest.fixture
async def capsule(make: MakeCapsule) -> str:
    """A capsule that runs."""
    return await make()
