"""Phones: a command through the daemon beside the tool that people use, and how soon a phone that is plugged in works.

The phone is the driver's simulator; the adb server between is the real one, and all ways go through the same server.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from anvild.core.engine import Engine
from anvild.core.events import EventLog
from anvild.core.settings import Settings
from anvild.sdk import Rehearsal
from anvild_android.driver import AndroidDriver
from tests.daemon import Daemon
from tests.support.wing import served

from .load import median

pytestmark = [
    pytest.mark.bench,
    pytest.mark.skipif(
        any(shutil.which(tool) is None for tool in ("adb", "bwrap", "busybox")),
        reason="a simulated phone needs: apt-get install adb bubblewrap busybox-static",
    ),
]

ROUNDS = 40
REPEATS = 3
PLUGS = 10


@contextmanager
def adb_server(home: Path) -> Iterator[int]:
    """A real adb server of this test's own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environ = {**os.environ, "HOME": str(home), "ADB_MDNS": "0", "ADB_LOCAL_TRANSPORT_MAX_PORT": "5554"}
    command = ["adb", "-P", str(port), "nodaemon", "server"]
    with subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            yield port
        finally:
            server.terminate()


def test_a_command_through_the_daemon(daemon_factory: Any, table: Any, tmp_path: Path) -> None:
    """``true`` on a phone that is held: over HTTP, with a process of adb for each, and on the bare socket."""
    with adb_server(tmp_path) as port:
        daemon: Daemon = daemon_factory(
            f"[drivers.microvm]\nenabled = false\n[drivers.android]\nsimulate = 1\nserver = '127.0.0.1:{port}'\n"
        )
        daemon.bootstrap()
        daemon.start()
        device, serial = _ready(daemon)
        with httpx2.Client(
            base_url=f"{daemon.url}/api/v1", headers={"X-API-Key": daemon.keys["live_key"]}, trust_env=False
        ) as client:

            def ours() -> None:
                answer = client.post(f"/devices/{device}/exec", json={"argv": ["true"]})
                assert b'"code":0' in answer.content.replace(b" ", b""), answer.text

            def cli() -> None:
                subprocess.run(["adb", "-P", str(port), "-s", serial, "shell", "true"], check=True)

            assert client.post(f"/devices/{device}/lease", json={}).status_code == 201
            times = {
                name: median([_repeat(once) for _ in range(REPEATS)])
                for name, once in (("cli", cli), ("raw", lambda: _raw(port, serial)), ("ours", ours))
            }
    table(
        f"One command on a simulated phone, ms, median of {REPEATS} x {ROUNDS}",
        ("way", "ms", "ratio to the adb program", "ratio to the socket"),
        [
            (name, f"{times[key]:.1f}", f"{times[key] / times['cli']:.2f}", f"{times[key] / times['raw']:.2f}")
            for name, key in (
                ("anvild, POST /devices/{id}/exec", "ours"),
                ("the adb program, one process each", "cli"),
                ("a bare socket to the adb server", "raw"),
            )
        ],
    )


def _ready(daemon: Daemon) -> tuple[str, str]:
    """Wait for the phone; return its id, and its address at the adb server."""
    deadline = time.monotonic() + 60
    headers = {"X-API-Key": daemon.keys["live_key"]}
    while time.monotonic() < deadline:
        devices = httpx2.get(f"{daemon.url}/api/v1/devices", headers=headers, trust_env=False).json()["devices"]
        for device in devices:
            if device["status"] == "ready" and "android" in str(device):
                return device["id"], _address(daemon)
        time.sleep(0.1)
    raise AssertionError("no phone became ready")


def _address(daemon: Daemon) -> str:
    port = daemon.config.rpartition(":")[2].strip("'\n")
    listed = subprocess.run(["adb", "-P", port, "devices"], capture_output=True, text=True, check=True).stdout
    return listed.splitlines()[1].split()[0]


def _repeat(once: Any) -> float:
    began = time.perf_counter()
    for _ in range(ROUNDS):
        once()
    return (time.perf_counter() - began) / ROUNDS * 1000


def _raw(port: int, serial: str) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for service in (f"host:transport:{serial}", "shell,v2,raw:true"):
            connection.sendall(f"{len(service):04x}{service}".encode())
            assert connection.recv(4, socket.MSG_WAITALL) == b"OKAY"
        while head := connection.recv(5, socket.MSG_WAITALL):
            kind, length = struct.unpack("<BI", head)
            body = connection.recv(length, socket.MSG_WAITALL)
            if kind == 3:
                assert body == b"\0"
                return


async def test_from_plug_to_ready(table: Any, tmp_path: Path) -> None:
    """A phone is plugged in: when the adb server tells of it, and when the lab has it in its store as ready."""
    settings = Settings(data_dir=tmp_path / "data", config_dir=tmp_path / "etc", drivers={"android": {"simulate": 1}})
    waits: list[float] = []
    async with served(tmp_path / "data", drivers={"android": AndroidDriver}, settings=settings) as wing:
        engine, events = wing.services.get(Engine), wing.services.get(EventLog)
        hosted = engine.driver("android")
        await hosted.wait_ready()
        rehearsal: object = hosted.driver
        assert isinstance(rehearsal, Rehearsal)
        await hosted.sightings.wait_present("SIMULATED0001")
        (identity,) = hosted.sightings.present
        for _ in range(PLUGS):
            async with events.follow(after=None) as followed:
                await rehearsal.unplug(identity)
                while (await anext(followed)).kind != "device.lost":
                    pass
                began = time.perf_counter()
                await rehearsal.plug(identity)
                while (event := await anext(followed)).data.get("status") != "ready":
                    assert event.kind.startswith("device."), event
                waits.append((time.perf_counter() - began) * 1000)
    table(
        f"From plug to ready, {PLUGS} times",
        ("what", "median ms", "slowest ms"),
        [("a simulated phone at the real adb server", f"{median(waits):.0f}", f"{max(waits):.0f}")],
    )
