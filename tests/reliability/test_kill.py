"""Kill -9 at random points: no run lost, none started twice for an attempt, none stuck, everything told is true."""

from __future__ import annotations

import random
import time
from collections import Counter

import pytest

from tests.daemon import Daemon

from .conftest import STEPS

IN_FLIGHT = 50
TERMINAL = {"passed", "failed", "cancelled"}
SETTLE_SECONDS = 90.0
"""The promise is 30 s on a machine of its own; here others may be at work, so the bound only says that it ends."""


def submit(daemon: Daemon, count: int) -> list[str]:
    with daemon.client() as client:
        answers = [client.post("/api/v1/runs", json={"pipeline": "ledger"}) for _ in range(count)]
    for answer in answers:
        assert answer.status_code == 202, answer.text
    return [answer.json()["run"]["id"] for answer in answers]


def statuses(daemon: Daemon, runs: list[str]) -> dict[str, str]:
    with daemon.client() as client:
        return {run: client.get(f"/api/v1/runs/{run}").json()["run"]["status"] for run in runs}


def check_run(daemon: Daemon, run: str, status: str) -> None:
    """One attempt is started once; the ledger of a passed run holds every step once."""
    told = daemon.events(run)
    started = Counter(each["data"].get("attempt") for each in told if each["kind"] == "run.running")
    assert all(times == 1 for times in started.values()), f"run {run}: started {started}"
    ends = [each["kind"] for each in told if each["kind"] in {f"run.{state}" for state in TERMINAL}]
    assert ends == [f"run.{status}"], f"run {run} is {status} and ended as {ends}"
    assert status == "passed", f"run {run}: {[each for each in told if each['kind'] == 'run.failed']}\n{daemon.tail()}"
    with daemon.client() as client:
        artifacts = client.get(f"/api/v1/runs/{run}/artifacts").json()["artifacts"]
        ledger = next(each for each in artifacts if each["name"].endswith("ledger"))
        text = client.get(f"/api/v1/artifacts/{ledger['id']}").text
    assert text.split() == [str(number) for number in range(STEPS)], f"run {run}"


def storm(daemon: Daemon, seed: int, kills: int) -> None:
    """Keep 50 runs in flight, kill the daemon again and again, let it settle, then look at every run."""
    dice = random.Random(seed)
    runs = submit(daemon, IN_FLIGHT)
    for number in range(kills):
        time.sleep(dice.uniform(0.05, 1.0))  # the point of the kill is what is random here
        # An acknowledgement is a promise, also when it is the last word before the end.
        runs += submit(daemon, dice.randint(0, 2))
        daemon.kill()
        daemon.start()
        assert set(statuses(daemon, runs[-3:]).values()), f"seed {seed}, kill {number}"
    restarted = time.monotonic()
    while open_runs := [run for run, status in statuses(daemon, runs).items() if status not in TERMINAL]:
        assert time.monotonic() < restarted + SETTLE_SECONDS, f"seed {seed}: stuck: {open_runs}\n{daemon.tail()}"
        time.sleep(0.2)
    print(f"{len(runs)} runs, {kills} kills: all ended {time.monotonic() - restarted:.1f} s after the last restart")
    for run, status in statuses(daemon, runs).items():
        check_run(daemon, run, status)


def test_twenty_kills_with_fifty_runs_in_flight(crashing: Daemon, seed: int) -> None:
    storm(crashing, seed, 20)


@pytest.mark.soak
def test_two_hundred_kills_with_fifty_runs_in_flight(crashing: Daemon, seed: int) -> None:
    storm(crashing, seed, 200)


def test_what_was_acknowledged_is_there_after_a_kill(crashing: Daemon) -> None:
    """Every POST that got its 202 before the kill is found after it, and a repeated one has one effect."""
    acknowledged: dict[str, str] = {}
    for life in range(5):
        with crashing.client() as client:
            for number in range(40):
                key = f"life-{life}-{number}"
                answer = client.post("/api/v1/runs", json={"pipeline": "ledger"}, headers={"Idempotency-Key": key})
                assert answer.status_code == 202, answer.text
                acknowledged[key] = answer.json()["run"]["id"]
        crashing.kill()
        crashing.start()
    with crashing.client() as client:
        for key, run in acknowledged.items():
            assert client.get(f"/api/v1/runs/{run}").status_code == 200
            again = client.post("/api/v1/runs", json={"pipeline": "ledger"}, headers={"Idempotency-Key": key})
            assert again.json()["run"]["id"] == run
        for run in acknowledged.values():
            cancelled = client.post(f"/api/v1/runs/{run}/cancel")
            assert cancelled.status_code in (200, 202, 409), cancelled.text


def test_a_graceful_stop_leaves_work_to_the_next_start(crashing: Daemon) -> None:
    runs = submit(crashing, 3)
    time.sleep(0.5)  # the stop shall come while the steps run
    assert crashing.stop() == 0
    crashing.start()
    for run in runs:
        found = crashing.wait_for(run)
        check_run(crashing, run, found["run"]["status"])
