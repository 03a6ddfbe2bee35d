"""Drivers that are attached while the engine runs, and stand on another machine: their links are cut and mended."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing

from anvild.core.engine import DriverFactory, Fault, Gone, LeaseInfo, Run, RunRequest
from anvild.core.engine.recovery import PATIENCE_SECONDS
from anvild.core.errors import Conflict
from anvild.sdk import (
    AlreadyExists,
    Command,
    DeviceRequest,
    DeviceStatus,
    Driver,
    Exec,
    NotFound,
    Requirements,
    ResourceExhausted,
    Unavailable,
    run,
)
from tests.support.aside import SuspendingLab
from tests.support.lab import ALICE, OTHER_TEAM, TEAM, Running, StartEngine

NAME = "fake@far"
REQUEST = DeviceRequest(template="minimal", name="a capsule", identity="any")


class Link(DriverFactory):
    """A link to another machine, which the test cuts and mends."""

    def __init__(self, lab: SuspendingLab, *, team_id: str | None = None) -> None:
        self._lab = lab
        self._team_id = team_id
        self._up = trio.Event()
        self._gone: Gone | None = None

    @property
    def elsewhere(self) -> bool:
        return True

    @property
    def team_id(self) -> str | None:
        return self._team_id

    @property
    def absent(self) -> str | None:
        return None if self._up.is_set() else "the host 'far' is not connected"

    async def present(self) -> None:
        await self._up.wait()

    def facts(self) -> dict[str, str]:
        return {"host": "far"}

    def mend(self) -> None:
        self._up.set()

    def cut(self) -> None:
        self._up = trio.Event()
        if self._gone is not None:
            self._gone("the link broke")

    @asynccontextmanager
    async def live(self, gone: Gone, fault: Fault) -> AsyncIterator[Driver]:
        self._gone = gone
        try:
            yield self._lab.driver()
        finally:
            self._gone = None


@pytest.fixture
def lab() -> SuspendingLab:
    return SuspendingLab()


async def attached(running: Running, link: Link) -> None:
    running.engine.attach(NAME, link)
    link.mend()
    await running.engine.driver(NAME).wait_ready()


async def make(running: Running) -> LeaseInfo:
    device = await running.engine.leases.make(NAME, REQUEST, ALICE, duration=math.inf)
    lease = await running.engine.leases.on(device.id)
    assert lease is not None
    return lease


async def echo(running: Running, lease: LeaseInfo) -> bytes:
    async with running.engine.leases.session(lease.device_id, ALICE) as session:
        return (await run(session.require(Exec), Command(argv=("echo", "hello")))).stdout


async def away(running: Running, lease: LeaseInfo) -> None:
    """Wait until the driver of a lease's device is known to be away."""

    async def known() -> bool:
        return running.engine.leases.away(lease.id) is not None

    await running.eventually(known)


async def back(running: Running, lease: LeaseInfo) -> None:
    async def known() -> bool:
        return running.engine.leases.away(lease.id) is None

    await running.eventually(known)


async def told(running: Running, lease: LeaseInfo) -> list[str]:
    return [event.kind for event in await running.events.read() if event.subject_id == lease.id]


async def test_a_driver_is_attached_while_the_engine_runs(lab: SuspendingLab, start_engine: StartEngine) -> None:
    running = await start_engine()
    link = Link(lab)
    running.engine.attach(NAME, link)
    with pytest.raises(AlreadyExists):
        running.engine.attach(NAME, link)
    with pytest.raises(Conflict, match="is not ready"):
        await running.engine.leases.begin(NAME, REQUEST, ALICE, duration=math.inf)
    with trio.fail_after(60):
        await running.engine.drivers_started()
    link.mend()
    await running.engine.driver(NAME).wait_ready()
    (_, info) = running.engine.drivers()
    assert (info.name, info.state, info.facts["host"]) == (NAME, "running", "far")
    lease = await make(running)
    assert (lease.driver, await echo(running, lease)) == (NAME, b"hello")
    await running.engine.leases.release(lease.id)


