"""The driver's own adb server: the real program, supervised."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from anvild.sdk import Command, DriverContext, HealthState, Lease, Remedy, Sighting, Unavailable, run
from anvild_android.adb.child import ServerChild
from anvild_android.driver import AndroidDriver
from anvild_android.settings import AndroidSettings


def ignore(*_words: object, **_values: object) -> None:
    """A log that nobody reads."""


def driver(root: Path, **settings: Any) -> AndroidDriver:
    for name in ("state", "cache"):
        (root / name).mkdir(exist_ok=True)
    return AndroidDriver(
        DriverContext(
            settings=AndroidSettings(**settings),
            host="test",
            state_dir=root / "state",
            cache_dir=root / "cache",
            data_path=(),
            log=ignore,
        )
    )


@pytest.fixture
def adb() -> str:
    found = shutil.which("adb")
    if found is None:
        pytest.skip("needs adb: apt install adb")
    return found


def servers(home: Path) -> list[int]:
    """The processes of adb servers that have their home there."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"HOME={home}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


async def test_a_server_that_dies_is_restarted_on_its_port(adb: str, tmp_path: Path) -> None:
    child = ServerChild(adb, tmp_path, ignore)
    home = tmp_path / "home"
    async with trio.open_nursery() as nursery:
        with trio.fail_after(60):
            await nursery.start(child.run)
            assert await child.server.version() >= 39
            assert (home / ".android/adbkey").exists()
            for pid in servers(home):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            assert await child.server.devices() == []
            await child.restart()
            assert await child.server.devices() == []
            assert child.restarts == 2
        nursery.cancel_scope.cancel()
    with trio.fail_after(60):
        while servers(home):  # noqa: ASYNC110  # what was killed takes a moment to go, and tells nobody
            await trio.sleep(0.02)


async def test_a_program_that_is_no_adb(tmp_path: Path) -> None:
    false = shutil.which("false")
    assert false is not None
    started = driver(tmp_path, adb=false)
    with pytest.raises(Unavailable, match="does not start"):
        await started.start()
    await started.stop()


async def test_no_adb_at_all(tmp_path: Path) -> None:
    made = driver(tmp_path, adb="/no/such/adb")
    health = (await made.describe()).health
    assert health.state is HealthState.ABSENT
    assert "install the package adb" in health.reason
    with pytest.raises(Unavailable, match="install the package adb"):
        await made.start()
    await made.stop()


async def test_a_server_that_is_named_and_not_there(tmp_path: Path) -> None:
    made = driver(tmp_path, server="127.0.0.1:1")
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        await made.start()
    await made.stop()


async def test_a_server_that_is_named_is_never_ended(tmp_path: Path, debian_server: str) -> None:
    made = driver(tmp_path, server=debian_server)
    await made.start()
    assert (await made.describe()).facts["adb_server"] == debian_server
    await made.stop()
    again = driver(tmp_path, server=debian_server)
    await again.start()
    await again.stop()


ORPHAN = """
import os, signal, sys, trio
from pathlib import Path
from anvild_android.adb.child import ServerChild

async def main():
    child = ServerChild(sys.argv[1], Path(sys.argv[2]), print)
    async with trio.open_nursery() as nursery:
        await nursery.start(child.run)
        os.kill(os.getpid(), signal.SIGKILL)

trio.run(main)
"""


def test_no_server_is_left_by_a_daemon_that_is_killed(adb: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", ORPHAN, adb, str(tmp_path)], timeout=30, check=False)
    assert done.returncode == -signal.SIGKILL
    for _ in range(500):
        if not servers(tmp_path / "home"):
            break
        os.sched_yield()
        subprocess.run(["sleep", "0.01"], check=True)
    assert servers(tmp_path / "home") == []


@pytest.fixture
def simulation() -> None:
    if not (shutil.which("bwrap") and shutil.which("busybox")):
        pytest.skip("needs bubblewrap and busybox: apt install bubblewrap busybox-static")


@pytest.mark.usefixtures("simulation")
async def test_simulated_devices_of_the_driver_itself(adb: str, tmp_path: Path) -> None:
    made = driver(tmp_path, adb=adb, simulate=2)
    seen: dict[str, Sighting] = {}
    changed = trio.Event()

    async def report(sighting: Sighting) -> None:
        nonlocal changed
        seen[sighting.device.identity] = sighting
        changed.set()
        changed = trio.Event()

    async def ready() -> None:
        while [each.device.status for each in seen.values()] != ["ready", "ready"]:
            await changed.wait()

    await made.start()
    try:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(made.watch, report)
                await ready()
                assert sorted(seen) == ["SIMULATED0001", "SIMULATED0002"]
                first = seen["SIMULATED0001"].device
                await made.unplug(first.identity)
                await made.unplug(first.identity)
                while seen[first.identity].kind != "lost":
                    await changed.wait()
                await made.plug(first.identity)
                await ready()
                assert Remedy.RESTART_HELPER in await made.remedies(first.identity)
                assert await made.mend(first.identity, Remedy.RESTART_HELPER)
                async with made.open(first, Lease(lease_id="l", fence=1, holder="test")) as opened:
                    session: Any = opened
                    assert (await run(session, Command(argv=("echo", "x")))).stdout == b"x\n"
                nursery.cancel_scope.cancel()
    finally:
        await made.stop()
    assert servers(tmp_path / "state/home") == []
