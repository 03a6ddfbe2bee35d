"""The engine's own costs: durable submissions, hand-over of a device, fan-out of events, start, idling."""

from __future__ import annotations

import itertools
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio

from tests.daemon import Daemon

from .conftest import CONFIG, fill
from .load import median, percentile, wrk

pytestmark = pytest.mark.bench

SUBMITTERS = 32
SUBMISSIONS = 2000
SUBSCRIBERS = 1000
EVENTS = 50
PAUSE = 0.2


def test_durable_submissions(idle_daemon: Daemon, table: Any, tmp_path: Path) -> None:
    """Against the physical floor: one durable SQLite insert at a time, on the same disk."""
    key = {"Authorization": f"Bearer {idle_daemon.keys['live_key']}"}
    url = f"{idle_daemon.url}/api/v1/runs"
    ours, tails, floor = [], [], []
    for number in range(3):
        load = wrk(url, key, body='{"pipeline": "smoke"}', connections=SUBMITTERS)
        assert load.errors == 0
        ours.append(load.rate)
        tails.append(load.p99)
        floor.append(_raw_inserts(tmp_path / f"{number}.sqlite"))
    table(
        f"Durable run submissions, wrk with {SUBMITTERS} connections, median of 3",
        ("what", "a second", "p99 ms", "ratio"),
        [
            (
                "anvild, POST /api/v1/runs",
                f"{median(ours):,.0f}",
                f"{median(tails):.0f}",
                f"{median(ours) / median(floor):.2f}",
            ),
            ("raw sqlite3, one commit each, no HTTP", f"{median(floor):,.0f}", "", "1.00"),
        ],
    )


def _raw_inserts(path: Path) -> float:
    with sqlite3.connect(path, isolation_level=None) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body TEXT)")
        began = time.perf_counter()
        for _ in range(SUBMISSIONS):
            connection.execute("INSERT INTO t (body) VALUES (?)", ("x" * 600,))
        return SUBMISSIONS / (time.perf_counter() - began)


LAMP = """
from contextlib import asynccontextmanager

import trio

from anvild.sdk import Description, DeviceFact, DeviceStatus, Driver, Health, HealthState, Session, Sighting, hookimpl

ANVIL_API = "1.0"
FACT = DeviceFact(identity="lamp-1", platform="lamp", name="lamp", status=DeviceStatus.READY)


class LampSession(Session):
    def __init__(self, device):
        self.device = device


class LampDriver(Driver):
    name = "lamp"

    async def describe(self):
        health = Health(state=HealthState.HEALTHY, reason="lit")
        return Description(name="lamp", version="1", platforms=("lamp",), capabilities=(), health=health)

    async def watch(self, report):
        await report(Sighting(kind="seen", device=FACT))
        await trio.sleep_forever()

    @asynccontextmanager
    async def open(self, device, lease):
        yield LampSession(device)


@hookimpl
def anvil_drivers():
    return [LampDriver]
"""
NOTHING = """
[requires]
platforms = ["lamp"]
[[steps]]
verb = "finding"
title = "It is lit"
"""
QUEUED = 300


def test_release_to_next_run(daemon_factory: Any, table: Any) -> None:
    """One device, 300 queued runs that do nothing: from the release of a lease to the grant of the next."""
    daemon: Daemon = daemon_factory(CONFIG)
    drop_ins = daemon.data_dir.with_name("conf.d") / "drivers"
    drop_ins.mkdir(parents=True)
    (drop_ins / "lamp.py").write_text(LAMP)
    (daemon.data_dir / "pipelines").mkdir(parents=True)
    (daemon.data_dir / "pipelines" / "nothing.toml").write_text(NOTHING)
    daemon.bootstrap()
    daemon.start()
    daemon.wait_for_driver("lamp")
    began = time.monotonic()
    with daemon.client() as client:
        for _ in range(QUEUED):
            last = client.post("/api/v1/runs", json={"pipeline": "nothing"}).json()["run"]["id"]
    daemon.wait_for(last, timeout=300)
    rate = QUEUED / (time.monotonic() - began)
    daemon.stop()
    with sqlite3.connect(daemon.data_dir / "anvild.sqlite") as connection:
        query = "SELECT kind, at FROM events WHERE kind IN ('lease.released', 'lease.granted') ORDER BY id"
        told = connection.execute(query).fetchall()
    pairs = itertools.pairwise(told)
    gaps = [(b[1] - a[1]) / 1000 for a, b in pairs if (a[0], b[0]) == ("lease.released", "lease.granted")]
    assert len(gaps) > QUEUED / 2
    table(
        f"Release to next run: one device, {QUEUED} queued runs that do nothing",
        ("p50 ms", "p99 ms", "budget", "runs a second, submission over HTTP included"),
        [(f"{percentile(gaps, 50):.1f}", f"{percentile(gaps, 99):.1f}", "10 / 50 ms", f"{rate:.0f}")],
    )


