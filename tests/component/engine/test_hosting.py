"""Drivers that do not behave, and what the lab sees of it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from anvild.core.engine import Fault, Gone, InProcess
from anvild.core.errors import CapReached, Conflict
from anvild.core.events import EventFilter
from anvild.sdk import (
    DeviceFact,
    DeviceStatus,
    Driver,
    Health,
    HealthState,
    InvalidArgument,
    NotFound,
    Sighting,
    Unavailable,
)
from tests.support.lab import ALICE, OTHER_TEAM, TEAM, FakeDevice, Lab, Running, StartEngine, asks


async def kinds(running: Running, prefix: str) -> list[str]:
    return [event.kind for event in await running.events.read(where=EventFilter(kinds=(prefix,)), limit=1000)]


async def test_a_driver_with_no_ground_is_tried_again(
    lab: Lab, start_engine: StartEngine, mock_clock: MockClock
) -> None:
    lab.start_error = Unavailable("install the tool: apt-get install tool")
    lab.plug("d1")
    running = await start_engine()
    await running.after(40)
    (info,) = running.engine.drivers()
    assert (info.state, info.health, info.reason) == ("waiting", "unhealthy", "install the tool: apt-get install tool")
    assert 5 <= lab.lives["start"] <= 7
    assert lab.lives["stop"] == lab.lives["start"]
    lab.start_error = None
    await running.after(60)
    assert running.engine.drivers()[0].state == "running"
    assert await kinds(running, "driver.") == ["driver.unhealthy", "driver.healthy"]
    assert (await running.until(await running.engine.runs.submit(asks()))).state == "passed"


async def test_a_driver_that_keeps_failing_is_quarantined_until_rearmed(
    lab: Lab, start_engine: StartEngine, mock_clock: MockClock
) -> None:
    lab.watch_error = ZeroDivisionError("a bug in watch")
    lab.plug("d1")
    running = await start_engine()
    await running.after(60)
    (info,) = running.engine.drivers()
    assert info.state == "quarantined"
    assert "a bug in watch" in info.reason
    assert "driver.quarantined" in await kinds(running, "driver.")
    run = await running.engine.runs.submit(asks())
    await running.after(300)
    assert running.engine.drivers()[0].state == "quarantined"
    assert "a bug in watch" in str(await running.engine.runs.why_waiting(run.id))
    lab.watch_error = None
    await running.engine.rearm_driver("fake", ALICE)
    await running.after(3)
    assert (await running.engine.runs.get(run.id)).state == "passed"
    with pytest.raises(Conflict):
        await running.engine.rearm_driver("fake")
    with pytest.raises(NotFound):
        await running.engine.rearm_driver("no-such")


async def test_a_broken_driver_leaves_the_others_alone(
    lab: Lab, start_engine: StartEngine, mock_clock: MockClock
) -> None:
    lab.describe_error = TypeError("describe is broken")
    running = await start_engine(names=("bad", "worse"))
    await running.after(120)
    assert [info.state for info in running.engine.drivers()] == ["quarantined", "quarantined"]


async def test_only_changes_are_written(lab: Lab, start_engine: StartEngine) -> None:
    lab.plug("d1")
    running = await start_engine()
    await running.after()
    writes = running.store.statistics().writes
    for _ in range(20):
        lab.plug("d1")
    await running.after()
    assert running.store.statistics().writes == writes
    lab.devices["d1"].capabilities = ("exec",)
    lab.plug("d1")
    lab.unplug("d1")
    lab.plug("d1")
    await running.after()
    assert await kinds(running, "device.") == ["device.seen", "device.changed", "device.lost", "device.seen"]
    (device,) = await running.engine.devices.list()
    assert (device.status, device.capabilities, device.model) == ("ready", ("exec",), "F1")


@pytest.mark.parametrize(
    "lie",
    [
        "not a sighting",
        Sighting(kind="seen", device=DeviceFact(identity="", platform="fake", name="x", status=DeviceStatus.READY)),
        Sighting(kind="seen", device=DeviceFact(identity="x", platform="FAKE!", name="x", status=DeviceStatus.READY)),
        Sighting(kind="seen", device=DeviceFact(identity="x", platform="fake", name="n" * 999, status="ready")),  # type: ignore[arg-type]
        Sighting(kind="seen", device=DeviceFact(identity="d1", platform="other", name="x", status=DeviceStatus.READY)),
    ],
)
async def test_lies_do_not_reach_the_store(lab: Lab, start_engine: StartEngine, lie: Any) -> None:
    lab.plug("d1")
    running = await start_engine()
    await running.after()
    lab.say(lie)
    await running.after()
    assert [device.identity for device in await running.engine.devices.list()] == ["d1"]
    assert running.engine.drivers()[0].faults >= 1


async def test_faults_in_verbs_degrade_the_health(lab: Lab, start_engine: StartEngine) -> None:
    lab.plug("d1")
    running = await start_engine()
    for _ in range(3):
        await running.until(await running.engine.runs.submit(asks("told", {"exec": ["crash"]})))
    (info,) = running.engine.drivers()
    assert (info.state, info.health, info.faults) == ("running", "degraded", 3)


async def test_a_driver_that_stops_ends_its_runs(lab: Lab, start_engine: StartEngine, mock_clock: MockClock) -> None:
    lab.plug("d1")
    running = await start_engine()
    run = await running.engine.runs.submit(asks("told", {"wait": "go"}, max_attempts=2))
    await running.until(run, "running")
    await running.after()
    lab.watch_error = ZeroDivisionError("a bug in watch")
    lab.say(None)  # type: ignore[arg-type]  # makes the watch fail
    await running.after(60)
    assert running.engine.drivers()[0].state == "quarantined"
    waiting = await running.engine.runs.get(run.id)
    assert (waiting.state, waiting.reason_code) == ("queued", "driver_fault")
    assert "a bug in watch" in str(waiting.reason)
    lab.watch_error = None
    lab.gate("go").set()
    await running.engine.rearm_driver("fake")
    await running.after(3)
    assert (await running.engine.runs.get(run.id)).state == "passed"


async def test_a_hanging_verb_ends_at_its_deadline(lab: Lab, start_engine: StartEngine, mock_clock: MockClock) -> None:
    lab.plug("d1")
    running = await start_engine()
    run = await running.engine.runs.submit(asks("told", {"exec": ["hang"]}))
    await running.after(31)
    ended = await running.engine.runs.get(run.id)
    assert (ended.state, ended.reason_code) == ("failed", "deadline_exceeded")


async def test_what_is_not_seen_again_after_a_restart_is_away(
    lab: Lab, start_engine: StartEngine, mock_clock: MockClock
) -> None:
    lab.plug("d1")
    lab.plug("d2")
    running = await start_engine()
    await running.after()
    await running.kill()
    lab.unplug("d2")
    running = await start_engine()
    await running.after(10)
    run = await running.engine.runs.submit(asks("noop"))
    used = (await running.until(run)).used_device_id
    await running.after(10)
    devices = {device.identity: device for device in await running.engine.devices.list()}
    assert {identity: device.status for identity, device in devices.items()} == {"d1": "ready", "d2": "offline"}
    assert used == devices["d1"].id


class Elsewhere(InProcess):
    """A place that tells when it is ordered to that its instance has gone."""

    gone: Gone = staticmethod(lambda reason: None)
    refusal: Exception | None = None

    def live(self, gone: Gone, fault: Fault) -> AbstractAsyncContextManager[Driver]:
        if self.refusal is not None:
            raise self.refusal
        type(self).gone = staticmethod(gone)
        return super().live(gone, fault)

    def facts(self) -> dict[str, str]:
        return {"place": "elsewhere"}


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> type[Elsewhere]:
    """The lab's drivers live in a place of this class."""
    kind = type("Elsewhere", (Elsewhere,), {})
    monkeypatch.setattr("tests.support.lab.InProcess", kind)
    return kind


