"""Drivers that do everything wrong, each in a process of its own: they take nothing down but themselves."""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import Daemon

from .conftest import LEDGER

HERE = Path(__file__).with_name("bad_drivers")
PATIENCE = 90.0
"""No promise of the daemon: only so that a test that fails does come to its end."""

GOOD = "sandbox"

QUARANTINED = {
    "raises": "it failed 5 times in a row, last: .*a bug in start",
    "exits": "it failed 5 times in a row, last: its process ended with exit code 3",
    "segfaults": r"it failed 5 times in a row, last: its process ended with signal 11 \(segmentation fault\)",
    "fails_at_import": "its process ended with exit code 1; last words: RuntimeError: the bus library is too old",
    "chatters": "the connection is out of step: no message begins with b'hello.*is something else printing",
    "absent": "its command cannot be run: No such file or directory: no-such-program",
    "wants_settings": "it refuses its settings: .*watts",
}
"""What an operator reads of each driver that is left alone in the end."""

KILLED = {
    "blocks": "it gave no sign of life for 10 s and was killed; last words: waiting for the bus",
    "hangs_at_import": "it does not come up: .*did not answer 'initialize'",
}
"""What is read, at the latest after the first attempt, of those that take their time to fail."""

CONFIG = f"""
[drivers.microvm]
enabled = false
[drivers.{GOOD}]
isolation = "process"
slots = 4
"""


def apart(name: str) -> str:
    return f'[drivers.{name}]\nisolation = "process"\nmemory_limit = 134217728\n'


LAMP = """
description = "Asks a lamp for a program."
[[steps]]
verb = "exec"
command = ["light"]
"""

Make = Callable[..., Daemon]


@pytest.fixture(scope="module")
def lab_of(daemon_factory: Any) -> Make:
    """Start a daemon with a good driver and these bad ones, each as a drop-in in a process of its own."""

    def make(*names: str, also: str = "") -> Daemon:
        daemon: Daemon = daemon_factory(CONFIG + "".join(map(apart, names)) + also)
        drop_ins = daemon.data_dir.parent / "conf.d" / "drivers"
        shutil.copytree(HERE / "shared", drop_ins / "shared")
        for name in names:
            shutil.copy(HERE / f"{name}.py", drop_ins)
        (daemon.data_dir / "pipelines").mkdir(parents=True)
        (daemon.data_dir / "pipelines" / "ledger.toml").write_text(LEDGER)
        (daemon.data_dir / "pipelines" / "lamp.toml").write_text(LAMP)
        daemon.bootstrap()
        daemon.start()
        daemon.wait_for_driver(GOOD)
        return daemon

    return make


@pytest.fixture(scope="module")
def lab(lab_of: Make) -> Iterator[Daemon]:
    """A daemon with all of them at once."""
    failing = ("raises", "exits", "segfaults", "eats_memory", "fails_at_import", "hangs_at_import", "hangs", "blocks")
    flooding = ("floods_reports", "floods_devices", "floods_log")
    also = f"""
[drivers.lies]
command = ["{sys.executable}", "{HERE / "lies.py"}"]
[drivers.chatters]
command = ["sh", "-c", "echo hello; cat"]
[drivers.absent]
command = ["no-such-program"]
"""
    daemon = lab_of(*failing, *flooding, "wants_settings", also='watts = "many"' + also)
    yield daemon
    daemon.kill()  # a graceful stop would wait for signs of life


def driver(daemon: Daemon, name: str) -> dict[str, Any]:
    with daemon.client() as client:
        found: dict[str, Any] = next(each for each in listed(client.get("/api/v1/drivers")) if each["name"] == name)
    return found


def listed(answer: Any) -> list[dict[str, Any]]:
    answer.raise_for_status()
    found: list[dict[str, Any]] = answer.json()["drivers"]
    return found


def eventually(daemon: Daemon, condition: Callable[[], Any]) -> Any:
    """Wait until the condition holds, and return it. A real daemon has a real clock, so this looks again and again."""
    over = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < over, daemon.tail()
        time.sleep(0.1)
    return found


def until(daemon: Daemon, name: str, *, reason: str, **wanted: str) -> dict[str, Any]:
    """Wait until a driver is in this state, for this reason."""

    def so() -> dict[str, Any] | None:
        found = driver(daemon, name)
        fits = re.search(reason, found["reason"]) and all(found[key] == value for key, value in wanted.items())
        return found if fits else None

    found: dict[str, Any] = eventually(daemon, so)
    return found


def check_the_rest(daemon: Daemon) -> None:
    """The daemon answers, and the good driver does its work as if it were alone."""
    with daemon.client() as client:
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").status_code == 200
        runs = [client.post("/api/v1/runs", json={"pipeline": "ledger"}).json()["run"]["id"] for _ in range(2)]
    for run in runs:
        assert daemon.wait_for(run)["run"]["status"] == "passed"
    good = driver(daemon, GOOD)
    assert (good["state"], good["health"], good["facts"]["process_starts"]) == ("running", "healthy", "1"), good


