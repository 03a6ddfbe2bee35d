"""What happens at the edges: too much data, a full disk, a defect of the engine itself, a flood of reports."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from anvild.core.engine.execution import Execution
from anvild.core.errors import Conflict, StorageFull
from anvild.sdk import (
    DeviceFact,
    DeviceRequest,
    DeviceStatus,
    InvalidArgument,
    Outcome,
    Requirements,
    RunContext,
    Severity,
    Sighting,
    StaleLease,
    Unavailable,
    Verdict,
    Workload,
)
from tests.support.lab import ALICE, Lab, Running, StartEngine, asks

REQUEST = DeviceRequest(template="minimal", name="a capsule", identity="any")


def lost(identity: str, status: DeviceStatus = DeviceStatus.OFFLINE) -> Sighting:
    kind = "lost" if status is DeviceStatus.OFFLINE else "seen"
    return Sighting(kind=kind, device=DeviceFact(identity=identity, platform="fake", name="it", status=status))


class Probe(Workload):
    """Calls a function of the test with its context."""

    kind = "probe"

    def __init__(self, act: Any) -> None:
        self.act = act

    async def run(self, context: RunContext) -> Outcome:
        await self.act(context)
        return Outcome(verdict=Verdict.PASSED, reason="done")


async def probe(running: Running, act: Any) -> Any:
    running.engine.workloads["probe"] = Probe(act)
    return await running.until(await running.engine.runs.submit(asks("probe")))


async def test_what_a_context_refuses(lab: Lab, start_engine: StartEngine) -> None:
    lab.plug("d1")
    running = await start_engine()
    kept: list[RunContext] = []

    async def act(context: RunContext) -> None:
        kept.append(context)
        for kind in ("passed", "log", "no spaces", ""):
            with pytest.raises(InvalidArgument):
                await context.emit(kind, {})
        with pytest.raises(InvalidArgument, match="use an artifact"):
            await context.emit("big", {"data": "x" * 70_000})
        with pytest.raises(InvalidArgument):
            await context.checkpoint(object())
        with pytest.raises(InvalidArgument):
            await context.phase("x" * 61)
        await context.checkpoint({"at": 1}, kind="step", data={"n": 1})

    ended = await probe(running, act)
    assert ended.state == "passed"
    assert "run.step" in await running.kinds(ended)
    (context,) = kept
    writes = (
        lambda: context.log("late"),
        lambda: context.emit("late", {}),
        lambda: context.phase("late"),
        lambda: context.finding(Severity.LOW, title="late"),
        lambda: context.checkpoint(1),
        lambda: context.artifact("late", _nothing(), media_type="text/plain"),
    )
    await running.after()
    for write in writes:
        with pytest.raises(StaleLease):
            await write()


async def test_a_workload_that_answers_nonsense(lab: Lab, start_engine: StartEngine) -> None:
    lab.plug("d1")
    running = await start_engine()

    class Silent(Workload):
        kind = "silent"

        async def run(self, context: RunContext) -> Outcome:
            return None  # type: ignore[return-value]

    running.engine.workloads["silent"] = Silent()
    ended = await running.until(await running.engine.runs.submit(asks("silent")))
    assert (ended.state, ended.reason_code) == ("failed", "workload_error")


async def test_a_full_disk_delays_and_loses_nothing(lab: Lab, start_engine: StartEngine, mock_clock: MockClock) -> None:
    lab.plug("d1")
    running = await start_engine()
    run = await running.engine.runs.submit(asks("told", {"wait": "go"}, {"log": "on"}))
    await running.until(run, "running")
    await running.after()
    write = running.store.write

    room = trio.Event()

    async def full(job: Any) -> Any:
        if not room.is_set():
            raise StorageFull("the disk is full")
        return await write(job)

    running.store.write = full  # type: ignore[method-assign]
    lab.gate("go").set()
    await running.after(30)
    with pytest.raises(StorageFull):
        await running.engine.runs.submit(asks())
    assert (await running.engine.runs.get(run.id)).state == "running"
    room.set()
    await running.after(10)
    assert (await running.engine.runs.get(run.id)).state == "passed"
    assert await running.engine.leases.list() == []


async def test_a_defect_of_the_engine_ends_one_run_only(
    lab: Lab, start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.plug("d1")
    lab.plug("d2")
    running = await start_engine()
    finish = Execution._finish

    async def broken(self: Execution, tenure: Any) -> None:
        if self.attempt == 1 and not broken_once:
            broken_once.append(True)
            raise ZeroDivisionError("a defect")
        await finish(self, tenure)

    broken_once: list[bool] = []
    monkeypatch.setattr(Execution, "_finish", broken)
    run = await running.until(await running.engine.runs.submit(asks("noop")))
    assert (run.state, run.reason_code) == ("failed", "engine_fault")
    assert (await running.until(await running.engine.runs.submit(asks("noop")))).state == "passed"
    await running.after()
    quarantined = [device for device in await running.engine.devices.list() if device.quarantine]
    assert len(quarantined) == 1


async def test_a_flood_of_devices_is_capped(
    lab: Lab, start_engine: StartEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anvild.core.engine.sightings.MAX_DEVICES", 50)
    running = await start_engine()
    await running.after()
    for number in range(80):
        lab.plug(f"d{number}")
    with trio.move_on_after(10):
        await running.after()
    assert len(await running.engine.devices.list()) == 50
    assert running.engine.drivers()[0].faults >= 1


async def test_a_device_lost_under_a_verb(lab: Lab, start_engine: StartEngine, mock_clock: MockClock) -> None:
    lab.plug("d1")
    running = await start_engine()
    run = await running.engine.runs.submit(asks("told", {"exec": ["sleep", "1000"]}))
    await running.until(run, "running")
    await running.after(1)
    lab.unplug("d1")
    await running.after()
    ended = await running.engine.runs.get(run.id)
    assert (ended.state, ended.reason_code) == ("failed", "device_lost")
    assert lab.devices["d1"].sessions == 0


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""


async def test_a_claim_that_fails_is_tried_again(
    lab: Lab, start_engine: StartEngine, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.plug("d1")
    running = await start_engine()
    scheduler = running.engine.scheduler
    first = await running.engine.runs.submit(asks("told", {"wait": "go"}))
    await running.until(first, "running")
    second = await running.engine.runs.submit(asks("noop"))
    await running.after(2)
    assert scheduler.trouble is None

    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("anvild.core.engine.scheduler.claim", broken)
    monkeypatch.setattr("anvild.core.engine.scheduler.tell_heads", broken)
    lab.gate("go").set()
    await running.after(1)
    assert (await running.engine.runs.get(first.id)).state == "passed"
    assert await running.engine.leases.list() == []
    await running.after(120)
    assert 5 <= running.engine.statistics().claims_failed <= 9
    assert scheduler.trouble == "no run can be given a device, by a ZeroDivisionError: see the log"
    assert (await running.engine.runs.get(second.id)).state == "queued"
    monkeypatch.undo()
    await running.after(60)
    assert (await running.engine.runs.get(second.id)).state == "passed"
    assert scheduler.trouble is None


@pytest.mark.parametrize("status", [DeviceStatus.OFFLINE, DeviceStatus.RETIRED])
async def test_a_lost_device_that_was_made_to_order_is_destroyed(
    lab: Lab, start_engine: StartEngine, mock_clock: MockClock, status: DeviceStatus
) -> None:
    """What its driver keeps of it goes, however often the driver must be asked."""
    lab.slots = 1
    running = await start_engine()
    run = await running.engine.runs.submit(
        asks("told", {"wait": "go"}, requirements=Requirements(make={"fake": REQUEST}))
    )
    await running.until(run, "running")
    await running.after()
    (identity,) = lab.made
    lab.destroy_error = Unavailable("the disk is busy")
    lab.say(lost(identity, status))
    await running.after(35)
    assert (await running.until(run)).reason_code == "device_lost"
    assert lab.destroyed == []
    lab.destroy_error = None
    await running.after(35)
    assert lab.destroyed == [identity]
    (device,) = await running.engine.devices.list(made_to_order=True, retired=True)
    assert (device.status, device.unclean) == ("retired", False)


async def test_a_device_lost_while_it_is_being_made_is_destroyed(
    lab: Lab, start_engine: StartEngine, mock_clock: MockClock
) -> None:
    lab.slots = 2
    lab.gate("create")
    running = await start_engine()
    await running.after()
    run = await running.engine.runs.submit(asks("noop", requirements=Requirements(make={"fake": REQUEST})))
    await running.until(run, "running")
    refused: list[str] = []

    async def by_hand() -> None:
        with pytest.raises(Conflict) as caught:
            await running.engine.leases.make("fake", REQUEST, ALICE, duration=None)
        refused.append(caught.value.message)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(by_hand)
        await running.after()
        devices = await running.engine.devices.list(made_to_order=True)
        for device in devices:
            lab.say(lost(device.identity))
        await running.after()
    assert refused == ["the lease ended before the device was made: device_lost"]
    assert sorted(lab.destroyed) == sorted(device.identity for device in devices)
    lab.gate("create").set()
    await running.after(5)
    assert (await running.until(run)).state == "passed"
    assert lab.made == []
