"""Requests a second and the 99th percentile beside the peers that do the same query, in one run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import Daemon

from .load import Load, free_port, median, wait_for_port, wrk

ROUNDS = 3
PEERS = Path(__file__).with_name("peers.py")

pytestmark = pytest.mark.bench


def test_reads(idle_daemon: Daemon, table: Any) -> None:
    with idle_daemon.client() as client:
        for _ in range(50):
            answer = client.post("/api/v1/runs", json={"pipeline": "smoke"})
            assert answer.status_code == 202, answer.text
        run = answer.json()["run"]["id"]
    database = str(idle_daemon.data_dir / "anvild.sqlite")
    peers: dict[str, subprocess.Popen[bytes]] = {}
    addresses: dict[str, str] = {}
    for name in ("hypercorn", "fastapi"):
        port = free_port()
        peers[name] = subprocess.Popen([sys.executable, str(PEERS), name, database, str(port)])
        addresses[name] = f"http://127.0.0.1:{port}"
        wait_for_port(port, peers[name])
    key = {"Authorization": f"Bearer {idle_daemon.keys['live_key']}"}
    targets = {
        "GET 50 runs": {
            "anvild": f"{idle_daemon.url}/api/v1/runs",
            "bare hypercorn-trio": addresses["hypercorn"] + "/runs",
            "FastAPI on uvicorn": addresses["fastapi"] + "/runs",
        },
        "GET status": {
            "anvild": f"{idle_daemon.url}/api/v1/runs/{run}",
            "bare hypercorn-trio": addresses["hypercorn"] + "/status",
            "FastAPI on uvicorn": addresses["fastapi"] + "/status",
        },
    }
    try:
        rows = []
        for act, where in targets.items():
            seen: dict[str, list[Load]] = {name: [] for name in where}
            for _ in range(ROUNDS):
                for name, url in where.items():
                    seen[name].append(wrk(url, key if name == "anvild" else {}))
            assert all(load.errors == 0 for loads in seen.values() for load in loads)
            ours = median([load.rate for load in seen["anvild"]])
            for name, loads in seen.items():
                rate = median([load.rate for load in loads])
                p99 = median([load.p99 for load in loads])
                rows.append((act, name, f"{rate:,.0f}", f"{p99:.1f}", f"{ours / rate:.2f}"))
    finally:
        for process in peers.values():
            process.terminate()
            process.wait()
    table(
        f"HTTP, wrk with 16 connections, median of {ROUNDS}; anvild authenticates, limits and counts, the peers do not",
        ("act", "server", "requests/s", "p99 ms", "anvild / it"),
        rows,
    )
