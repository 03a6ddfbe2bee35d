"""What a good driver feels of a bad one that floods the daemon, each in a process of its own."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import Daemon

from .load import median, percentile

pytestmark = pytest.mark.bench

BAD = Path(__file__).resolve().parents[1] / "reliability" / "bad_drivers"
FLOODS = ("floods_reports", "floods_devices", "floods_log")
HELD_BACK = FLOODS[:2]
"""What these may do at once is spent before anything is measured: a flood is what goes on."""

ROUNDS = 3
VERBS = 400

CONFIG = """
[web]
requests_per_minute = 100000000
[drivers.microvm]
enabled = false
[drivers.sandbox]
isolation = "process"
"""


def test_verbs_beside_a_flood(daemon_factory: Any, table: Any) -> None:
    """The verb reads a small file of a sandbox through the daemon; each round has a fresh daemon."""
    taken: dict[str, list[float]] = {name: [] for name in ("alone", *FLOODS)}
    for _ in range(ROUNDS):
        for name, seconds in taken.items():
            seconds += _round(daemon_factory, name)
    alone = taken["alone"]
    rows = [
        (
            name,
            f"{median(seconds) / median(alone):.2f} ×",
            f"{percentile(seconds, 99) / percentile(alone, 99):.2f} ×",
        )
        for name, seconds in taken.items()
    ]
    table("a verb of a good driver beside a bad one", ["beside", "median", "99th percentile"], rows)


def _round(daemon_factory: Any, bad: str) -> list[float]:
    own = f'[drivers.{bad}]\nisolation = "process"\n' if bad in FLOODS else ""
    daemon: Daemon = daemon_factory(CONFIG + own)
    if own:
        drop_ins = daemon.data_dir.parent / "conf.d" / "drivers"
        shutil.copytree(BAD / "shared", drop_ins / "shared")
        shutil.copy(BAD / f"{bad}.py", drop_ins)
    daemon.bootstrap()
    daemon.start()
    try:
        for name in ("sandbox", *((bad,) if own else ())):
            daemon.wait_for_driver(name)
        while bad in HELD_BACK and "reports_held_back" not in _facts(daemon, bad):
            time.sleep(0.1)
        made = daemon.anvil("device", "make", "host", "--driver", "sandbox", "--name", "box", "--json", check=True)
        device = json.loads(made.stdout)["device"]["id"]
        with daemon.client() as client:
            path = f"/api/v1/devices/{device}/files"
            client.put(path, params={"path": "/tmp/note"}, content=b"hello").raise_for_status()
            seconds = []
            for _ in range(VERBS):
                began = time.perf_counter()
                answer = client.get(path, params={"path": "/tmp/note"})
                seconds.append(time.perf_counter() - began)
                assert answer.content == b"hello"
        daemon.tidy()
        return seconds
    finally:
        daemon.kill()


def _facts(daemon: Daemon, name: str) -> dict[str, str]:
    with daemon.client() as client:
        found: dict[str, str] = next(
            each["facts"] for each in client.get("/api/v1/drivers").json()["drivers"] if each["name"] == name
        )
    return found
