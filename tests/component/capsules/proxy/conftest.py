"""The wing with namespace sandboxes for capsules, whose ports are reached at names below ``localhost``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio

from anvild.core.settings import CapsuleSettings, Settings
from anvild.web.server import ConnectionLimits
from anvild_sandbox.driver import SandboxDriver
from tests.support.capsules import Caller, Lab, served_lab

PORT = 8000
SUPPORT = Path(__file__).parents[3] / "support"
SOURCES = (SUPPORT / "guest_web.py", Path(__file__).with_name("guest_server.py"))


@dataclass
class Site:
    """A web server in a capsule, and ways to reach it."""

    lab: Lab
    api: Caller
    capsule: str

    def host(self, port: int = PORT) -> str:
        """The name that leads to a port, with the daemon's own port."""
        return f"{port}-{self.capsule}.localhost:{self.lab.wing.url.rsplit(':', 1)[1]}"

    def headers(self, port: int = PORT, **more: str) -> dict[str, str]:
        """The headers of somebody with a key who asks for a port."""
        return {"Host": self.host(port), "X-API-Key": self.lab.wing.first.api_key, **more}

    async def ask(self, method: str, path: str, port: int = PORT, **request: Any) -> httpx2.Response:
        """Ask the server something."""
        headers = {**self.headers(port), **request.pop("headers", {})}
        return await self.api.client.request(method, path, headers=headers, **request)

    async def shell(self, line: str) -> str:
        """Run a line of shell in the capsule."""
        body = {"cmd": "/bin/sh", "args": ["-c", line]}
        done = await self.api("POST", "/v1/capsules/{id}/exec", 200, values={"id": self.capsule}, json=body)
        assert done["exit_code"] == 0, done
        return str(done["stdout"])

    async def serve(self) -> None:
        """Start the server, and wait until it listens."""
        for source in SOURCES:
            files = {"path": (None, f"/srv/{source.name}"), "file": ("upload", source.read_bytes())}
            await self.api("POST", "/v1/capsules/{id}/files/write", 204, values={"id": self.capsule}, files=files)
        line = f"exec python3 /srv/guest_server.py {PORT} >/tmp/listening"
        body = {"cmd": "/bin/sh", "args": ["-c", line], "background": True}
        await self.api("POST", "/v1/capsules/{id}/exec", 202, values={"id": self.capsule}, json=body)
        await self.shell("until grep -q listening /tmp/listening; do sleep 0.02; done")


async def make(lab: Lab, api: Caller) -> Site:
    """Make a capsule in which the server runs."""
    made = await api("POST", "/v1/capsules", 202, json={"template": "host"})
    site = Site(lab, api, made["id"])
    with trio.fail_after(60):
        while True:
            shown = await api("GET", "/v1/capsules/{id}", 200, values={"id": site.capsule})
            if shown["status"] == "running":
                break
            assert shown["status"] not in ("error", "stopped"), shown
            await trio.sleep(0.02)
    await site.serve()
    return site


@pytest.fixture
async def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsule_settings: CapsuleSettings) -> AsyncIterator[Lab]:
    """The wing, when its driver takes work. It does not wait long for clients that do not close their end."""
    monkeypatch.setattr("tests.support.wing.ConnectionLimits", partial(ConnectionLimits, linger_seconds=0.05))
    data = tmp_path / "data"
    settings = Settings(data_dir=data, config_dir=data / "etc", capsules=capsule_settings)
    async with served_lab(data, drivers={"sandbox": SandboxDriver}, settings=settings) as found:
        await found.wing.engine.driver("sandbox").wait_ready()
        yield found


@pytest.fixture
def capsule_settings() -> CapsuleSettings:
    """The settings of the proxy."""
    return CapsuleSettings(proxy_domain="localhost")


@pytest.fixture
async def site(lab: Lab) -> Site:
    """A server in a capsule of the first team."""
    return await make(lab, lab.by_key())
