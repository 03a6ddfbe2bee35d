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
