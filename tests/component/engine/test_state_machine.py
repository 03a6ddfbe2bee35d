"""A state machine over runs, leases, devices, losses and restarts of the daemon.

Hypothesis chooses what people, devices and the machine's power supply do; the engine, the event log and the SQLite
store are the real ones, on trio's mock clock. The store has real threads, so an autojumping clock would race with them:
the clock is moved by hand, when nothing is in flight. Trio runs as the guest of the synchronous test, so that every
rule acts on the living engine and the invariants are checked between them.
"""

from __future__ import annotations

import contextlib
import queue
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import hypothesis.strategies as st
import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select

from anvild.core.artifacts import open_artifacts
from anvild.core.engine import RunRequest
from anvild.core.engine.tables import attempts, devices, leases, runs
from anvild.core.events.tables import events
from anvild.core.store import open_store
from anvild.sdk import AnvilError, DeviceRequest, NotFound, Requirements
from tests.support.lab import ALICE, OTHER_TEAM, TEAM, Lab, Running, Traffic, asks, run_engine

T = TypeVar("T")

IDENTITIES = ("d1", "d2", "d3")
GATES = ("a", "b")
MAKE = {"fake": DeviceRequest(template="minimal", name="a capsule", identity="any")}
TERMINAL = {"passed", "failed", "cancelled"}
TELLS_STATE = {f"run.{state}" for state in ("queued", "running", "paused", "passed", "failed", "cancelled")}

STEPS = st.lists(
    st.sampled_from(
        [
            {"sleep": 5},
            {"wait": "a"},
            {"wait": "b"},
            {"log": "x"},
            {"write": "/x"},
            {"finding": "low"},
            {"phase": "p"},
            {"exec": ["crash"]},
            {"fail": "bad"},
            {"fail": "flaky", "retry": True},
        ]
    ),
    max_size=4,
)
WISHES = st.sampled_from(
    [
        Requirements(),
        Requirements(),
        Requirements(platforms=("fake",), capabilities=("exec",)),
        Requirements(make=MAKE),
        Requirements(make=MAKE, capabilities=("provision",)),
    ]
)


REQUESTS = st.lists(
    st.builds(
        lambda steps, **values: asks(values.pop("kind"), *steps, **values),
        steps=STEPS,
        kind=st.sampled_from(["told", "told", "once"]),
        requirements=WISHES,
        team_id=st.sampled_from([TEAM, OTHER_TEAM]),
        max_attempts=st.integers(1, 2),
        priority=st.integers(0, 1),
        deadline=st.sampled_from([None, None, 20.0]),
    ),
    min_size=1,
    max_size=4,
)


