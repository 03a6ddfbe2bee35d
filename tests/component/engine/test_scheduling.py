"""Which run gets which device, and what a waiting run says."""

from __future__ import annotations

import msgspec
from sqlalchemy import text
from trio.testing import MockClock

from anvild.core.engine.claims import _LANES, _free, _page
from anvild.core.events import EventFilter
from anvild.sdk import DeviceRequest, Health, HealthState, Requirements, ResourceExhausted
from tests.support.lab import OTHER_TEAM, TEAM, Lab, Running, StartEngine, asks

MAKE = {"fake": DeviceRequest(template="minimal", name="a capsule", identity="any")}


async def order(running: Running) -> list[str]:
    """The names of runs in the order in which they began."""
    begun = await running.events.read(where=EventFilter(kinds=("run.running",)), limit=1000)
    return [(await running.engine.runs.get(event.subject_id)).name for event in begun]


async def test_priority_then_fair_between_teams_then_age(lab: Lab, start_engine: StartEngine) -> None:
    running = await start_engine()
    for name, team, priority in [
        ("a1", TEAM, 0),
        ("a2", TEAM, 0),
        ("a3", TEAM, 0),
        ("b1", OTHER_TEAM, 0),
        ("b2", OTHER_TEAM, 0),
        ("urgent", TEAM, 5),
    ]:
        await running.engine.runs.submit(asks("told", {"wait": name}, name=name, team_id=team, priority=priority))
    for device in ("d1", "d2"):
        lab.plug(device)
        await running.after()
    for name in ("urgent", "b1", "a1", "b2", "a2", "a3"):
        assert (await order(running))[:2] == ["urgent", "b1"]
        lab.gate(name).set()
        await running.after()
    assert await order(running) == ["urgent", "b1", "a1", "b2", "a2", "a3"]


async def test_a_run_goes_where_it_fits(lab: Lab, start_engine: StartEngine) -> None:
    lab.plug("rich", capabilities=("exec", "files", "power"))
    lab.plug("plain", capabilities=("exec",))
    lab.plug("other", platform="other")
    running = await start_engine()
    await running.after()
    devices = {device.identity: device.id for device in await running.engine.devices.list()}
    wishes = {
        "plain": Requirements(platforms=("fake",), capabilities=("exec",)),
        "rich": Requirements(capabilities=("power",)),
        "other": Requirements(platforms=("other",)),
    }
    for identity, wish in wishes.items():
        run = await running.until(await running.engine.runs.submit(asks("noop", requirements=wish)))
        assert run.used_device_id == devices[identity]
    asked = await running.engine.runs.submit(asks("noop", device_id=devices["rich"]))
    assert (await running.until(asked)).used_device_id == devices["rich"]


async def test_a_waiting_run_says_why(lab: Lab, start_engine: StartEngine, mock_clock: MockClock) -> None:
    running = await start_engine()
    runs = running.engine.runs
    nowhere = await runs.submit(asks("told", {"wait": "go"}))
    await running.after(2)
    assert (
        await runs.get(nowhere.id)
    ).waiting == "no device is attached to the lab and no driver makes one for this run"
    lab.plug("d1")
    await running.after()
    power = await runs.submit(asks("told", requirements=Requirements(capabilities=("power",))))
    mac = await runs.submit(asks("told", requirements=Requirements(platforms=("other",))))
    queued = [await runs.submit(asks("told")) for _ in range(2)]
    await running.after()
    assert await runs.why_waiting(nowhere.id) is None
    assert await runs.why_waiting(power.id) == "no device offers the capability 'power'"
    assert await runs.why_waiting(mac.id) == "no device of the platform 'other' offers all that the run needs"
    assert (
        await runs.why_waiting(queued[1].id) == "2nd of its kind in the queue; 1 fitting device, none free for it yet"
    )
    assert (await runs.get(queued[0].id)).waiting is None
    lab.health = Health(state=HealthState.UNHEALTHY, reason="the hub has no power")
    await running.after(31)
    blocked = "the driver 'fake' is not ready: the hub has no power"
    assert await runs.why_waiting(queued[1].id) == blocked
    assert (await runs.get(queued[0].id)).waiting == blocked
    lab.gate("go").set()
    await running.after()
    assert (await runs.get(nowhere.id)).state == "passed"
    assert (await runs.get(queued[0].id)).state == "queued"
    lab.health = Health(state=HealthState.HEALTHY, reason="all well")
    await running.after(31)
    assert (await runs.get(queued[1].id)).state == "passed"
    told = [event.data["reason"] for event in await running.events.read(where=EventFilter(kinds=("run.waiting",)))]
    assert blocked in told


