"""Capsules that are machines, through thick and thin: no capsule, no file and no line of output is ever lost."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pytest

from tests.daemon import Daemon
from tests.guests import MakeGuestDaemon
from tests.support.capsules import contract
from tests.support.contract import Document
from tests.support.program import ONE, Capsule, Program

__all__ = ["contract"]

ISOLATED = """
[drivers.microvm]
isolation = "process"
"""
HUGE, BLOCK = 2**31, 2**20
ROOM = 64 * 2**20
MANY = 100
LONG = 1000
PATIENCE = 300.0
COUNTING = "i=0; while :; do i=$((i+1)); echo $i; echo $i >> /root/counted; sleep 0.1; done"
LOOK = "cat /proc/sys/kernel/random/boot_id; cat /root/counted"
HASHES = "cd /root; sync; echo 3 > /proc/sys/vm/drop_caches; sha256sum f* 2>/dev/null || true"
CLOCK_SECONDS = 0.5
ADOPTION_SECONDS = 5.0


@pytest.fixture
def program(guest_daemon: Daemon, contract: Document) -> Iterator[Program]:
    """A program with a key. What a failed test has left is ended before the next one."""
    program = Program(guest_daemon, contract)
    yield program
    try:
        if program.daemon.process is None:
            program.daemon.start()
            program.daemon.wait_for_driver("microvm")
        left = [{"id": each["id"]} for each in program("GET", "/v1/capsules", 200)]
        for capsule in left:
            program("DELETE", ONE, 202, capsule)
        program.wait_ended(left)
    finally:
        program.close()


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads that call at once."""
    with ThreadPoolExecutor(MANY) as made:
        yield made


class Counting:
    """A capsule with a program that writes numbered lines: the same program must go on for ever."""

    def __init__(self, program: Program) -> None:
        self.capsule = program.make()
        self.boot = ""
        self.counted = 0

    def begin(self, program: Program) -> None:
        """Start the program once the capsule runs."""
        program.reaches(self.capsule, "running")
        program.leave(self.capsule, COUNTING, "counting")
        self.boot = program.shell(self.capsule, LOOK + " || true").split()[0]

    def look(self, program: Program) -> None:
        """Assert that the capsule has not begun a new life, and that the count has gone on without a gap."""
        boot, *counted = program.shell(self.capsule, LOOK).split()
        assert boot == self.boot, f"the capsule {self.capsule} was started anew"
        assert counted == [str(number + 1) for number in range(len(counted))], "it has lost count"
        assert len(counted) > self.counted, "the program stands still"
        self.counted = len(counted)

    def read(self, program: Program) -> None:
        """Assert that all that the program has ever written is told, each line once."""
        heard = ""
        with program.following(self.capsule, "counting") as texts:
            while heard.count("\n") < self.counted:
                heard += next(texts)
        lines = heard.split("\n")[:-1]
        assert lines == [str(number + 1) for number in range(len(lines))], "output was lost"


def adoption(daemon: Daemon, since: int, capsules: int) -> float:
    """How many seconds after it was ready a daemon had adopted all capsules, by its log from a byte on."""
    with daemon.log.open("rb") as log:
        log.seek(since)
        told = [json.loads(line) for line in log if line.startswith(b"{")]
    (ready,) = (datetime.fromisoformat(each["at"]) for each in told if each["event"] == "ready")
    adopted = [datetime.fromisoformat(each["at"]) for each in told if each["event"] == "recovery" and each["alive"]]
    assert len(adopted) == capsules
    return (max(adopted) - ready).total_seconds()


def outlive(program: Program, pool: ThreadPoolExecutor, *, capsules: int, kills: int, in_time: bool) -> None:
    """Kill the daemon again and again; each time all capsules must be there as they were."""
    counting = [Counting(program) for _ in range(capsules)]
    list(pool.map(lambda each: each.begin(program), counting))
    ids = sorted(each.capsule["id"] for each in counting)
    for number in range(kills):
        program.daemon.kill()
        said = program.daemon.log.stat().st_size
        program.daemon.start()
        ready = time.monotonic()
        shown = program("GET", "/v1/capsules", 200)
        assert sorted(each["id"] for each in shown) == ids, f"kill {number}"
        list(pool.map(lambda each: each.look(program), counting))
        answered = time.monotonic() - ready
        adopted = adoption(program.daemon, said, capsules)
        print(
            f"kill {number}: {capsules} adopted {adopted:.2f} s after the daemon was ready, all asked {answered:.2f} s"
        )
        assert not in_time or adopted < ADOPTION_SECONDS, f"kill {number}"
    list(pool.map(lambda each: each.read(program), counting))
    program.end(*(each.capsule for each in counting))