async def test_what_is_held_to_last_waits_for_a_link_and_goes_on(lab: SuspendingLab, start_engine: StartEngine) -> None:
    running = await start_engine()
    link = Link(lab)
    await attached(running, link)
    lease = await make(running)
    for _ in range(7):  # more often than a driver here could fail before it is left alone
        async with running.engine.leases.session(lease.device_id, ALICE):
            link.cut()
            await away(running, lease)
        for refused in (
            echo(running, lease),
            running.engine.leases.suspend(lease.id),
            running.engine.leases.resume(lease.id),
        ):
            with pytest.raises(Unavailable, match="the link broke"):
                await refused
        assert running.engine.driver(NAME).state == "waiting"
        link.mend()
        await back(running, lease)
        assert await echo(running, lease) == b"hello"
    info = running.engine.driver(NAME).info
    assert (info.state, info.slots_used, info.faults) == ("running", 1, 0)
    await running.eventually(partial(_settled, running, lease))
    assert await told(running, lease) == ["lease.granted", *["lease.away", "lease.back"] * 7]
    await running.engine.leases.release(lease.id)
    assert lab.made == []


async def _settled(running: Running, lease: LeaseInfo) -> bool:
    return (await told(running, lease))[-1] == "lease.back"


async def test_what_has_not_outlived_the_absence_ends(lab: SuspendingLab, start_engine: StartEngine) -> None:
    running = await start_engine()
    link = Link(lab)
    await attached(running, link)
    lease = await make(running)
    link.cut()
    await away(running, lease)
    del lab.devices[lab.made[0]]
    link.mend()

    async def ended() -> bool:
        return await running.engine.leases.list() == []

    await running.eventually(ended)
    assert (await told(running, lease))[-1] == "lease.released"


async def test_what_is_released_meanwhile_is_destroyed_when_the_link_is_back(
    lab: SuspendingLab, start_engine: StartEngine
) -> None:
    running = await start_engine()
    link = Link(lab)
    await attached(running, link)
    lease = await make(running)
    link.cut()
    await away(running, lease)
    await running.engine.leases.release(lease.id)
    assert len(lab.made) == 1
    link.mend()

    async def gone() -> bool:
        return lab.made == []

    await running.eventually(gone)


@pytest.mark.parametrize("aside", [True, False])
async def test_a_slot_fits_what_the_driver_did_when_the_link_broke(
    aside: bool, lab: SuspendingLab, start_engine: StartEngine
) -> None:
    """It was putting a device aside, or bringing it back, and has done so though nobody heard."""
    running = await start_engine()
    link = Link(lab)
    await attached(running, link)
    lease = await make(running)
    if not aside:
        await running.engine.leases.suspend(lease.id)
    (identity,) = lab.made
    link.cut()
    await away(running, lease)
    (lab.aside.add if aside else lab.aside.discard)(identity)
    link.mend()
    await back(running, lease)
    assert running.engine.driver(NAME).slots_used == (0 if aside else 1)
    device = await running.engine.devices.get(lease.device_id)
    assert device.status is (DeviceStatus.OFFLINE if aside else DeviceStatus.READY)
    await running.engine.leases.release(lease.id)


async def test_a_device_that_came_back_without_a_free_slot_is_put_aside_again(
    lab: SuspendingLab, start_engine: StartEngine
) -> None:
    running = await start_engine()
    link = Link(lab)
    await attached(running, link)
    first = await make(running)
    (identity,) = lab.made
    await running.engine.leases.suspend(first.id)
    second = await make(running)
    link.cut()
    await away(running, first)
    await away(running, second)
    lab.aside.discard(identity)
    link.mend()
    await back(running, first)
    await back(running, second)
    assert lab.aside == {identity}
    with pytest.raises(ResourceExhausted):
        await running.engine.leases.resume(first.id)
    for lease in (first, second):
        await running.engine.leases.release(lease.id)


