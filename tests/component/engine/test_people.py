"""Devices held by people."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from trio.testing import MockClock

from anvild.core.engine import Actor
from anvild.core.errors import Conflict
from anvild.sdk import (
    CapabilityMissing,
    Command,
    DeviceLost,
    DeviceRequest,
    DriverFault,
    Exec,
    Files,
    NotFound,
    Power,
    Requirements,
    ResourceExhausted,
    StaleLease,
    run,
)
from tests.support.lab import ALICE, OTHER_TEAM, Lab, StartEngine, asks

BOB = Actor("user:bob", OTHER_TEAM)


async def test_a_session_by_hand(lab: Lab, start_engine: StartEngine) -> None:
    lab.plug("d1")
    running = await start_engine()
    await running.after()
    (device,) = await running.engine.devices.list()
    async with running.engine.session(device.id, ALICE) as session:
        done = await run(session.require(Exec), Command(argv=("echo", "a", "b")))
        assert (done.exit.code, done.stdout) == (0, b"ab")
        with pytest.raises(CapabilityMissing, match="does not offer 'power'"):
            session.require(Power)
        with pytest.raises(DriverFault, match=r"the driver 'fake' failed in exec\.start with ZeroDivisionError"):
            await session.require(Exec).start(Command(argv=("crash",)))
        with pytest.raises(NotFound):
            await session.require(Files).read("/nothing")
        with pytest.raises(Conflict):
            async with running.engine.session(device.id, BOB):
                pass
        waiting = await running.engine.runs.submit(asks())
        await running.after()
        assert (await running.engine.runs.get(waiting.id)).state == "queued"
    assert (await running.until(waiting)).state == "passed"
    await running.after()
    assert await running.engine.leases.list() == []
    for _ in range(20):
        async with running.engine.session(device.id, ALICE):
            pass


async def test_the_caller_keeps_its_own_errors(lab: Lab, start_engine: StartEngine) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"some"
        raise LookupError("the caller's own")

    lab.plug("d1")
    running = await start_engine()
    await running.after()
    (device,) = await running.engine.devices.list()
    with pytest.raises(LookupError, match="the caller's own"):
        async with running.engine.session(device.id, ALICE) as session:
            await session.require(Files).write("/x", broken())
    assert running.engine.drivers()[0].faults == 0


async def test_a_lease_expires_and_what_it_opened_refuses(
    lab: Lab, start_engine: StartEngine, mock_clock: MockClock
) -> None:
    lab.plug("d1")
    running = await start_engine()
    await running.after()
    (device,) = await running.engine.devices.list()
    lease = await running.engine.leases.acquire(device.id, ALICE, duration=10.0)
    async with running.engine.session(device.id, ALICE) as session:
        process = await session.require(Exec).start(Command(argv=("sleep", "1000")))
        await running.after(11)
        for verb in (session.require(Exec).processes, process.wait, process.close_stdin):
            with pytest.raises(StaleLease):
                await verb()
        await process.aclose()
    assert await running.engine.leases.list() == []
    with pytest.raises(NotFound):
        await running.engine.leases.release(lease.id)
    assert lab.devices["d1"].cleaned == 1


async def test_a_lease_is_released(lab: Lab, start_engine: StartEngine) -> None:
    lab.plug("d1")
    running = await start_engine()
    await running.after()
    (device,) = await running.engine.devices.list()
    lease = await running.engine.leases.acquire(device.id, ALICE, duration=None)
    with pytest.raises(Conflict):
        await running.engine.leases.acquire(device.id, BOB, duration=None)
    await running.engine.leases.release(lease.id)
    assert (await running.engine.leases.acquire(device.id, BOB, duration=None)).fence == 2


async def test_a_lost_device_ends_the_lease(lab: Lab, start_engine: StartEngine) -> None:
    lab.plug("d1")
    running = await start_engine()
    await running.after()
    (device,) = await running.engine.devices.list()
    await running.engine.leases.acquire(device.id, ALICE, duration=None)
    lab.unplug("d1")
    await running.after()
    assert await running.engine.leases.list() == []
    with pytest.raises(Conflict, match="offline"):
        await running.engine.leases.acquire(device.id, ALICE, duration=None)


async def test_a_device_made_by_hand(lab: Lab, start_engine: StartEngine) -> None:
    lab.slots = 1
    running = await start_engine()
    await running.after()
    request = DeviceRequest(template="minimal", name="mine", identity="mine-1")
    device = await running.engine.leases.make("fake", request, ALICE, duration=None)
    assert (device.name, device.status, device.made_to_order) == ("Fake " + device.identity, "ready", True)
    assert lab.made == [device.identity]
    other = DeviceRequest(template="minimal", name="mine", identity="mine-2")
    with pytest.raises(ResourceExhausted):
        await running.engine.leases.make("fake", other, ALICE, duration=None)
    async with running.engine.session(device.id, ALICE) as session:
        assert (await run(session.require(Exec), Command(argv=("echo", "x")))).stdout == b"x"
    (lease,) = await running.engine.leases.list()
    await running.engine.leases.release(lease.id)
    assert lab.made == []
    wrong = DeviceRequest(template="no-such", name="mine", identity="mine-3")
    with pytest.raises(NotFound):
        await running.engine.leases.make("fake", wrong, ALICE, duration=None)
    with pytest.raises(NotFound):
        await running.engine.leases.make("no-such", request, ALICE, duration=None)
    await running.after()
    assert await running.engine.leases.list() == []


async def test_a_run_that_waits_for_a_person_says_so(
    lab: Lab, start_engine: StartEngine, mock_clock: MockClock
) -> None:
    lab.plug("d1")
    lab.slots = 1
    running = await start_engine()
    await running.after()
    engine = running.engine
    (device,) = await engine.devices.list()
    lease = await engine.leases.acquire(device.id, ALICE, duration=None)
    mine = await engine.runs.submit(asks("noop", device_id=device.id))
    theirs = await engine.runs.submit(asks("noop", team_id=OTHER_TEAM))
    await running.after(2)
    told = "the device 'Fake d1' is held by user:alice"
    assert (await engine.runs.get(mine.id)).waiting == await engine.runs.why_waiting(mine.id) == told
    other = "the device 'Fake d1' is held by somebody of another team"
    assert (await engine.runs.get(theirs.id)).waiting == await engine.runs.why_waiting(theirs.id) == other
    await engine.leases.release(lease.id)
    await running.after(2)
    assert [(await engine.runs.get(run.id)).state for run in (mine, theirs)] == ["passed", "passed"]

    request = DeviceRequest(template="minimal", name="mine", identity="mine-1")
    made = await engine.leases.make("fake", request, ALICE, duration=None)
    run = await engine.runs.submit(asks("noop", device_id=made.id))
    await running.after(2)
    assert await engine.runs.why_waiting(run.id) == f"the device {made.name!r} is held by user:alice"
    (lease,) = await engine.leases.list()
    await engine.leases.release(lease.id)
    ended = await engine.runs.get(run.id)
    assert (ended.state, ended.reason) == ("failed", f"the requested device {made.name!r} is gone for good")


async def test_a_run_waits_not_for_the_device_that_was_made_for_another(lab: Lab, start_engine: StartEngine) -> None:
    lab.slots = 1
    running = await start_engine()
    wish = Requirements(make={"fake": DeviceRequest(template="minimal", name="a capsule", identity="any")})
    first = await running.engine.runs.submit(asks("told", {"wait": "go"}, requirements=wish))
    await running.until(first, "running")
    await running.after()
    (made,) = await running.engine.devices.list(made_to_order=True)
    run = await running.engine.runs.submit(asks("noop", device_id=made.id))
    assert await running.engine.runs.why_waiting(run.id) == (
        f"the requested device {made.name!r} was made to order and goes with its lease"
    )
    lab.gate("go").set()
    assert (await running.until(run)).reason_code == "device_retired"


async def test_a_device_lost_in_a_session(lab: Lab, start_engine: StartEngine) -> None:
    lab.plug("d1")
    running = await start_engine()
    await running.after()
    (device,) = await running.engine.devices.list()
    async with running.engine.session(device.id, ALICE) as session:
        lab.devices["d1"].plugged = False
        with pytest.raises(DeviceLost):
            await session.require(Exec).start(Command(argv=("echo",)))
    await running.after()
    assert await running.engine.leases.list() == []