async def test_a_driver_that_goes_ends_its_runs_and_lives_again(
    lab: Lab, elsewhere: type[Elsewhere], start_engine: StartEngine, mock_clock: MockClock
) -> None:
    lab.plug("d1")
    running = await start_engine()
    run = await running.engine.runs.submit(asks("told", {"wait": "go"}, max_attempts=2))
    await running.until(run, "running")
    await running.after()
    elsewhere.gone("its process ended with signal 11")
    await running.after()
    (info,) = running.engine.drivers()
    assert (info.state, info.reason, info.faults) == ("waiting", "its process ended with signal 11", 1)
    assert info.facts == {"place": "elsewhere"}
    waiting = await running.engine.runs.get(run.id)
    assert (waiting.state, waiting.reason_code) == ("queued", "driver_fault")
    assert "its process ended with signal 11" in str(waiting.reason)
    assert lab.lives["stop"] == 0  # there is nobody to stop
    lab.gate("go").set()
    await running.after(3)
    assert (await running.engine.runs.get(run.id)).state == "passed"
    assert await kinds(running, "driver.") == ["driver.healthy", "driver.unhealthy", "driver.healthy"]


async def test_a_driver_that_goes_again_and_again_is_quarantined(
    lab: Lab, elsewhere: type[Elsewhere], start_engine: StartEngine, mock_clock: MockClock
) -> None:
    running = await start_engine()
    for _ in range(5):
        await running.after()
        elsewhere.gone("its process ended with signal 11")
        await running.after(16)
    (info,) = running.engine.drivers()
    assert info.state == "quarantined"
    assert info.reason.endswith("it failed 5 times in a row, last: its process ended with signal 11")
    await running.engine.rearm_driver("fake", ALICE)
    await running.after()
    assert running.engine.drivers()[0].state == "running"


