"""What is removed when it is old, and what stays."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import Connection, func, select, text
from trio.testing import MockClock

from anvild.core.engine import Actor, RunState, journal
from anvild.core.engine.chores import tasks_of
from anvild.core.engine.retention import _old_leases, _old_runs, runs_retention
from anvild.core.engine.tables import attempts, devices, findings, leases, runs
from anvild.core.events import EventFilter
from anvild.core.ids import new_id
from anvild.core.retention import SLICE
from anvild.core.store import Store
from anvild.sdk import DeviceRequest, Requirements, Unavailable
from tests.support.lab import ALICE, Lab, StartEngine, asks

MAKE = {"fake": DeviceRequest(template="minimal", name="a capsule", identity="any")}


async def sizes(store: Store) -> dict[str, int]:
    def job(conn: Connection) -> dict[str, int]:
        tables = (runs, attempts, findings, leases, devices)
        return {table.name: conn.execute(select(func.count()).select_from(table)).scalar_one() for table in tables}

    return await store.read(job)


async def test_what_has_ended_long_ago_is_removed_with_all_that_belongs_to_it(
    lab: Lab, start_engine: StartEngine, mock_clock: MockClock
) -> None:
    lab.plug("d1")
    lab.slots = 1
    running = await start_engine()
    await running.after()
    (device,) = await running.engine.devices.list()
    wish = Requirements(make=MAKE, platforms=("fake",))
    first = await running.engine.runs.submit(asks("told", {"wait": "go"}, {"finding": "medium"}, {"file": "a.txt"}))
    made = await running.engine.runs.submit(asks("told", {"wait": "go"}, requirements=wish))
    await running.until(made, "running")
    lab.gate("go").set()
    for run in (first, made):
        assert (await running.until(run)).state == "passed"
    async with running.engine.session(device.id, ALICE):
        pass
    stays = await running.engine.runs.submit(asks("told", {"wait": "never"}))
    await running.until(stays, "running")
    mock_clock.autojump_threshold = 0.01  # from here on: a busy machine would let time pass while the runs are on
    before = await sizes(running.store)
    assert before == {"runs": 3, "attempts": 3, "findings": 1, "leases": 4, "devices": 2}

    assert await runs_retention(running.store, keep=timedelta(days=1)).sweep() == 0
    assert await sizes(running.store) == before
    assert await runs_retention(running.store, keep=timedelta(0)).sweep() == 3
    assert await sizes(running.store) == {"runs": 1, "attempts": 1, "findings": 0, "leases": 1, "devices": 1}
    assert (await running.engine.runs.get(stays.id)).state == "running"
    told = await running.events.read(where=EventFilter(kinds=("run.removed",)))
    assert {event.subject_id for event in told} == {first.id, made.id}
    assert [file.name for file in await running.artifacts.list(first.id)] == ["a.txt"]


async def test_a_run_stays_while_its_device_is_not_destroyed(lab: Lab, start_engine: StartEngine) -> None:
    lab.slots = 1
    running = await start_engine()
    run = await running.engine.runs.submit(asks("noop", requirements=Requirements(make=MAKE)))
    lab.destroy_error = Unavailable("the disk is busy")
    await running.until(run)
    await running.after()
    retention = runs_retention(running.store, keep=timedelta(0))
    assert await retention.sweep() == 0
    lab.destroy_error = None
    running.engine.driver("fake").tidy()
    await running.after()
    assert await retention.sweep() == 1
    assert sum((await sizes(running.store)).values()) == 0


async def test_many_are_removed_in_slices(store: Store, autojump_clock: MockClock) -> None:
    number = 2 * SLICE + 5

    def fill(conn: Connection) -> None:
        for _ in range(number):
            run = journal.insert_run(conn, new_id(), asks(draft=True), Actor())
            journal.move(conn, journal.run_row(conn, run.id), RunState.CANCELLED)

    await store.write(fill)
    writes = store.statistics().writes
    assert await runs_retention(store, keep=timedelta(0)).sweep() == number
    assert store.statistics().writes - writes == 5
    assert (await sizes(store))["runs"] == 0


async def test_what_is_old_is_found_by_its_indexes(store: Store) -> None:
    if store.dialect != "sqlite":
        return
    for statement in (_old_runs, _old_leases, tasks_of("bench-1", "fake")):
        plan = text(f"EXPLAIN QUERY PLAN {statement}")
        values = dict.fromkeys(plan.compile().params, 1)
        rows = await store.read(lambda conn, plan=plan, values=values: conn.execute(plan, values).all())
        details = [row[-1] for row in rows]
        assert details
        assert not [each for each in details if each.startswith("SCAN") or "TEMP B-TREE" in each], details
