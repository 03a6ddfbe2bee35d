"""Kill -9 of the daemon while guests live: all are taken up again as they were, and their work goes on."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx2
import pytest

from tests.daemon import Daemon
from tests.guests import MakeGuestDaemon, guest_processes, guest_says, make_guest

GUESTS = 3
STEPS = 3
COUNTS = 40
PIPELINE = "counting"
COUNTING = (
    """
description = "Counts on a guest, a line a tenth of a second and one in the ledger a step."
deadline = 600
[make.microvm]
template = "minimal"
"""
    + "".join(
        f"""
[[steps]]
verb = "exec"
name = "count-{number}"
timeout = 300
shell = "echo {number} >> /tmp/ledger; i=0; while [ $i -lt {COUNTS} ]; do i=$((i+1)); echo $i; sleep 0.1; done"
"""
        for number in range(STEPS)
    )
    + """
[[steps]]
verb = "pull"
name = "ledger"
path = "/tmp/ledger"
"""
)

START = """
: > /root/counted
setsid sh -c 'i=0; while :; do i=$((i+1)); echo $i >> /root/counted; sleep 0.1; done' </dev/null >/dev/null 2>&1 &
"""
LOOK = "cat /proc/sys/kernel/random/boot_id /root/counted"
FLOOD = "while :; do cat /proc/kallsyms; done"
"""A program that writes without end: the daemon is killed in the middle of what it takes from a guest."""


@pytest.fixture
def with_guests(guest_daemon_factory: MakeGuestDaemon) -> Iterator[Daemon]:
    """A daemon with the pipeline and a driver that is ready."""
    daemon = guest_daemon_factory()
    (daemon.data_dir / "pipelines").mkdir()
    (daemon.data_dir / "pipelines" / f"{PIPELINE}.toml").write_text(COUNTING)
    daemon.start()
    daemon.wait_for_driver("microvm")
    yield daemon
    if daemon.process is None:
        daemon.start()


class Watched:
    """A guest with a program that counts in it: the same program must go on for ever."""

    def __init__(self, client: httpx2.Client, name: str) -> None:
        self.id = make_guest(client, name)
        guest_says(client, self.id, START)
        self.boot, *_ = guest_says(client, self.id, LOOK).split()
        self.counted = 0

    def look(self, client: httpx2.Client) -> None:
        """Assert that the guest has not begun a new life, and that the count has gone on without a gap."""
        boot, *counted = guest_says(client, self.id, LOOK).split()
        assert boot == self.boot, f"guest {self.id} was started anew"
        assert counted == [str(number + 1) for number in range(len(counted))], f"guest {self.id} has lost count"
        assert len(counted) > self.counted, f"the program in guest {self.id} stands still"
        self.counted = len(counted)


def flood(daemon: Daemon, device: str) -> None:
    """Take output without end from a guest until the daemon dies."""
    with suppress(httpx2.HTTPError), daemon.client() as client:
        body = {"argv": ["sh", "-c", FLOOD], "timeout": 600}
        with client.stream("POST", f"/api/v1/devices/{device}/exec", json=body) as answer:
            for _ in answer.iter_bytes():
                pass


def stuff(daemon: Daemon, device: str) -> None:
    """Write a file without end into a guest until the daemon dies."""

    def content() -> Iterator[bytes]:
        for _ in range(256):
            yield bytes(2**20)

    with suppress(httpx2.HTTPError), daemon.client() as client:
        client.put(f"/api/v1/devices/{device}/files", params={"path": "/root/stuff"}, content=content())


@contextmanager
def traffic(daemon: Daemon, watched: list[Watched]) -> Iterator[None]:
    """Have one guest send and one receive without end within the block, which kills the daemon."""
    threads = [threading.Thread(target=flood, args=(daemon, watched[0].id))]
    threads += [threading.Thread(target=stuff, args=(daemon, watched[1].id))]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join()


def ended(daemon: Daemon, run: str) -> bool:
    with daemon.client() as client:
        return client.get(f"/api/v1/runs/{run}").json()["run"]["status"] not in ("queued", "running")


def begin(daemon: Daemon) -> str:
    """Start a run; return when its guest is made and its first step has begun."""
    with daemon.client() as client:
        answer = client.post("/api/v1/runs", json={"pipeline": PIPELINE})
        assert answer.status_code == 202, answer.text
        run: str = answer.json()["run"]["id"]
        with client.stream("GET", f"/api/v1/runs/{run}/events") as told:
            assert any("run.step" in line for line in told.iter_lines()), run
    return run


def storm(daemon: Daemon, seed: int, kills: int) -> None:
    """Kill the daemon again and again, with bytes under way in both directions; after each restart look at all."""
    dice = random.Random(seed)
    with daemon.client() as client:
        watched = [Watched(client, f"guest-{number}") for number in range(GUESTS)]
    runs: list[str] = []
    for number in range(kills):
        if not runs or ended(daemon, runs[-1]):
            runs.append(begin(daemon))
        with traffic(daemon, watched):
            time.sleep(dice.uniform(0.0, 1.5))  # the point of the kill is what is random here
            daemon.kill()
        if dice.random() < 0.3:
            daemon.start()
            time.sleep(dice.uniform(0.0, 1.0))  # and here the daemon is taking the guests up again
            daemon.kill()
        daemon.start()
        daemon.wait_for_driver("microvm")
        with daemon.client() as client:
            devices = {device["id"] for device in client.get("/api/v1/devices").json()["devices"]}
            assert {guest.id for guest in watched} <= devices, f"seed {seed}, kill {number}"
            began = time.monotonic()
            for guest in watched:
                guest.look(client)
            print(f"seed {seed}, kill {number}: all looked at in {time.monotonic() - began:.2f} s")
    for run in runs:
        check_run(daemon, run)
    with daemon.client() as client:
        for guest in watched:
            guest.look(client)
            assert client.delete(f"/api/v1/devices/{guest.id}").status_code == 204
    assert guest_processes(daemon.data_dir) == []
    assert list((daemon.data_dir / "drivers" / "microvm" / "capsules").iterdir()) == []


def check_run(daemon: Daemon, run: str) -> None:
    """One attempt has passed, with every step done once and every line of its output there once."""
    found = daemon.wait_for(run, timeout=120)
    told = daemon.events(run)
    assert found["run"]["status"] == "passed", f"{told[-5:]}\n{daemon.tail()}"
    assert [each["data"]["attempt"] for each in told if each["kind"] == "run.running"] == [1]
    with daemon.client() as client:
        artifacts = client.get(f"/api/v1/runs/{run}/artifacts").json()["artifacts"]
        texts = {each["name"]: client.get(f"/api/v1/artifacts/{each['id']}").text for each in artifacts}
    assert texts["ledger-ledger"].split() == [str(number) for number in range(STEPS)]
    for number in range(STEPS):
        assert texts[f"step-{number + 1:02}.log"].split() == [str(count + 1) for count in range(COUNTS)]


def test_guests_outlive_four_kills(with_guests: Daemon, seed: int) -> None:
    storm(with_guests, seed, 4)


@pytest.mark.soak
def test_guests_outlive_twenty_kills(with_guests: Daemon, seed: int) -> None:
    storm(with_guests, seed, 20)
