"""What a guest costs beyond its QEMU: the same machine by bare QEMU, by the driver alone, and by the daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from anvild.sdk import Command, DeviceFact, Exec, Lease, Session, run
from anvild.sdk.agent import AgentSession
from tests.daemon import Daemon

from .bare import COLUMNS, Bench, Times, bench, identify, rows, timed
from .load import median

pytestmark = pytest.mark.bench

ROUNDS = 9
BOOTS = 2
EXECS = 25
LIVES = 5
MIB = 2**20
TRUE = ("/bin/true",)
LEASE = Lease(lease_id="lease", fence=1, holder="benchmark")


async def test_making_a_guest(guest_daemon: Daemon, table: Any, tmp_path: Path) -> None:
    """From the order to a guest that takes verbs. A copy without an identity of its own shares its random state with
    all others, so what that costs by hand is told as well."""
    warm: Times = {
        "bare QEMU to the agent's first answer": [],
        "bare QEMU, and an identity of its own": [],
        "the driver alone: create": [],
        "the daemon: POST /devices/made": [],
    }
    cold: Times = {key: [] for key in warm}
    gone: Times = {
        "bare QEMU: SIGKILL, files removed": [],
        "the driver alone: destroy": [],
        "the daemon: DELETE /devices/{id}": [],
    }

    async def one(lab: Bench, times: Times, ends: Times, *, is_cold: bool) -> None:
        # A guest of another size than the template's cannot be copied from it: it boots.
        more = {"memory": lab.manifest.memory + MIB} if is_cold else {}
        by_bare, by_hand, by_driver, by_daemon = times.values()
        end_bare, end_driver, end_daemon = ends.values()
        running = lab.bare(cold=is_cold).running()
        agent = await timed(by_bare, running.__aenter__)
        await timed(by_hand, lambda: identify(agent))
        by_hand[-1] += by_bare[-1]
        await timed(end_bare, lambda: running.__aexit__(None, None, None))
        fact = await timed(by_driver, lambda: lab.driver.create(lab.request(**more)))
        await timed(end_driver, lambda: lab.driver.destroy(fact.identity))
        device = await timed(by_daemon, lambda: lab.made(**more))
        await timed(end_daemon, lambda: lab.delete(device))

    async with bench(guest_daemon, tmp_path) as lab:
        await one(lab, {key: [] for key in warm}, {key: [] for key in gone}, is_cold=False)
        for _ in range(ROUNDS):
            await one(lab, warm, gone, is_cold=False)
        for _ in range(BOOTS):
            await one(lab, cold, {key: [] for key in gone}, is_cold=True)
    table(f"A guest from a warm template, {ROUNDS} rounds in turn", COLUMNS, rows(warm))
    table(f"The end of a guest, {ROUNDS} rounds in turn", COLUMNS, rows(gone))
    table(f"A guest by a cold boot, {BOOTS} rounds in turn", COLUMNS, rows(cold))


async def test_exec(guest_daemon: Daemon, table: Any, tmp_path: Path) -> None:
    """/bin/true in guests that have run it before. Our ways open a session each time."""
    times: Times = {
        "the agent's connection alone": [],
        "the driver alone: session and exec": [],
        "the daemon: POST /devices/{id}/exec": [],
    }
    by_bare, by_driver, by_daemon = times.values()

    async def in_session(session: Session) -> None:
        done = await run(session.require(Exec), Command(argv=TRUE))
        assert done.exit.ok

    async with bench(guest_daemon, tmp_path) as lab, lab.bare().running() as agent:
        fact = await lab.driver.create(lab.request())
        device = await lab.made()

        async def by_session(fact: DeviceFact = fact) -> None:
            async with lab.driver.open(fact, LEASE) as session:
                await in_session(session)

        async def by_http() -> None:
            done = await lab.client.post(f"/api/v1/devices/{device}/exec", json={"argv": TRUE})
            assert '"code":0' in done.text

        for number in range(EXECS + 3):
            if number == 3:  # the first ones fill the emulator's cache
                for taken in times.values():
                    taken.clear()
            await timed(by_bare, lambda: in_session(AgentSession(fact, agent)))
            await timed(by_driver, by_session)
            await timed(by_daemon, by_http)
        await lab.driver.destroy(fact.identity)
        await lab.delete(device)
    table(f"/bin/true in a guest, {EXECS} rounds in turn", COLUMNS, rows(times))


async def test_other_verbs(guest_daemon: Daemon, table: Any, tmp_path: Path) -> None:
    """Suspending to disk, resuming and snapshots, by the driver."""
    times: Times = {"suspend to disk": [], "resume": [], "snapshot to a template": []}
    suspend, resume, snapshot = times.values()
    async with bench(guest_daemon, tmp_path) as lab:
        identity = (await lab.driver.create(lab.request())).identity
        for number in range(LIVES):
            await timed(suspend, lambda: lab.driver.suspend(identity))
            await timed(resume, lambda: lab.driver.resume(identity))
            await timed(snapshot, lambda number=number: lab.driver.snapshot(identity, f"copy-{number}"))  # type: ignore[misc]
        await lab.driver.destroy(identity)
    table(
        f"Other verbs of the driver, {LIVES} rounds",
        ("what", "median ms", "best ms"),
        [(what, f"{median(taken):,.1f}", f"{min(taken):,.1f}") for what, taken in times.items()],
    )
