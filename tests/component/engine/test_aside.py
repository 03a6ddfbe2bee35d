"""Devices put aside on disk while somebody holds them."""

from __future__ import annotations

import math

import pytest
from sqlalchemy import update

from anvild.core.engine import LeaseInfo
from anvild.core.engine.people import Leases
from anvild.core.engine.tables import leases as leases_table
from anvild.core.errors import Conflict
from anvild.sdk import (
    AlreadyExists,
    CapabilityMissing,
    Command,
    DeviceRequest,
    DeviceStatus,
    Exec,
    ResourceExhausted,
    Sighting,
    Snapshot,
    Unavailable,
    WrongState,
    run,
)
from tests.support.aside import SuspendingLab
from tests.support.lab import ALICE, StartEngine

REQUEST = DeviceRequest(template="minimal", name="a capsule", identity="any")


@pytest.fixture
def lab() -> SuspendingLab:
    return SuspendingLab()


async def make(leases: Leases) -> LeaseInfo:
    """Have a device made and kept, and return its lease."""
    device = await leases.make("fake", REQUEST, ALICE, duration=math.inf)
    lease = await leases.on(device.id)
    assert lease is not None
    return lease


async def test_a_device_put_aside_frees_its_slot_and_comes_back(lab: SuspendingLab, start_engine: StartEngine) -> None:
    running = await start_engine()
    leases = running.engine.leases
    lease = await make(leases)
    assert lease.slot == 0
    async with leases.session(lease.device_id, ALICE):
        await leases.suspend(lease.id)
        await leases.suspend(lease.id)
        with pytest.raises(WrongState, match="put aside"):
            async with leases.session(lease.device_id, ALICE):
                pytest.fail("a session was opened")
    assert running.engine.drivers()[0].slots_used == 0
    second = await make(leases)
    with pytest.raises(ResourceExhausted, match="all 1 slots"):
        await leases.resume(lease.id)
    await leases.suspend(second.id)
    await running.after()
    await leases.resume(lease.id)
    await leases.resume(lease.id)
    async with leases.session(lease.device_id, ALICE) as session:
        done = await run(session.require(Exec), Command(argv=("echo", "again")))
        assert done.stdout == b"again"
    assert running.engine.drivers()[0].slots_used == 1
    for held in await leases.list():
        await leases.release(held.id)
    assert running.engine.drivers()[0].slots_used == 0
    assert lab.made == []


async def test_a_refusal_leaves_the_device_as_it_was(lab: SuspendingLab, start_engine: StartEngine) -> None:
    running = await start_engine()
    leases = running.engine.leases
    lease = await make(leases)
    lab.refusal = Unavailable("the disk is full")
    with pytest.raises(Unavailable, match="the disk is full"):
        await leases.suspend(lease.id)
    async with leases.session(lease.device_id, ALICE):
        pass
    lab.refusal = None
    await leases.suspend(lease.id)
    lab.refusal = WrongState("another machine")
    with pytest.raises(WrongState, match="another machine"):
        await leases.resume(lease.id)
    with pytest.raises(WrongState, match="put aside"):
        async with leases.session(lease.device_id, ALICE):
            pytest.fail("a session was opened")
    assert running.engine.drivers()[0].slots_used == 0
    await leases.release(lease.id)


async def test_a_device_stays_aside_over_a_restart(lab: SuspendingLab, start_engine: StartEngine) -> None:
    running = await start_engine()
    lease = await make(running.engine.leases)
    await running.engine.leases.suspend(lease.id)
    await running.kill()
    running = await start_engine()
    leases = running.engine.leases
    found = await leases.on(lease.device_id)
    assert found is not None
    assert found.id == lease.id
    (identity,) = lab.aside
    lab.say(Sighting(kind="seen", device=lab.devices[identity].fact(DeviceStatus.OFFLINE)))
    await running.after()
    assert running.engine.drivers()[0].slots_used == 0
    await leases.resume(lease.id)
    async with leases.session(lease.device_id, ALICE):
        pass
    await leases.release(lease.id)


async def test_a_device_aside_has_no_slot_whatever_a_kill_cut_short(
    lab: SuspendingLab, start_engine: StartEngine
) -> None:
    """The driver has put it aside, and the daemon was killed before it wrote that its slot is free."""
    running = await start_engine()
    lease = await make(running.engine.leases)
    await running.engine.leases.suspend(lease.id)
    await running.store.write(lambda conn: conn.execute(update(leases_table).values(slot=0)))
    await running.kill()
    running = await start_engine()
    assert (await running.engine.leases.on(lease.device_id)) is not None
    assert running.engine.drivers()[0].slots_used == 0
    second = await make(running.engine.leases)
    assert second.slot == 0


async def test_what_goes_with_a_lease_is_written_with_it(lab: SuspendingLab, start_engine: StartEngine) -> None:
    running = await start_engine()
    leases = running.engine.leases
    gate = lab.gate("create")
    noted: list[str] = []
    holding = await leases.begin(
        "fake", REQUEST, ALICE, duration=math.inf, identity="mine", also=lambda _, lease: noted.append(lease.device_id)
    )
    assert set(noted) == {holding.lease.device_id}
    assert lab.made == []
    gate.set()
    await holding.usable()
    assert lab.made == ["mine"]
    await leases.release(holding.lease.id)
    with pytest.raises(Conflict, match="has ended"):
        async with holding.session():
            pytest.fail("a session was opened")

    def refuse(*_: object) -> None:
        raise AlreadyExists("the caller's own")

    with pytest.raises(AlreadyExists, match="the caller's own"):
        await leases.begin("fake", REQUEST, ALICE, duration=math.inf, also=refuse)
    assert await leases.list() == []


async def test_what_a_driver_does_not_offer_is_refused(start_engine: StartEngine) -> None:
    running = await start_engine()
    await running.after()
    with pytest.raises(CapabilityMissing, match="does not offer 'snapshot'"):
        running.engine.driver("fake").require(Snapshot)