def test_fan_out(idle_daemon: Daemon, table: Any) -> None:
    """Time from the sending of the POST to the event at each of 1,000 subscribers."""
    address = httpx2.URL(idle_daemon.url)
    key = idle_daemon.keys["live_key"]
    ask = f"GET /api/v1/events HTTP/1.1\r\nHost: lab\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
    delays: list[float] = []
    sent = 0.0
    opened = 0

    async def subscriber(all_open: trio.Event) -> None:
        """Plain sockets: an HTTP library would cost more here than the daemon does."""
        nonlocal opened
        stream = await trio.open_tcp_stream("127.0.0.1", address.port or 80)
        async with stream:
            await stream.send_all(ask)
            head = await stream.receive_some()
            assert head.startswith(b"HTTP/1.1 200"), head
            opened += 1
            if opened == SUBSCRIBERS:
                all_open.set()
            seen = 0
            async for piece in stream:
                for _ in range(piece.count(b"event: run.queued")):
                    delays.append(trio.current_time() - sent)
                    seen += 1
                if seen == EVENTS:
                    return

    async def measure() -> None:
        nonlocal sent
        all_open = trio.Event()
        headers = {"Authorization": f"Bearer {key}"}
        client = httpx2.AsyncClient(base_url=idle_daemon.url, headers=headers, timeout=60)
        async with client, trio.open_nursery() as nursery:
            for _ in range(SUBSCRIBERS):
                nursery.start_soon(subscriber, all_open)
            await all_open.wait()
            for _ in range(EVENTS):
                sent = trio.current_time()
                answer = await client.post("/api/v1/runs", json={"pipeline": "smoke"})
                assert answer.status_code == 202
                await trio.sleep(PAUSE)

    trio.run(measure)
    assert len(delays) == SUBSCRIBERS * EVENTS
    table(
        f"SSE fan-out: {EVENTS} events, {1 / PAUSE:.0f} a second, to {SUBSCRIBERS:,} subscribers on the same machine",
        ("deliveries", "p50 ms", "p99 ms", "budget p99"),
        [
            (
                f"{len(delays):,}",
                f"{percentile(delays, 50) * 1000:.0f}",
                f"{percentile(delays, 99) * 1000:.0f}",
                "250",
            )
        ],
    )


def test_start_with_many_runs_and_idling(daemon_factory: Any, table: Any) -> None:
    """Start to ready with 50,000 runs in the store, then a minute of nothing."""
    daemon: Daemon = daemon_factory(CONFIG)
    daemon.bootstrap()
    empty = _start(daemon)
    with daemon.client() as client:
        run = client.post("/api/v1/runs", json={"pipeline": "smoke"}).json()["run"]["id"]
        client.post(f"/api/v1/runs/{run}/cancel")
    daemon.stop()
    fill(daemon, 50_000)
    full = []
    for _ in range(3):
        full.append(_start(daemon))
        daemon.stop()
    _start(daemon)
    time.sleep(5)  # what a start leaves to do shall not count as idling
    assert daemon.process is not None
    before, began = _cpu(daemon.process.pid), time.monotonic()
    time.sleep(20)
    share = (_cpu(daemon.process.pid) - before) / (time.monotonic() - began) * 100
    memory = _memory(daemon.process.pid)
    daemon.stop()
    table(
        "Start and idling",
        ("what", "value", "against"),
        [
            ("start to ready, empty store", f"{empty:.2f} s", "1.00"),
            ("start to ready, 50,000 runs, median of 3", f"{median(full):.2f} s", f"{median(full) / empty:.2f}"),
            ("idle CPU over 20 s", f"{share:.2f} % of a core", "budget 0.3 %"),
            ("resident memory", f"{memory / 2**20:.0f} MiB", "budget 90 MiB"),
        ],
    )


def _start(daemon: Daemon) -> float:
    began = time.perf_counter()
    daemon.start()
    return time.perf_counter() - began


def _cpu(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