class Guest:
    """A trio program that synchronous code calls into."""

    def __init__(self) -> None:
        self._due: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._nursery: trio.Nursery | None = None
        self._ended: list[Any] = []
        trio.lowlevel.start_guest_run(
            self._main,
            run_sync_soon_threadsafe=self._due.put,
            done_callback=self._ended.append,
            clock=trio.testing.MockClock(),
            host_uses_signal_set_wakeup_fd=True,
        )
        while self._nursery is None:
            self._due.get()()

    async def _main(self) -> None:
        async with trio.open_nursery() as self._nursery:
            await trio.sleep_forever()

    def call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run an async function in the guest and return its result."""
        results: list[T] = []
        errors: list[BaseException] = []

        async def caller() -> None:
            try:
                results.append(await function(*args))
            except Exception as error:
                errors.append(error)

        assert self._nursery is not None
        self._nursery.start_soon(caller)
        # A guest's loop that waits for I/O hears of a new task when something is said to it from outside.
        self._due.put(lambda: None)
        while not results and not errors:
            assert not self._ended, self._ended
            self._due.get()()
        if errors:
            raise errors[0]
        return results[0]

    def close(self) -> None:
        assert self._nursery is not None
        self._nursery.cancel_scope.cancel()
        while not self._ended:
            self._due.get()()
        self._ended[0].unwrap()


class EngineMachine(RuleBasedStateMachine):
    """What may happen to a lab, and what must hold all the time."""

    template: Path

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="anvil-machine-"))
        shutil.copyfile(self.template, self.directory / "anvild.sqlite")
        self.lab = Lab()
        self.lab.slots = 2
        self.runs: list[str] = []
        self.ended: dict[str, str] = {}
        self.guest = Guest()
        self.close_store = self.guest.call(self.open)
        self.running: Running = self.guest.call(self.start)

    # ----- the world

    async def open(self) -> trio.Event:
        opened, closing = trio.Event(), trio.Event()

        async def hold() -> None:
            async with open_store(f"sqlite:///{self.directory}/anvild.sqlite") as self.store:
                self.traffic = Traffic(self.store)
                self.artifacts = await open_artifacts(self.store, self.directory)
                opened.set()
                await closing.wait()
            self.closed.set()

        self.closed = trio.Event()
        trio.lowlevel.spawn_system_task(hold)
        await opened.wait()
        return closing

    async def start(self) -> Running:
        nursery = self.guest._nursery
        assert nursery is not None
        running: Running = await nursery.start(
            lambda task_status: run_engine(
                self.lab, self.store, self.artifacts, traffic=self.traffic, task_status=task_status
            )
        )
        return running

    def do(self, change: Callable[..., Awaitable[object]], *args: Any, **kw: Any) -> None:
        """Ask for a change that may be refused, and for nothing else."""

        async def asked() -> None:
            with contextlib.suppress(AnvilError):
                await change(*args, **kw)

        self.guest.call(asked)

    def settle(self, seconds: float = 0.0) -> None:
        self.guest.call(self.running.after, seconds)

    def chosen(self, number: int) -> str:
        return self.runs[number % len(self.runs)]

    # ----- rules

    @initialize(count=st.integers(0, 3))
    def begin(self, count: int) -> None:
        for identity in IDENTITIES[:count]:
            self.lab.plug(identity)

    @initialize(requests=REQUESTS)
    def begin_with_runs(self, requests: list[RunRequest]) -> None:
        self.submit(requests)

    @rule(requests=REQUESTS)
    def submit(self, requests: list[RunRequest]) -> None:
        for request in requests:
            self.runs.append(self.guest.call(self.running.engine.runs.submit, request).id)

    @rule(number=st.integers(0, 50), what=st.sampled_from(["cancel", "pause", "resume", "pause", "resume"]))
    def change(self, number: int, what: str) -> None:
        self.do(getattr(self.running.engine.runs, what), self.chosen(number))

    @rule(identity=st.sampled_from(IDENTITIES))
    def plug(self, identity: str) -> None:
        self.lab.plug(identity)

    @rule(identity=st.sampled_from(IDENTITIES))
    def unplug(self, identity: str) -> None:
        if identity in self.lab.devices:
            self.lab.unplug(identity)

    @rule()
    def kill_made(self) -> None:
        if self.lab.made:
            self.lab.kill_made(self.lab.made[0])

    @rule(identity=st.sampled_from(IDENTITIES), broken=st.booleans())
    def break_cleaning(self, identity: str, broken: bool) -> None:
        if identity in self.lab.devices:
            self.lab.devices[identity].clean_error = ZeroDivisionError("worn out") if broken else None

    @rule()
    def break_watch(self) -> None:
        self.lab.watch_error = ZeroDivisionError("a bug")
        self.lab.say(None)  # type: ignore[arg-type]

    @rule()
    def mend_watch(self) -> None:
        self.lab.watch_error = None

    @rule()
    def rearm(self) -> None:
        self.guest.call(self.rearm_all)

    @rule(name=st.sampled_from(GATES))
    def open_gate(self, name: str) -> None:
        self.lab.gate(name).set()
        del self.lab.gates[name]

    @rule(identity=st.sampled_from(IDENTITIES), duration=st.sampled_from([None, 10.0]))
    def borrow(self, identity: str, duration: float | None) -> None:
        async def borrow() -> None:
            for device in await self.running.engine.devices.list():
                if device.identity == identity:
                    await self.running.engine.leases.acquire(device.id, ALICE, duration=duration)

        self.do(borrow)

    @rule()
    def give_back(self) -> None:
        self.guest.call(self.give_all_back)

    @rule(seconds=st.sampled_from([0.0, 1.0, 6.0, 30.0]))
    def wait(self, seconds: float) -> None:
        self.settle(seconds)

    @rule(settled=st.booleans())
    def restart(self, settled: bool) -> None:
        if settled:
            self.settle()
        self.guest.call(self.running.kill)
        self.running = self.guest.call(self.start)

    async def rearm_all(self) -> None:
        for device in await self.running.engine.devices.list():
            if device.quarantine is not None:
                await self.running.engine.devices.rearm(device.id)
        if self.running.engine.drivers()[0].state == "quarantined":
            await self.running.engine.rearm_driver("fake")

    async def give_all_back(self) -> None:
        for lease in await self.running.engine.leases.list():
            if lease.run_id is None:
                # One that is being released already, or still being recovered, is nobody's here.
                with contextlib.suppress(NotFound):
                    await self.running.engine.leases.release(lease.id)

    # ----- what must hold

    @invariant()
    def holds(self) -> None:
        assert self.lab.violations == []
        self.guest.call(self.store.write, self.check)

    def check(self, conn: Any) -> None:
        run_rows = {row.id: row for row in conn.execute(select(runs))}
        attempt_rows = conn.execute(select(attempts)).all()
        lease_rows = {row.id: row for row in conn.execute(select(leases))}
        active = [row for row in lease_rows.values() if row.released_at is None]
        assert len({row.device_id for row in active}) == len(active)
        slots = [row.slot for row in active if row.slot is not None]
        assert len(set(slots)) == len(slots)
        assert all(slot < self.lab.slots for slot in slots)
        fences: dict[str, list[int]] = {}
        for row in lease_rows.values():
            fences.setdefault(row.device_id, []).append(row.fence)
        for device in conn.execute(select(devices)):
            known = sorted(fences.get(device.id, []))
            assert known == list(range(1, len(known) + 1))
            assert device.fence == len(known)
        open_attempts = {}
        for row in attempt_rows:
            lease = lease_rows[row.lease_id]
            assert (row.ended_at is None) == (lease.released_at is None)
            assert (lease.run_id, lease.attempt) == (row.run_id, row.attempt)
            if row.ended_at is None and row.verdict is None:
                open_attempts[row.run_id, row.attempt] = row
        for row in run_rows.values():
            if row.state == "running":
                assert (row.id, row.attempt) in open_attempts
            if row.state == "queued":
                assert (row.id, row.attempt) not in open_attempts
            if row.id in self.ended:
                assert row.state == self.ended[row.id]
            if row.state in TERMINAL:
                self.ended[row.id] = row.state
        told: dict[str, str] = {}
        for event in conn.execute(select(events).where(events.c.run_id.is_not(None)).order_by(events.c.id)):
            if event.kind in TELLS_STATE:
                assert told.get(event.run_id) not in TERMINAL
                told[event.run_id] = event.kind.removeprefix("run.")
            elif event.kind == "run.resumed":
                told[event.run_id] = event.data["state"]
        assert told == {row.id: row.state for row in run_rows.values()}

    def teardown(self) -> None:
        """With healthy devices, every run has a way out, and nothing is left behind."""
        try:
            self.drain()
        finally:
            self.guest.call(self.running.kill)
            self.close_store.set()
            self.guest.call(self.closed.wait)
            self.guest.close()
            shutil.rmtree(self.directory)

    def drain(self) -> None:
        self.lab.watch_error = None
        for identity in IDENTITIES:
            self.lab.plug(identity)
            self.lab.devices[identity].clean_error = None
        for _ in range(6):
            self.settle(30)
            self.guest.call(self.rearm_all)
            self.guest.call(self.give_all_back)
            for name in list(self.lab.gates):
                self.lab.gates[name].set()
            for run_id in self.runs:
                self.do(self.running.engine.runs.resume, run_id)
        self.settle(30)
        self.holds()
        states = self.guest.call(self.states)
        assert set(states) <= TERMINAL, states
        assert self.guest.call(self.running.engine.leases.list) == []
        assert self.lab.made == []
        assert all(device.sessions == 0 for device in self.lab.devices.values())

    async def states(self) -> list[str]:
        return [str((await self.running.engine.runs.get(run_id)).state) for run_id in self.runs]


def test_no_history_breaks_the_engine(migrated_sqlite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EngineMachine, "template", migrated_sqlite, raising=False)
    run_state_machine_as_test(
        EngineMachine,
        settings=settings(
            max_examples=25,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            # The store's threads make no two executions quite the same, so a failure is told as it was found.
            phases=[Phase.generate],
            report_multiple_bugs=False,
        ),
    )
