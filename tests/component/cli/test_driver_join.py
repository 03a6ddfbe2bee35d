"""A driver on one machine lends its device to the daemon of another."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.daemon import Daemon

Anvil = Callable[..., subprocess.CompletedProcess[str]]

LENT = """
from contextlib import asynccontextmanager

import trio

from anvild.sdk import Description, DeviceFact, DeviceStatus, Driver, Health, HealthState, Session, Sighting, hookimpl

FACT = DeviceFact(identity="lent-1", platform="android", name="Lent", status=DeviceStatus.READY)


class LentDriver(Driver):
    name = "lent"

    async def describe(self):
        health = Health(state=HealthState.HEALTHY, reason="well")
        return Description(name="lent", version="1", platforms=("android",), capabilities=(), health=health)

    async def watch(self, report):
        await report(Sighting(kind="seen", device=FACT))
        await trio.sleep_forever()

    @asynccontextmanager
    async def open(self, device, lease):
        yield Session()


@hookimpl
def anvil_drivers():
    return [LentDriver]
"""


def until(anvil: Anvil, status: str) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        devices = json.loads(anvil("devices", "list", "--json").stdout)["devices"]
        if found := [each for each in devices if each["status"] == status]:
            return dict(found[0])
        time.sleep(0.05)
    raise AssertionError(f"no device became {status}")


def test_a_device_is_lent_and_taken_back(lab: Daemon, anvil: Anvil, environ: Mapping[str, str], tmp_path: Path) -> None:
    driver = tmp_path / "lent.py"
    driver.write_text(LENT)
    command = [str(Path(sys.executable).with_name("anvil")), "driver", "join", str(driver)]
    words = [*command, "--udid", "lent-1", "--platform", "android"]
    with subprocess.Popen(words, env=dict(environ), stdout=subprocess.PIPE) as joined:
        try:
            device = until(anvil, "ready")
            assert device["name"] == "Lent"
            joined.send_signal(signal.SIGINT)
            said, _ = joined.communicate(timeout=30)
            assert b"lent-1 is connected to" in said
            assert until(anvil, "offline")["id"] == device["id"]
        finally:
            joined.kill()


def test_what_cannot_be_lent_is_refused(anvil: Anvil, tmp_path: Path) -> None:
    driver = tmp_path / "lent.py"
    driver.write_text(LENT)
    words = ("driver", "join", driver, "--udid", "lent-2", "--platform", "android")
    wrong = anvil(*words, "--setting", "volume=11")
    assert (wrong.returncode, "volume" in wrong.stderr) == (2, True)
    refused = anvil(*words, ANVIL_API_KEY="anvil_live_no")
    assert refused.returncode == 4, refused.stderr
    missing = anvil("driver", "join", os.fspath(tmp_path / "no.py"), "--udid", "x", "--platform", "ios")
    assert missing.returncode == 3
