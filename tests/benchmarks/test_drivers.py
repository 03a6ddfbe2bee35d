"""What a verb costs, by where its driver stands."""

from __future__ import annotations

import sys
import time
from subprocess import PIPE
from typing import Any

import pytest
import trio

from anvild.core.engine.guard import Fences, Guard, guarded
from anvild.sdk import DriverFault, Lease, Measure, Session
from anvild.sdk.testing.places import ChildProcess, InProcess, OverWebSocket, Place, temporary_setup

from .load import median
from .still_driver import FACT, StillDriver

pytestmark = pytest.mark.bench

ROUNDS = 2000
REPEATS = 5
LEASE = Lease(lease_id="bench", fence=1, holder="bench")
ECHO = "import os\nwhile data := os.read(0, 65536):\n    os.write(1, data)"


async def test_a_verb_in_each_place(table: Any) -> None:
    """Against the physical floor of a child process: one line there and back over two pipes, without any protocol."""
    rows: list[tuple[str, list[float]]] = []
    places: list[tuple[str, Place]] = [
        ("in the daemon's process", InProcess(StillDriver)),
        ("child process, stdio", ChildProcess.of("tests.benchmarks.still_driver:StillDriver")),
        ("WebSocket on loopback, served in this process", OverWebSocket(StillDriver)),
    ]
    for name, place in places:
        async with (
            temporary_setup({}) as setup,
            place.driver(setup) as driver,
            driver.open(FACT, LEASE) as session,
        ):
            if not rows:
                rows.append(("a plain call of the method", await _repeated(session)))
            rows.append((f"{name}, behind the guard", await _repeated(_guard(session))))
    floor = median(await _pipe())
    table(
        f"One verb that does nothing, µs, median of {REPEATS} x {ROUNDS}",
        ("where the driver stands", "µs", "ratio to the pipe"),
        [
            *((name, f"{median(times):.1f}", f"{median(times) / floor:.2f}") for name, times in rows),
            ("floor: 60 bytes to a child and back over pipes", f"{floor:.1f}", "1.00"),
        ],
    )


def _guard(session: Session) -> Session:
    fences = Fences()
    fences.set("still", 1)

    def fault(what: str, error: BaseException) -> DriverFault:
        raise error

    return guarded(session, Guard(device="Still", device_id="still", fence=1, fences=fences, fault=fault), ["measure"])


async def _repeated(session: Session) -> list[float]:
    sample = session.require(Measure).sample
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        for _ in range(ROUNDS):
            await sample()
        times.append((time.perf_counter() - began) / ROUNDS * 1e6)
    return times


async def _pipe() -> list[float]:
    times = []
    process = await trio.lowlevel.open_process([sys.executable, "-c", ECHO], stdin=PIPE, stdout=PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    async with process.stdin, process.stdout:
        for _ in range(REPEATS):
            began = time.perf_counter()
            for _ in range(ROUNDS):
                await process.stdin.send_all(b"x" * 60)
                await process.stdout.receive_some()
            times.append((time.perf_counter() - began) / ROUNDS * 1e6)
    await process.wait()
    return times
