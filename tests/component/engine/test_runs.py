"""The life of runs, on both stores, with the real engine and devices in memory."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from anvild.core.engine import Actor, RunState
from anvild.core.errors import Conflict, InvalidRequest
from anvild.sdk import DeviceLost, NotFound, Unavailable
from tests.support.lab import ALICE, OTHER_TEAM, TEAM, Lab, StartEngine, asks


async def test_a_run_passes_and_tells_all_of_it(lab: Lab, start_engine: StartEngine) -> None:
    lab.plug("d1")
    running = await start_engine()
    steps = ({"phase": "setup"}, {"log": "hello"}, {"emit": "measured"}, {"finding": "high"}, {"file": "out.txt"})
    run = await running.engine.runs.submit(asks("told", *steps, metadata={"a": 1}), ALICE)
    assert (run.state, run.number, run.created_by, run.phase) == ("queued", 1, "user:alice", None)
    ended = await running.until(run)
    assert (ended.state, ended.reason, ended.attempt, ended.metadata) == ("passed", "all steps done", 1, {"a": 1})
    assert ended.started_at is not None
    assert ended.ended_at is not None
    assert ended.phase is None
    await running.after()
    kinds = [kind for kind in await running.kinds(run) if kind != "artifact.stored"]
    wanted = "run.queued lease.granted run.running run.phase run.log run.measured run.finding run.passed lease.released"
    assert kinds == wanted.split()
    (finding,) = await running.engine.runs.findings(run.id)
    assert (finding.severity, finding.title, finding.category) == ("high", "found", "test")
    assert [stored.name for stored in await running.artifacts.list(run.id)] == ["out.txt"]
    (attempt,) = await running.engine.runs.attempts(run.id)
    assert (attempt.verdict, attempt.device_id) == ("passed", ended.used_device_id)
    assert lab.devices["d1"].cleaned == 1


async def test_a_device_is_cleaned_before_the_next_run_gets_it(lab: Lab, start_engine: StartEngine) -> None:
    lab.plug("d1")
    running = await start_engine()
    runs = [await running.engine.runs.submit(asks("told", {"write": "/x"}, {"exec": ["echo", "a"]})) for _ in range(5)]
    for run in runs:
        assert (await running.until(run)).state == "passed"
    await running.after()
    assert lab.devices["d1"].cleaned == 5
    assert not lab.devices["d1"].dirty
    leases = [event for event in await running.events.read(limit=1000) if event.kind == "lease.granted"]
    assert [event.data["fence"] for event in leases] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("step", "max_attempts", "state", "code", "attempts"),
    [
        ({"fail": "expectation_failed"}, 3, "failed", "expectation_failed", 1),
        ({"fail": "flaky", "retry": True}, 3, "failed", "flaky", 3),
        ({"raise": "bug"}, 3, "failed", "workload_error", 1),
        ({"raise": "invalid"}, 3, "failed", "invalid_argument", 1),
        ({"exec": ["crash"]}, 2, "failed", "driver_fault", 2),
        ({"exec": ["nothing"]}, 2, "failed", "not_found", 1),
    ],
)
async def test_how_failures_end_a_run(
    lab: Lab,
    start_engine: StartEngine,
    step: dict[str, object],
    max_attempts: int,
    state: str,
    code: str,
    attempts: int,
) -> None:
    lab.plug("d1")
    running = await start_engine()
    run = await running.engine.runs.submit(asks("told", step, max_attempts=max_attempts))
    ended = await running.until(run)
    assert (ended.state, ended.reason_code, ended.attempt) == (state, code, attempts)
    assert ended.reason


async def test_what_nobody_executes_is_refused(lab: Lab, start_engine: StartEngine) -> None:
    running = await start_engine()
    with pytest.raises(InvalidRequest, match="no-such-kind"):
        await running.engine.runs.submit(asks("no-such-kind"))
    with pytest.raises(InvalidRequest):
        await running.engine.runs.submit(asks(max_attempts=0))
    with pytest.raises(NotFound):
        await running.engine.runs.submit(asks(device_id=TEAM))
    with pytest.raises(NotFound):
        await running.engine.runs.get("not-a-uuid")
    assert await running.engine.runs.list(TEAM) == []


async def test_a_queued_run_is_cancelled(lab: Lab, start_engine: StartEngine) -> None:
    running = await start_engine()
    run = await running.engine.runs.submit(asks())
    cancelled = await running.engine.runs.cancel(run.id, ALICE)
    assert (cancelled.state, cancelled.reason) == ("cancelled", "cancelled by user:alice")
    assert (await running.engine.runs.cancel(run.id, ALICE)).version == cancelled.version
    lab.plug("d1")
    await running.after()
    assert not lab.starts


async def test_cancelling_a_running_run_cleans_its_device(lab: Lab, start_engine: StartEngine) -> None:
    lab.plug("d1")
    running = await start_engine()
    run = await running.engine.runs.submit(asks("told", {"write": "/x"}, {"wait": "never"}))
    await running.until(run, "running")
    await running.after()
    await running.engine.runs.cancel(run.id, ALICE, reason="enough")
    await running.after()
    ended = await running.engine.runs.get(run.id)
    assert (ended.state, ended.reason) == ("cancelled", "enough")
    assert lab.devices["d1"].cleaned == 1
    assert (await running.kinds(run))[-2:] == ["run.cancelled", "lease.released"]
    with pytest.raises(Conflict):
        await running.engine.runs.pause(run.id)
    (attempt,) = await running.engine.runs.attempts(run.id)
    assert attempt.verdict == "cancelled"


async def test_a_workload_that_ignores_cancellation_keeps_no_device(
    lab: Lab, start_engine: StartEngine, mock_clock: MockClock
) -> None:
    lab.plug("d1")
    running = await start_engine()
    run = await running.engine.runs.submit(asks("told", {"ignore_cancel": "stubborn"}, {"write": "/late"}))
    await running.until(run, "running")
    await running.after()
    await running.engine.runs.cancel(run.id)
    await running.after(9)
    assert lab.devices["d1"].cleaned == 0
    await running.after(2)
    assert lab.devices["d1"].cleaned == 1
    assert running.engine.statistics().runaways == 1
    lab.gate("stubborn").set()
    await running.after()
    assert lab.devices["d1"].files == {}


async def test_a_deadline_ends_a_run(lab: Lab, start_engine: StartEngine, mock_clock: MockClock) -> None:
    lab.plug("d1")
    running = await start_engine()
    run = await running.engine.runs.submit(asks("told", {"sleep": 1000}, deadline=20.0, max_attempts=3))
    await running.after(19)
    assert (await running.engine.runs.get(run.id)).state == "running"
    await running.after(2)
    ended = await running.engine.runs.get(run.id)
    assert (ended.state, ended.reason_code, ended.attempt) == ("failed", "deadline_exceeded", 1)
    assert lab.devices["d1"].cleaned == 1


async def test_a_lost_device_ends_its_run_at_once(lab: Lab, start_engine: StartEngine, mock_clock: MockClock) -> None:
    lab.plug("d1")
    running = await start_engine()
    run = await running.engine.runs.submit(asks("told", {"write": "/x"}, {"wait": "never"}))
    await running.until(run, "running")
    await running.after()
    lab.unplug("d1")
    await running.after()
    ended = await running.engine.runs.get(run.id)
    assert (ended.state, ended.reason_code) == ("failed", "device_lost")
    assert (await running.engine.leases.list()) == []
    other = await running.engine.runs.submit(asks())
    await running.after(2)
    assert await running.engine.runs.why_waiting(other.id) == "the device 'Fake d1' is offline"
    assert (await running.engine.runs.get(other.id)).waiting == "the device 'Fake d1' is offline"
    lab.plug("d1")
    await running.after()
    assert (await running.engine.runs.get(other.id)).state == "passed"
    assert lab.devices["d1"].cleaned == 2  # once for the lost run, before the other one


async def test_a_lost_device_is_replaced_while_attempts_remain(lab: Lab, start_engine: StartEngine) -> None:
    lab.plug("d1")
    running = await start_engine()
    run = await running.engine.runs.submit(asks("told", {"wait": "go"}, max_attempts=2))
    await running.until(run, "running")
    await running.after()
    lab.unplug("d1")
    await running.after()
    assert (await running.engine.runs.get(run.id)).state == "queued"
    lab.gate("go").set()
    lab.plug("d2")
    ended = await running.until(run)
    assert (ended.state, ended.attempt) == ("passed", 2)
    assert [attempt.verdict for attempt in await running.engine.runs.attempts(run.id)] == ["failed", "passed"]


async def test_a_place_that_cannot_begin_rests_and_the_attempt_is_free(
    lab: Lab, start_engine: StartEngine, mock_clock: MockClock
) -> None:
    lab.plug("d1")
    lab.devices["d1"].open_error = Unavailable("it is still booting")
    running = await start_engine()
    run = await running.engine.runs.submit(asks())
    await running.after()
    waiting = await running.engine.runs.get(run.id)
    assert (waiting.state, waiting.attempt, waiting.reason_code) == ("queued", 1, "unavailable")
    await running.after(1.5)
    assert (await running.engine.runs.get(run.id)).attempt == 2
    lab.devices["d1"].open_error = None
    await running.after(3)
    ended = await running.engine.runs.get(run.id)
    assert (ended.state, ended.attempt) == ("passed", 3)


async def test_false_starts_end_at_last(lab: Lab, start_engine: StartEngine, mock_clock: MockClock) -> None:
    lab.plug("d1")
    lab.devices["d1"].open_error = DeviceLost("no answer")
    running = await start_engine()
    run = await running.engine.runs.submit(asks())
    await running.after(20)
    ended = await running.engine.runs.get(run.id)
    assert (ended.state, ended.reason_code, ended.attempt) == ("failed", "device_lost", 4)


async def test_a_failed_clean_quarantines_the_device(lab: Lab, start_engine: StartEngine) -> None:
    lab.plug("d1")
    lab.devices["d1"].clean_error = ZeroDivisionError("the disk is worn out")
    running = await start_engine()
    run = await running.engine.runs.submit(asks())
    assert (await running.until(run)).state == "passed"
    await running.after()
    (device,) = await running.engine.devices.list()
    assert device.quarantine is not None
    assert "worn out" in device.quarantine
    other = await running.engine.runs.submit(asks())
    await running.after()
    assert "quarantine" in (await running.engine.runs.why_waiting(other.id) or "")
    lab.devices["d1"].clean_error = None
    await running.engine.devices.rearm(device.id, ALICE)
    assert (await running.until(other)).state == "passed"
    with pytest.raises(Conflict):
        await running.engine.devices.rearm(device.id, ALICE)


async def test_a_running_run_pauses_and_resumes(lab: Lab, start_engine: StartEngine, mock_clock: MockClock) -> None:
    lab.plug("d1")
    running = await start_engine()
    runs = running.engine.runs
    run = await runs.submit(asks("told", {"sleep": 5}, {"sleep": 5}, {"sleep": 5}, deadline=30.0))
    await running.after(2)
    assert (await runs.pause(run.id, ALICE)).state == "running"
    await running.after(2)
    assert (await runs.get(run.id)).state == "running"
    await running.after(2)
    assert (await runs.get(run.id)).state == "paused"
    await running.after(60)  # its deadline stands still, and it keeps its device
    assert (await runs.get(run.id)).state == "paused"
    assert len(await running.engine.leases.list()) == 1
    assert (await runs.resume(run.id, ALICE)).state == "running"
    await running.after(12)
    assert (await runs.get(run.id)).state == "passed"
    assert lab.starts[run.id, 1] == 1
    kinds = [kind for kind in await running.kinds(run) if kind.startswith("run.")]
    assert kinds == ["run.queued", "run.running", "run.pausing", "run.paused", "run.resumed", "run.passed"]


async def test_a_paused_run_can_be_cancelled_and_a_pause_withdrawn(lab: Lab, start_engine: StartEngine) -> None:
    lab.plug("d1")
    running = await start_engine()
    runs = running.engine.runs
    run = await runs.submit(asks("told", {"wait": "a"}, {"wait": "b"}, {"log": "end"}))
    await running.until(run, "running")
    await running.after()
    await runs.pause(run.id)
    await runs.resume(run.id)
    lab.gate("a").set()
    await running.after()
    assert (await runs.get(run.id)).state == "running"
    await runs.pause(run.id)
    lab.gate("b").set()
    await running.until(run, "paused")
    await runs.cancel(run.id)
    await running.after()
    assert (await runs.get(run.id)).state == "cancelled"
    assert await running.engine.leases.list() == []


async def test_a_paused_run_loses_its_device_and_begins_anew(lab: Lab, start_engine: StartEngine) -> None:
    lab.plug("d1")
    running = await start_engine()
    runs = running.engine.runs
    run = await runs.submit(asks("told", {"wait": "a"}, {"log": "b"}, max_attempts=2))
    await running.until(run, "running")
    await running.after()
    await runs.pause(run.id)
    lab.gate("a").set()
    await running.until(run, "paused")
    lab.unplug("d1")
    await running.after()
    assert (await runs.get(run.id)).state == "paused"
    lab.plug("d1")
    assert (await runs.resume(run.id)).state == "queued"
    ended = await running.until(run)
    assert (ended.state, ended.attempt) == ("passed", 2)


async def test_queued_runs_and_drafts_wait_outside_the_queue(lab: Lab, start_engine: StartEngine) -> None:
    running = await start_engine()
    runs = running.engine.runs
    paused = await runs.submit(asks())
    draft = await runs.submit(asks(draft=True))
    assert draft.state == "draft"
    assert (await runs.pause(paused.id)).state == "paused"
    lab.plug("d1")
    await running.after()
    assert not lab.starts
    assert await runs.why_waiting(paused.id) == "it is paused: resume it"
    assert await runs.why_waiting(draft.id) == "it is a draft: start it"
    await runs.resume(paused.id)
    await runs.start(draft.id)
    assert (await running.until(paused)).state == "passed"
    assert (await running.until(draft)).state == "passed"
    with pytest.raises(Conflict):
        await runs.start(draft.id)


async def test_what_cannot_pause_says_so(lab: Lab, start_engine: StartEngine) -> None:
    lab.plug("d1")
    running = await start_engine()
    run = await running.engine.runs.submit(asks("once", {"wait": "a"}))
    await running.until(run, "running")
    with pytest.raises(Conflict, match="cannot be paused"):
        await running.engine.runs.pause(run.id)


async def test_a_retry_is_a_new_run(lab: Lab, start_engine: StartEngine) -> None:
    lab.plug("d1")
    running = await start_engine()
    run = await running.engine.runs.submit(asks("told", {"fail": "bad"}, metadata={"x": 1}))
    await running.until(run)
    again = await running.engine.runs.retry(run.id, Actor("user:bob"))
    assert (again.retry_of, again.metadata, again.created_by) == (run.id, {"x": 1}, "user:bob")
    assert (await running.until(again)).state == "failed"


async def test_lists_are_paged_and_of_one_team(lab: Lab, start_engine: StartEngine) -> None:
    running = await start_engine()
    runs = running.engine.runs
    mine = [await runs.submit(asks()) for _ in range(5)]
    await runs.submit(asks(team_id=OTHER_TEAM))
    first = await runs.list(TEAM, limit=3)
    rest = await runs.list(TEAM, limit=3, before=first[-1].number)
    assert [run.id for run in first + rest] == [run.id for run in reversed(mine)]
    assert await runs.by_number(mine[2].number) == mine[2]
    await runs.cancel(mine[0].id)
    assert [run.id for run in await runs.list(TEAM, state=RunState.CANCELLED)] == [mine[0].id]


async def test_so_many_of_a_kind_are_admitted_at_once_oldest_first(lab: Lab, start_engine: StartEngine) -> None:
    runs = (await start_engine()).engine.runs
    drafts = [await runs.submit(asks("noop", draft=True)) for _ in range(4)]

    async def states() -> list[str]:
        return [str((await runs.get(draft.id)).state) for draft in drafts]

    assert [await runs.admit("noop", 2), await runs.admit("noop", 2)] == [2, 0]
    assert await states() == ["queued", "queued", "draft", "draft"]
    told: list[str] = []
    for _ in range(2):
        await runs.cancel(drafts[0].id, also=lambda _, run_id: told.append(run_id))
    assert told == [drafts[0].id], "what goes with the cancellation is done with it alone"
    assert await runs.admit("noop", 2) == 1
    assert await states() == ["cancelled", "queued", "queued", "draft"]
    assert await runs.admit("told", 2) == 0