async def test_refused_settings_are_not_tried_again(
    lab: Lab, elsewhere: type[Elsewhere], start_engine: StartEngine, mock_clock: MockClock
) -> None:
    elsewhere.refusal = InvalidArgument("drivers.fake.watts: expected a number")
    running = await start_engine()
    await running.after()
    (info,) = running.engine.drivers()
    assert info.state == "quarantined"
    assert info.reason == "it is in quarantine: it refuses its settings: drivers.fake.watts: expected a number"


async def test_a_flood_of_reports_is_held_back(
    lab: Lab, start_engine: StartEngine, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once, a_second = 50, 10
    monkeypatch.setattr("anvild.core.engine.sightings.REPORTS_AT_ONCE", at_once)
    monkeypatch.setattr("anvild.core.engine.sightings.REPORTS_PER_SECOND", a_second)
    running = await start_engine()
    await running.after()
    for number in range(at_once + 3 * a_second + 1):
        lab.devices.setdefault("d1", FakeDevice("d1")).capabilities = (f"c{number}",)
        lab.plug("d1")
    await running.after()
    assert (await running.engine.devices.list())[0].capabilities == (f"c{at_once}",)
    await running.after(2)
    (device,) = await running.engine.devices.list()
    assert device.capabilities == (f"c{at_once + 2 * a_second}",)
    assert int(running.engine.drivers()[0].facts["reports_held_back"]) > 0
    await running.after(2)
    (device,) = await running.engine.devices.list()
    assert device.capabilities == (f"c{at_once + 3 * a_second}",)


async def test_only_so_many_different_devices_a_day(
    lab: Lab, start_engine: StartEngine, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anvild.core.engine.sightings.MAX_DEVICES", 20)
    running = await start_engine()
    await running.after()
    for number in range(30):
        lab.plug(f"d{number}")
        lab.unplug(f"d{number}")
    lab.plug("d3")
    await running.after()
    assert len(await running.engine.devices.list()) == 20
    (info,) = running.engine.drivers()
    assert (info.health, info.devices) == ("degraded", 1)
    assert "last in report: it may report 20 different devices a day" in info.reason
    trio.lowlevel.current_clock().jump(86_400)  # type: ignore[attr-defined]
    lab.plug("d25")
    await running.after()
    assert len(await running.engine.devices.list()) == 21


async def test_devices_registered_by_hand(lab: Lab, start_engine: StartEngine) -> None:
    running = await start_engine()
    devices = running.engine.devices
    mine = await devices.register(
        team_id=TEAM, name="Pixel", model="P1", capabilities=["exec"], metadata={"a": 1}, cap=1
    )
    assert (mine.status, mine.by_hand, mine.driver, mine.metadata) == ("provisioning", True, None, {"a": 1})
    with pytest.raises(CapReached):
        await devices.register(team_id=TEAM, name="Another", cap=1)
    assert [device.id for device in await devices.list(TEAM)] == [mine.id]
    assert await devices.list(OTHER_TEAM) == []
    with pytest.raises(NotFound):
        await devices.get(mine.id, OTHER_TEAM)
    run = await running.engine.runs.submit(asks(device_id=mine.id))
    assert await running.engine.runs.why_waiting(run.id) == "the device 'Pixel' is provisioning"
    with pytest.raises(NotFound):
        await running.engine.runs.submit(asks(device_id=mine.id, team_id=OTHER_TEAM))
    assert (await devices.retire(mine.id, ALICE)).status == "retired"
    ended = await running.engine.runs.get(run.id)
    assert (ended.state, ended.reason_code) == ("failed", "device_retired")


async def test_a_quarantined_or_retired_device_takes_no_work(lab: Lab, start_engine: StartEngine) -> None:
    lab.plug("d1")
    running = await start_engine()
    await running.after()
    (device,) = await running.engine.devices.list()
    await running.engine.devices.quarantine(device.id, "smells of smoke", ALICE)
    run = await running.engine.runs.submit(asks("told", {"wait": "never"}))
    await running.after()
    assert (await running.engine.runs.get(run.id)).state == "queued"
    await running.engine.devices.rearm(device.id, ALICE)
    await running.until(run, "running")
    await running.after()
    await running.engine.devices.retire(device.id, ALICE)
    with trio.fail_after(60):
        assert (await running.until(run)).reason_code == "device_lost"
    lab.plug("d1")
    await running.after()
    assert (await running.engine.devices.get(device.id)).status == "retired"


async def test_a_driver_without_ground_says_so(lab: Lab, start_engine: StartEngine) -> None:
    """What is missing is told as missing, and not as a failure of the driver."""
    lab.start_error = Unavailable("there is no such tool: install it")
    lab.health = Health(state=HealthState.ABSENT, reason="there is no such tool")
    running = await start_engine()
    await running.engine.drivers_started()
    (info,) = running.engine.drivers()
    assert (info.health, info.reason, info.state) == ("absent", "there is no such tool: install it", "waiting")