async def test_a_restart_waits_for_a_link_that_is_down(
    lab: SuspendingLab, start_engine: StartEngine, mock_clock: trio.testing.MockClock
) -> None:
    running = await start_engine()
    link = Link(lab)
    await attached(running, link)
    lease = await make(running)
    await running.kill()
    link.cut()

    running = await start_engine(attached={NAME: link})
    await running.after(PATIENCE_SECONDS + 1)
    assert (await running.engine.leases.on(lease.device_id)) is not None
    assert running.engine.leases.away(lease.id) is not None
    link.mend()
    await back(running, lease)
    assert await echo(running, lease) == b"hello"
    await running.engine.leases.release(lease.id)


async def endless(running: Running, lab: SuspendingLab) -> Run:
    """Begin a run on a device of the machine elsewhere that does not end by itself, and return it when it runs."""
    lab.gate("never")
    request = RunRequest(
        team_id=TEAM,
        kind="told",
        name="r",
        spec={"steps": [{"wait": "never"}]},
        requirements=Requirements(drivers=(NAME,), make={"fake": REQUEST}),
    )
    begun = await running.engine.runs.submit(request)
    await running.until(begun, "running")
    await running.after()
    return begun


async def test_runs_on_a_lost_link_end_and_go_elsewhere(lab: SuspendingLab, start_engine: StartEngine) -> None:
    lab.slots = 2
    running = await start_engine()
    link = Link(lab)
    await attached(running, link)
    begun = await endless(running, lab)
    link.cut()
    ended = await running.until(begun)
    assert (ended.state, ended.reason_code) == ("failed", "device_lost")
    wanted = Requirements(make={"fake": REQUEST})
    other = await running.engine.runs.submit(RunRequest(team_id=TEAM, kind="told", name="s", requirements=wanted))
    assert (await running.until(other)).state == "passed", "the one here makes it"


async def test_a_team_s_own_machine_serves_that_team_alone(lab: SuspendingLab, start_engine: StartEngine) -> None:
    lab.plug("phone")
    running = await start_engine(names=())
    await attached(running, Link(lab, team_id=OTHER_TEAM))

    async def seen() -> bool:
        return bool(await running.engine.devices.list())

    await running.eventually(seen)
    (device,) = await running.engine.devices.list()
    assert device.team_id == OTHER_TEAM
    wanted = Requirements(make={"fake": REQUEST})
    mine = await running.engine.runs.submit(RunRequest(team_id=TEAM, kind="told", name="r", requirements=wanted))
    theirs = await running.engine.runs.submit(
        RunRequest(team_id=OTHER_TEAM, kind="told", name="r", requirements=wanted)
    )
    assert (await running.until(theirs)).state == "passed"
    assert (await running.engine.runs.get(mine.id)).state == "queued"


async def test_a_driver_is_detached_with_all_that_is_on_it(lab: SuspendingLab, start_engine: StartEngine) -> None:
    lab.slots = 3
    running = await start_engine()
    link = Link(lab)
    await attached(running, link)
    lasting, aside = await make(running), await make(running)
    await running.engine.leases.suspend(aside.id)
    begun = await endless(running, lab)
    await running.engine.detach(NAME, "its host was deleted")
    await running.engine.detach(NAME, "its host was deleted")
    assert lab.made == []
    assert (await running.until(begun)).reason_code == "device_lost"
    with pytest.raises(NotFound):
        running.engine.driver(NAME)
    assert await running.engine.leases.list() == []
    for lease in (lasting, aside):
        assert (await running.engine.devices.get(lease.device_id)).status is DeviceStatus.RETIRED


async def test_what_a_cut_link_kept_from_being_destroyed_is_when_its_name_is_back(
    lab: SuspendingLab, start_engine: StartEngine
) -> None:
    running = await start_engine()
    link = Link(lab)
    await attached(running, link)
    await make(running)
    link.cut()
    await running.engine.detach(NAME, "its host was deleted")
    assert len(lab.made) == 1
    await attached(running, Link(lab))
    await running.after()
    assert lab.made == []