def test_capsules_outlive_two_kills(program: Program, pool: ThreadPoolExecutor) -> None:
    outlive(program, pool, capsules=6, kills=2, in_time=False)


@pytest.mark.soak
def test_twenty_capsules_outlive_twenty_kills(program: Program, pool: ThreadPoolExecutor) -> None:
    outlive(program, pool, capsules=20, kills=20, in_time=True)


def drift(program: Program, capsule: Capsule) -> float:
    """How many seconds a capsule's clock is off at least."""
    before = time.time()
    clock = float(program.shell(capsule, "date +%s.%N"))
    return max(before - clock, clock - time.time(), 0.0)


def test_capsules_outlive_their_driver(guest_daemon_factory: MakeGuestDaemon, contract: Document) -> None:
    daemon = guest_daemon_factory()
    daemon.config += ISOLATED
    daemon.start()
    daemon.wait_for_driver("microvm")
    program = Program(daemon, contract)
    counting, paused = Counting(program), program.make()
    counting.begin(program)
    program.reaches(paused, "running")
    program("POST", ONE + "/pause", 202, paused)
    program.reaches(paused, "paused")
    with program.client.stream("GET", "/v1/events/stream") as told:
        lines = told.iter_lines()
        assert "event: connected" in lines
        with daemon.client() as client:
            (driver,) = (each for each in client.get("/api/v1/drivers").json()["drivers"] if each["name"] == "microvm")
        os.kill(int(driver["facts"]["process_id"]), signal.SIGKILL)
        states = (json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: "))
        changes = (each["metadata"] for each in states if each["event"] == "capsule.state.changed")
        assert [next(changes)["to"], next(changes)["to"]] == ["missing", "running"]
    counting.look(program)
    program.reaches(paused, "paused")
    program("POST", ONE + "/resume", 202, paused)
    program.reaches(paused, "running")
    counting.read(program)
    program.end(counting.capsule, paused)
    program.close()


class Walk:
    """Capsules that are written to, paused, resumed, made templates of and copied at random: each must have exactly the
    files that were written to it, whatever has happened to it and to those that it comes from."""

    def __init__(self, program: Program, seed: int) -> None:
        self._program = program
        self._dice = random.Random(seed)
        self._files: dict[str, str] = {}
        self._paused: set[str] = set()
        self._step = 0
        self._deeds: dict[str, Callable[[str], None]] = {
            "write": self._write,
            "pause": self._pause,
            "resume": self._resume,
            "fork": self._fork,
            "end": self._end,
        }
        self.drifts: list[float] = []

    def go(self, steps: int, *, most: int) -> None:
        """Take some steps, with at most so many capsules at a time, and compare all files at the end."""
        self._made("minimal")
        for self._step in range(1, steps + 1):
            capsule = self._dice.choice(sorted(self._files))
            possible = ["write", "pause", "fork"] if capsule not in self._paused else ["resume"]
            if len(self._files) >= most:
                possible = ["resume" if capsule in self._paused else "pause", "end"]
            self._deeds[self._dice.choice(possible)](capsule)
        for capsule in sorted(self._files):
            if capsule in self._paused:
                self._resume(capsule)
            self._compare(capsule)
        self._program.end(*({"id": capsule} for capsule in self._files))

    def _made(self, template: str) -> str:
        capsule = self._program.make(template=template)
        self._program.reaches(capsule, "running")
        self._files[capsule["id"]] = ""
        return capsule["id"]

    def _write(self, capsule: str) -> None:
        self._compare(capsule)
        line = f"head -c 200000 /dev/urandom > /root/f{self._step}; " + HASHES
        self._files[capsule] = self._program.shell({"id": capsule}, line)

    def _pause(self, capsule: str) -> None:
        self._program("POST", ONE + "/pause", 202, {"id": capsule})
        self._program.reaches({"id": capsule}, "paused")
        self._paused.add(capsule)

    def _resume(self, capsule: str) -> None:
        self._program("POST", ONE + "/resume", 202, {"id": capsule})
        self._program.reaches({"id": capsule}, "running")
        self._paused.discard(capsule)
        self.drifts.append(drift(self._program, {"id": capsule}))
        self._compare(capsule)

    def _fork(self, capsule: str) -> None:
        name = f"step-{self._step}"
        self._program("POST", "/v1/snapshots", 201, json={"sandbox_id": capsule, "name": name})
        fork = self._made(name)
        self._files[fork] = self._files[capsule]
        self._compare(fork)
        self._program("DELETE", "/v1/snapshots/{name}", 204, {"name": name})
        self._compare(capsule)

    def _end(self, capsule: str) -> None:
        self._program("DELETE", ONE, 202, {"id": capsule})
        self._program.wait_ended([{"id": capsule}])
        self._paused.discard(capsule)
        del self._files[capsule]

    def _compare(self, capsule: str) -> None:
        assert self._program.shell({"id": capsule}, HASHES) == self._files[capsule], f"step {self._step}: {capsule}"


def test_a_walk_loses_no_file(program: Program, seed: int) -> None:
    print(f"seed {seed}")
    walk = Walk(program, seed)
    walk.go(14, most=3)
    assert walk.drifts, "no capsule was ever resumed"


@pytest.mark.soak
def test_a_long_walk_loses_no_file(program: Program, seed: int) -> None:
    print(f"seed {seed}")
    walk = Walk(program, seed)
    walk.go(200, most=6)
    assert max(walk.drifts) < CLOCK_SECONDS
    print(f"clocks after a resumption: off by {statistics.median(walk.drifts):.3f} s, at most {max(walk.drifts):.3f} s")


def test_the_clock_is_right_after_a_pause(program: Program) -> None:
    capsule = program.make()
    program.reaches(capsule, "running")
    drifts = []
    for _ in range(3):  # a busy machine may hold up one resumption, but not each of them
        program("POST", ONE + "/pause", 202, capsule)
        program.reaches(capsule, "paused")
        time.sleep(2 * CLOCK_SECONDS)  # what passes now would be missing
        program("POST", ONE + "/resume", 202, capsule)
        program.reaches(capsule, "running")
        drifts.append(drift(program, capsule))
        if drifts[-1] < CLOCK_SECONDS:
            break
    assert min(drifts) < CLOCK_SECONDS
    program.end(capsule)


def test_a_hundred_programs_at_once(program: Program, pool: ThreadPoolExecutor) -> None:
    capsule = program.make()
    program.reaches(capsule, "running")
    program.shell(capsule, f"printf '%0{LONG}d\\n' 7 > /root/long")
    all_at_once = threading.Barrier(MANY)

    def one(number: int) -> str:
        all_at_once.wait(PATIENCE)
        return program.shell(capsule, f"echo {number}; read -r long < /root/long; echo $long")

    assert list(pool.map(one, range(MANY))) == [f"{number}\n{7:0{LONG}}\n" for number in range(MANY)]
    program.end(capsule)


class Pattern(io.RawIOBase):
    """A file of blocks, of which no two are alike, that is never whole in memory."""

    def __init__(self, size: int) -> None:
        self.left = size
        self.hash = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        count = min(self.left, BLOCK if size < 0 else size)
        piece = (self.left.to_bytes(8, "big") * (count // 8 + 1))[:count]
        self.left -= count
        self.hash.update(piece)
        return piece


def resident(daemon: Daemon) -> int:
    """The bytes of memory that a daemon has at most taken so far."""
    assert daemon.process is not None
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split(maxsplit=1)[0]) * 1024


@pytest.mark.soak
def test_two_gibibytes_go_both_ways_in_little_memory(program: Program) -> None:
    capsule = program.make()
    program.reaches(capsule, "running")
    before = resident(program.daemon)
    content = Pattern(HUGE)
    files = [("path", (None, b"/root/huge")), ("file", ("huge", content))]
    program("POST", ONE + "/files/stream/write", 204, capsule, files=files)
    back = hashlib.sha256()
    path = ONE.format_map(capsule) + "/files/stream/read"
    with program.client.stream("POST", path, json={"path": "/root/huge"}) as answer:
        for piece in answer.iter_bytes(BLOCK):
            back.update(piece)
    assert back.hexdigest() == content.hash.hexdigest()
    more = resident(program.daemon) - before
    print(f"the daemon took {more / 2**20:.0f} MiB for it")
    assert more < ROOM
    program.end(capsule)