async def test_devices_are_made_to_order_within_the_slots(lab: Lab, start_engine: StartEngine) -> None:
    lab.slots = 2
    running = await start_engine()
    wish = Requirements(make=MAKE, platforms=("fake",))
    runs = [await running.engine.runs.submit(asks("told", {"wait": "go"}, requirements=wish)) for _ in range(3)]
    await running.until(runs[1], "running")
    await running.after()
    assert sorted(lab.made) == sorted(f"{run.id}-1" for run in runs[:2])
    assert await running.engine.runs.why_waiting(runs[2].id) == (
        "1st of its kind in the queue; 2 slots for devices made to order, none free for it yet"
    )
    (info,) = running.engine.drivers()
    assert (info.slots, info.slots_used) == (2, 2)
    lab.gate("go").set()
    for run in runs:
        assert (await running.until(run)).state == "passed"
    await running.after()
    assert lab.made == []
    assert await running.engine.devices.list() == []
    gone = await running.engine.devices.list(made_to_order=True, retired=True)
    assert [device.status for device in gone] == ["retired"] * 3


async def test_a_device_that_cannot_be_made(lab: Lab, start_engine: StartEngine, mock_clock: MockClock) -> None:
    lab.slots = 1
    running = await start_engine()
    wrong = {"fake": DeviceRequest(template="no-such", name="a capsule", identity="any")}
    run = await running.engine.runs.submit(asks(requirements=Requirements(make=wrong)))
    await running.after()
    assert (await running.engine.runs.get(run.id)).reason_code == "not_found"
    lab.create_error = ResourceExhausted("no memory left")
    run = await running.engine.runs.submit(asks(requirements=Requirements(make=MAKE)))
    await running.after(2)
    assert (await running.engine.runs.get(run.id)).reason_code == "resource_exhausted"
    lab.create_error = None
    await running.after(10)
    assert (await running.engine.runs.get(run.id)).state == "passed"


async def test_a_driver_that_lacks_the_template_gives_way_to_another(
    lab: Lab, start_engine: StartEngine, mock_clock: MockClock
) -> None:
    lab.slots = 1
    running = await start_engine(names=("bare", "stocked"))
    await running.after()
    runs = running.engine.runs
    make = {
        "bare": DeviceRequest(template="not-built", name="a capsule", identity="any"),
        "stocked": DeviceRequest(template="minimal", name="a capsule", identity="any"),
    }
    wish = Requirements(make=make)
    run = await runs.submit(asks("told", {"wait": "go"}, requirements=wish))
    await running.after()
    first, second = await runs.attempts(run.id)
    assert (first.reason_code, first.reason) == ("not_found", "there is no template 'not-built'")
    assert second.verdict is None
    later = await runs.submit(asks("told", {"wait": "go"}, requirements=wish))
    await running.after(2)
    assert (await runs.get(later.id)).attempt == 0
    assert await runs.why_waiting(later.id) == (
        "1st of its kind in the queue; 1 slot for devices made to order, none free for it yet"
    )
    await running.after(90)
    assert (await runs.get(later.id)).attempt == 1
    assert (await runs.get(later.id)).state == "queued"
    lab.gate("go").set()
    await running.after(1)
    assert [(await runs.get(each.id)).state for each in (run, later)] == ["passed", "passed"]