def test_the_lab_works_beside_them(lab: Daemon) -> None:
    check_the_rest(lab)


@pytest.mark.parametrize("name", KILLED)
def test_one_that_hangs_is_killed(lab: Daemon, name: str) -> None:
    until(lab, name, reason=KILLED[name], state="waiting")


@pytest.mark.parametrize("name", QUARANTINED)
def test_one_that_keeps_failing_is_quarantined(lab: Daemon, name: str) -> None:
    found = until(lab, name, reason=QUARANTINED[name], state="quarantined")
    assert found["reason"].startswith("it is in quarantine: ")


def test_one_that_eats_memory_meets_its_limit(lab: Daemon) -> None:
    until(lab, "eats_memory", reason="reached its memory limit of 128 MiB|last words: MemoryError", health="unhealthy")


def test_one_that_lies_is_degraded(lab: Daemon) -> None:
    found = until(lab, "lies", reason="faults in the last 10 minutes, last in", health="degraded")
    assert found["state"] == "running"
    assert [each["name"] for each in devices(lab, "lies")] == ["A lamp"]


def test_a_flood_is_held_back_or_dropped_and_counted(lab: Daemon) -> None:
    """A million reports a second, ten thousand devices a minute, a line of a gigabyte and more lines than anybody
    reads: counted where it is shown, and no more than a little of it in memory and in the log."""
    assert lab.process is not None
    eventually(lab, lambda: "log_lines_dropped" in driver(lab, "floods_log")["facts"])
    eventually(lab, lambda: "reports_held_back" in driver(lab, "floods_reports")["facts"])
    shown = lab.anvil("drivers", check=True).stdout
    assert "lines of its log were dropped" in shown
    assert "of its reports were held back" in shown
    assert memory(lab.process.pid) < 400 * 2**20
    assert lab.log.stat().st_size < 5 * 2**20


def test_one_that_ignores_cancellation_holds_up_nobody(lab: Daemon) -> None:
    """A run on its device hangs; cancelled, it ends, and the device is kept from the next one."""
    (device,) = devices(lab, "hangs")
    with lab.client() as client:
        answer = client.post("/api/v1/runs", json={"pipeline": "lamp", "deviceId": device["id"]})
        assert answer.status_code == 202, answer.text
        run = answer.json()["run"]["id"]
        check_the_rest(lab)
        assert client.get(f"/api/v1/runs/{run}").json()["run"]["status"] == "running"
        assert client.post(f"/api/v1/runs/{run}/cancel").status_code in (200, 202)
    assert lab.wait_for(run)["run"]["status"] == "cancelled"
    eventually(lab, lambda: "did not end 'exec.start' within 2 s of its cancellation" in lab.tail(100_000))
    with lab.client() as client:
        following = client.post("/api/v1/runs", json={"pipeline": "lamp", "deviceId": device["id"]}).json()["run"]["id"]
        check_the_rest(lab)
        assert client.get(f"/api/v1/runs/{following}").json()["run"]["status"] == "queued"
        client.post(f"/api/v1/runs/{following}/cancel")


def test_the_lab_works_beside_them_in_the_end(lab: Daemon) -> None:
    check_the_rest(lab)


def test_a_driver_in_quarantine_is_rearmed_by_one_command(lab: Daemon) -> None:
    until(lab, "absent", reason="quarantine", state="quarantined")
    starts = int(driver(lab, "absent")["facts"]["process_starts"])
    lab.anvil("drivers", "rearm", "absent", check=True)
    eventually(lab, lambda: int(driver(lab, "absent")["facts"]["process_starts"]) > starts)
    refused = lab.anvil("drivers", "rearm", GOOD)
    assert (refused.returncode, "is not in quarantine" in refused.stderr) == (6, True)


def devices(daemon: Daemon, name: str) -> list[dict[str, Any]]:
    with daemon.client() as client:
        found = client.get("/api/v1/devices").json()["devices"]
    return [each for each in found if (each["metadata"] or {}).get("driver") == name]


def children(pid: int) -> set[int]:
    """All descendants of a process that live."""
    found: set[int] = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(parent) == pid and state != "Z":
            found |= {int(path.parent.name), *children(int(path.parent.name))}
    return found


def test_a_kill_of_the_daemon_leaves_no_child(lab_of: Make) -> None:
    daemon = lab_of("blocks", "hangs_at_import", "hangs")
    until(daemon, "hangs", reason="the lamp is lit")
    until(daemon, "blocks", reason="the lamp is lit")
    assert daemon.process is not None
    living = children(daemon.process.pid)
    assert len(living) >= 8  # four drivers and their keepers
    daemon.kill()
    eventually(daemon, lambda: not any(map(lives, living)))
    daemon.start()
    daemon.wait_for_driver(GOOD)
    check_the_rest(daemon)
    daemon.kill()


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def memory(pid: int) -> int:
    """Bytes that a process has in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
