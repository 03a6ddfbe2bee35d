"""Capsules put aside and brought back, on a driver in memory, with time that the test decides."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from anvild.capsules.book import Book
from anvild.capsules.errors import InvalidState
from anvild.capsules.life import Capsules
from anvild.capsules.metrics import Metrics
from anvild.capsules.network import Networks
from anvild.capsules.templates import Templates
from anvild.capsules.values import Order
from anvild.core.events import EventFilter
from anvild.core.settings import CapsuleSettings
from anvild.sdk import Command, Exec, Unavailable, run
from tests.support.aside import SuspendingLab
from tests.support.lab import ALICE, TEAM, Running, StartEngine

Start = Callable[[Running], Awaitable[Capsules]]
ORDER = Order(template="minimal")


@pytest.fixture
def lab() -> SuspendingLab:
    return SuspendingLab()


@pytest.fixture
async def start(nursery: trio.Nursery) -> AsyncIterator[Start]:
    """Look after the capsules of an engine, until another one is looked after or the test ends."""
    scope = trio.CancelScope()

    async def look_after(running: Running) -> Capsules:
        nonlocal scope
        scope.cancel()
        mine = scope = trio.CancelScope()
        templates = Templates(running.engine, running.store)
        metrics = Metrics(running.store)
        networks = Networks(running.engine, CapsuleSettings())
        capsules = Capsules(running.engine, running.events, Book(running.store), templates, metrics, networks)

        async def until_the_end() -> None:
            with mine:
                await capsules.run()

        nursery.start_soon(until_the_end)
        await running.after()
        return capsules

    yield look_after
    scope.cancel()


async def test_a_capsule_is_paused_and_resumed(lab: SuspendingLab, start_engine: StartEngine, start: Start) -> None:
    running = await start_engine()
    capsules = await start(running)
    made = await capsules.create(TEAM, ORDER, ALICE)
    assert (made.status, made.vcpus, made.memory_mb, made.disk_size_mb) == ("starting", 1, 512, 2048)
    await running.after()
    async with capsules.use(TEAM, made.id) as session:
        assert (await run(session.require(Exec), Command(argv=("echo", "a")))).stdout == b"a"
    assert (await capsules.pause(TEAM, made.id, ALICE)).status == "pausing"
    with pytest.raises(InvalidState, match="the capsule is p"):
        await capsules.pause(TEAM, made.id, ALICE)
    await running.after()
    assert (await capsules.get(TEAM, made.id)).status == "paused"
    assert lab.aside == {made.id}
    with pytest.raises(InvalidState, match="the capsule is paused; this needs one that is running"):
        await capsules.ping(TEAM, made.id)
    assert (await capsules.resume(TEAM, made.id, ALICE)).status == "resuming"
    await running.after()
    resumed = await capsules.get(TEAM, made.id)
    assert resumed.status == "running"
    async with capsules.use(TEAM, made.id) as session:
        assert (await run(session.require(Exec), Command(argv=("echo", "b")))).stdout == b"b"
    await capsules.pause(TEAM, made.id, ALICE)
    await running.after()
    await capsules.destroy(TEAM, made.id, ALICE)
    await running.after()
    assert (await capsules.get(TEAM, made.id)).status == "stopped"
    assert lab.made == []
    told = await running.events.read(where=EventFilter(kinds=("capsule.create", "capsule.pause", "capsule.resume")))
    assert [(event.kind, event.actor, event.data["outcome"]) for event in told] == [
        ("capsule.create", "user:alice", "success"),
        ("capsule.pause", "user:alice", "success"),
        ("capsule.resume", "user:alice", "success"),
        ("capsule.pause", "user:alice", "success"),
    ]


async def test_an_idle_capsule_is_paused(
    lab: SuspendingLab, start_engine: StartEngine, start: Start, mock_clock: MockClock
) -> None:
    running = await start_engine()
    capsules = await start(running)
    made = await capsules.create(TEAM, Order(template="minimal", timeout_sec=5), ALICE)
    assert made.timeout_sec == 60
    await running.after(50)
    await capsules.ping(TEAM, made.id)
    await running.after(50)
    async with capsules.use(TEAM, made.id):
        await running.after(100)  # in use all the while
    async with capsules.use(TEAM, made.id, busy=False):
        await running.after(50)
        assert (await capsules.get(TEAM, made.id)).status == "running"
    await running.after(15)
    assert (await capsules.get(TEAM, made.id)).status == "paused"
    (told,) = await running.events.read(where=EventFilter(kinds=("capsule.pause",)))
    assert (told.actor, told.data["reason"]) == ("system", "ttl_expired")


async def test_what_fails_leaves_the_capsule_as_it_was(
    lab: SuspendingLab, start_engine: StartEngine, start: Start
) -> None:
    running = await start_engine()
    capsules = await start(running)
    made = await capsules.create(TEAM, ORDER, ALICE)
    await running.after()
    lab.refusal = Unavailable("the disk is full")
    await capsules.pause(TEAM, made.id, ALICE)
    await running.after()
    shown = await capsules.get(TEAM, made.id)
    assert (shown.status, shown.reason) == ("running", "the disk is full")
    lab.refusal = None
    await capsules.pause(TEAM, made.id, ALICE)
    await running.after()
    lab.refusal = Unavailable("another machine")
    await capsules.resume(TEAM, made.id, ALICE)
    await running.after()
    shown = await capsules.get(TEAM, made.id)
    assert (shown.status, shown.reason) == ("paused", "another machine")


async def test_a_capsule_that_cannot_be_made(lab: SuspendingLab, start_engine: StartEngine, start: Start) -> None:
    running = await start_engine()
    capsules = await start(running)
    lab.create_error = Unavailable("no memory is left")
    made = await capsules.create(TEAM, ORDER, ALICE)
    await running.after()
    shown = await capsules.get(TEAM, made.id)
    assert (shown.status, shown.reason) == ("error", "no memory is left")
    assert await capsules.list(TEAM) == []
    assert await running.engine.leases.list() == []


async def test_capsules_outlive_the_daemon(lab: SuspendingLab, start_engine: StartEngine, start: Start) -> None:
    lab.slots = 4
    running = await start_engine()
    capsules = await start(running)
    made = [(await capsules.create(TEAM, ORDER, ALICE)).id for _ in range(4)]
    await running.after()
    await capsules.pause(TEAM, made[0], ALICE)
    await running.after()
    await running.kill()
    lab.devices.pop(made[1])
    running = await start_engine()
    capsules = await start(running)
    await running.after()
    states = [(await capsules.get(TEAM, each)).status for each in made]
    assert states == ["paused", "error", "running", "running"]
    await capsules.resume(TEAM, made[0], ALICE)
    await running.after()
    for each in (made[0], made[2]):
        async with capsules.use(TEAM, each) as session:
            assert (await run(session.require(Exec), Command(argv=("echo", "a")))).stdout == b"a"