async def test_a_run_fails_when_no_driver_is_left_to_make_its_device(
    lab: Lab, start_engine: StartEngine, mock_clock: MockClock
) -> None:
    lab.slots = 1
    running = await start_engine(names=("one", "two"))
    await running.after()
    runs = running.engine.runs
    request = DeviceRequest(template="not-built", name="a capsule", identity="any")
    both = Requirements(make={"one": request, "two": request})
    for _ in range(2):
        run = await runs.submit(asks(requirements=both))
        await running.after()
        ended = await runs.get(run.id)
        assert (ended.state, ended.reason) == ("failed", "there is no template 'not-built'")
    alone = await runs.submit(asks(requirements=Requirements(make={"two": request})))
    await running.after()
    assert (await runs.get(alone.id)).attempt == 1
    assert (await runs.get(alone.id)).state == "failed"


async def test_a_run_waits_for_the_driver_that_may_make_its_device(
    lab: Lab, start_engine: StartEngine, mock_clock: MockClock
) -> None:
    lab.slots = 1
    running = await start_engine(names=("bare", "stocked"))
    await running.after()
    make = {
        "bare": DeviceRequest(template="not-built", name="a capsule", identity="any"),
        "stocked": DeviceRequest(template="minimal", name="a capsule", identity="any"),
    }
    stocked = running.engine.driver("stocked")
    healthy = stocked.description
    assert healthy is not None
    sick = Health(state=HealthState.UNHEALTHY, reason="the disk is full")
    stocked.description = msgspec.structs.replace(healthy, health=sick)
    running.engine._changed()
    run = await running.engine.runs.submit(asks("noop", requirements=Requirements(make=make)))
    await running.after(3)
    waits = await running.engine.runs.get(run.id)
    assert (waits.state, waits.attempt) == ("queued", 1)
    assert waits.waiting == (
        "the driver 'bare' cannot make 'not-built': there is no template 'not-built'; "
        "the driver 'stocked' is not ready: the disk is full"
    )
    await running.after(31)
    assert (await running.engine.runs.get(run.id)).state == "passed"


async def test_a_made_device_that_dies_is_a_lost_device(lab: Lab, start_engine: StartEngine) -> None:
    lab.slots = 1
    running = await start_engine()
    wish = Requirements(make=MAKE)
    run = await running.engine.runs.submit(asks("told", {"wait": "go"}, requirements=wish, max_attempts=2))
    await running.until(run, "running")
    await running.after()
    lab.kill_made(lab.made[0])
    await running.after()
    lab.gate("go").set()
    ended = await running.until(run)
    assert (ended.state, ended.attempt) == ("passed", 2)


async def test_the_limit_of_running_runs(lab: Lab, start_engine: StartEngine) -> None:
    for number in range(4):
        lab.plug(f"d{number}")
    running = await start_engine(max_running=2)
    runs = [await running.engine.runs.submit(asks("told", {"wait": "go"})) for _ in range(4)]
    await running.after()
    states = [(await running.engine.runs.get(run.id)).state for run in runs]
    assert states == ["running", "running", "queued", "queued"]
    lab.gate("go").set()
    for run in runs:
        assert (await running.until(run)).state == "passed"


async def test_the_queue_is_read_by_its_indexes(lab: Lab, start_engine: StartEngine) -> None:
    """However many runs there are, a claim looks at the head of each lane alone."""
    running = await start_engine()
    await running.engine.runs.submit(asks())
    if running.store.dialect != "sqlite":
        return
    for statement in (str(_LANES), str(_page), str(_free)):
        plan = text(f"EXPLAIN QUERY PLAN {statement}")
        values = dict.fromkeys(plan.compile().params, 1)
        rows = await running.store.read(lambda conn, plan=plan, values=values: conn.execute(plan, values).all())
        scans = [row[-1] for row in rows if row[-1].startswith("SCAN") and "INDEX" not in row[-1]]
        assert all(scan in ("SCAN lanes", "SCAN CONSTANT ROW") for scan in scans), scans
