"""The daemon dies at any moment and starts again: nothing is lost, nothing starts twice, nothing is stuck."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest
from trio.testing import MockClock

from anvild.core.engine import devices as devices_module
from anvild.core.engine import journal, leases
from anvild.sdk import DeviceRequest, Files, Requirements, Unavailable
from tests.support.lab import ALICE, Lab, StartEngine, asks

MAKE = Requirements(make={"fake": DeviceRequest(template="minimal", name="a capsule", identity="any")})


async def test_work_that_can_go_on_goes_on(lab: Lab, start_engine: StartEngine) -> None:
    lab.plug("d1")
    lab.slots = 1
    first = await start_engine()
    found = await first.engine.runs.submit(asks("told", {"write": "/a"}, {"wait": "go"}, {"log": "end"}))
    made = await first.engine.runs.submit(asks("told", {"write": "/b"}, {"wait": "go"}, requirements=MAKE))
    for run in (found, made):
        await first.until(run, "running")
    await first.after()
    await first.kill()
    second = await start_engine()
    await second.after()
    assert lab.resumes == {(found.id, 1): 1, (made.id, 1): 1}
    assert [lease.incarnation for lease in await second.engine.leases.list()] == [second.engine.incarnation] * 2
    lab.gate("go").set()
    for run in (found, made):
        ended = await second.until(run)
        assert (ended.state, ended.attempt) == ("passed", 1)
        assert "run.adopted" in await second.kinds(run)
    await second.after()
    assert set(lab.starts.values()) == {1}
    assert lab.made == []


async def test_work_that_cannot_go_on_becomes_a_new_attempt_for_free(lab: Lab, start_engine: StartEngine) -> None:
    lab.plug("d1")
    running = await start_engine()
    run = await running.engine.runs.submit(asks("once", {"write": "/a"}, {"wait": "go"}))
    for number in range(1, 6):
        await running.until(run, "running")
        await running.after()
        assert (await running.engine.runs.get(run.id)).attempt == number
        await running.kill()
        running = await start_engine()
    lab.gate("go").set()
    ended = await running.until(run)
    assert (ended.state, ended.attempt) == ("passed", 6)
    assert lab.devices["d1"].cleaned >= 5


async def test_a_device_that_died_meanwhile(lab: Lab, start_engine: StartEngine) -> None:
    lab.slots = 1
    first = await start_engine()
    run = await first.engine.runs.submit(asks("told", {"wait": "go"}, requirements=MAKE))
    await first.until(run, "running")
    await first.after()
    await first.kill()
    lab.devices.clear()
    second = await start_engine()
    lab.gate("go").set()
    ended = await second.until(run)
    assert (ended.state, ended.attempt) == ("passed", 2)


async def test_a_verdict_is_kept_and_the_device_cleaned_after_a_kill_in_between(
    lab: Lab, start_engine: StartEngine, mock_clock: MockClock
) -> None:
    lab.plug("d1")
    first = await start_engine()
    run = await first.engine.runs.submit(asks("told", {"ignore_cancel": "stubborn"}))
    await first.until(run, "running")
    await first.after()
    await first.engine.runs.cancel(run.id)
    await first.after(1)
    lab.gate("stubborn").set()
    await first.kill()
    second = await start_engine()
    await second.after(1)
    assert (await second.engine.runs.get(run.id)).state == "cancelled"
    assert await second.engine.leases.list() == []
    assert lab.devices["d1"].cleaned == 1
    assert (await second.until(await second.engine.runs.submit(asks()))).state == "passed"


async def test_orphans_are_destroyed(lab: Lab, start_engine: StartEngine) -> None:
    """A device that was made, and whose lease ended without the driver, is destroyed when the driver is back."""
    lab.slots = 1
    first = await start_engine()
    run = await first.engine.runs.submit(asks("told", {"wait": "go"}, requirements=MAKE))
    await first.until(run, "running")
    await first.after()
    await first.kill()
    (lease,) = await first.engine.leases.list()
    await first.store.write(lambda conn: leases.release(conn, lease, leases.Fate(unclean=True), "lost"))
    assert len(lab.made) == 1
    second = await start_engine()
    await second.after()
    assert lab.made == []


async def test_a_driver_that_does_not_come_back_keeps_no_run(
    lab: Lab, start_engine: StartEngine, mock_clock: MockClock
) -> None:
    lab.plug("d1")
    first = await start_engine()
    run = await first.engine.runs.submit(asks("told", {"write": "/a"}, {"wait": "go"}))
    await first.until(run, "running")
    await first.after()
    await first.kill()
    lab.start_error = Unavailable("its tool is missing")
    second = await start_engine()
    await second.after(10)
    assert (await second.engine.runs.get(run.id)).state == "running"
    await second.after(15)
    waiting = await second.engine.runs.get(run.id)
    assert (waiting.state, waiting.reason_code) == ("queued", "daemon_restart")
    assert await second.engine.leases.list() == []
    lab.gate("go").set()
    lab.start_error = None
    await second.after(40)
    assert (await second.engine.runs.get(run.id)).state == "passed"
    assert lab.devices["d1"].cleaned == 2  # before the next lease, and after it


async def test_a_paused_run_survives(lab: Lab, start_engine: StartEngine) -> None:
    lab.plug("d1")
    first = await start_engine()
    run = await first.engine.runs.submit(asks("told", {"wait": "a"}, {"log": "b"}))
    await first.until(run, "running")
    await first.after()
    await first.engine.runs.pause(run.id)
    lab.gate("a").set()
    await first.until(run, "paused")
    await first.kill()
    second = await start_engine()
    await second.after()
    assert (await second.engine.runs.get(run.id)).state == "paused"
    assert not lab.resumes
    assert (await second.engine.runs.resume(run.id)).state == "running"
    ended = await second.until(run)
    assert (ended.state, ended.attempt) == ("passed", 1)
    assert lab.resumes == {(run.id, 1): 1}


async def test_leases_of_people_over_a_restart(lab: Lab, start_engine: StartEngine, mock_clock: MockClock) -> None:
    for name in ("d1", "d2"):
        lab.plug(name)
    first = await start_engine()
    await first.after()
    one, two = await first.engine.devices.list()
    kept = await first.engine.leases.acquire(one.id, ALICE, duration=100.0)
    await first.engine.leases.acquire(two.id, ALICE, duration=None)
    await first.after(90)
    await first.kill()
    second = await start_engine()
    await second.after(90)
    assert [lease.id for lease in await second.engine.leases.list()] == [kept.id]
    async with second.engine.session(one.id, ALICE) as session:
        assert session.require(Files)
    await second.after(20)
    assert await second.engine.leases.list() == []
    assert lab.devices["d1"].cleaned == lab.devices["d2"].cleaned == 1


async def test_an_endless_lease_lasts_over_restarts_until_it_is_released(
    lab: Lab, start_engine: StartEngine, mock_clock: MockClock
) -> None:
    lab.plug("d1")
    first = await start_engine()
    await first.after()
    (device,) = await first.engine.devices.list()
    kept = await first.engine.leases.acquire(device.id, ALICE, duration=math.inf)
    await first.kill()
    second = await start_engine()
    await second.after(600)
    assert [(lease.id, lease.duration) for lease in await second.engine.leases.list()] == [(kept.id, math.inf)]
    await second.engine.leases.release(kept.id)
    assert await second.engine.leases.list() == []


@pytest.mark.parametrize("jump", [timedelta(days=1), timedelta(days=-1)])
async def test_a_jump_of_the_wall_clock_ends_nothing(
    lab: Lab, start_engine: StartEngine, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch, jump: timedelta
) -> None:
    lab.plug("d1")
    lab.plug("d2")
    running = await start_engine()
    await running.after()
    run = await running.engine.runs.submit(asks("told", {"sleep": 50}, deadline=100.0))
    await running.until(run, "running")
    await running.after()
    free = next(d for d in await running.engine.devices.list() if d.id != (run.used_device_id or ""))
    (used,) = [lease.device_id for lease in await running.engine.leases.list()]
    free = next(d for d in await running.engine.devices.list() if d.id != used)
    lease = await running.engine.leases.acquire(free.id, ALICE, duration=100.0)
    real = journal.utcnow
    for module in (journal, leases, devices_module):
        monkeypatch.setattr(module, "utcnow", lambda: real() + jump)
    await running.after(45)
    assert (await running.engine.runs.get(run.id)).state == "running"
    await running.after(10)
    assert (await running.engine.runs.get(run.id)).state == "passed"
    assert [each.id for each in await running.engine.leases.list()] == [lease.id]
    await running.after(50)
    assert await running.engine.leases.list() == []
