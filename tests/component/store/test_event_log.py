"""The event log on both databases: reading, following without a gap, other writers, retention."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Sequence
from datetime import timedelta
from functools import partial

import pytest
import trio
import trio.testing
from sqlalchemy import Connection, update

from anvild.core.clock import utcnow
from anvild.core.events import EventFilter, EventLog, SlowReader, append
from anvild.core.events.tables import events
from anvild.core.ids import new_id
from anvild.core.store import Store, open_store
from anvild.sdk import Event


async def put(store: Store, *kinds: str, team_id: str | None = None, audit: bool = False) -> list[int]:
    def job(connection: Connection) -> list[int]:
        return [append(connection, kind, subject=("run", "r"), team_id=team_id, audit=audit) for kind in kinds]

    return await store.write(job)


@pytest.fixture
async def log(store: Store, nursery: trio.Nursery) -> EventLog:
    log = EventLog(store)
    await nursery.start(log.run)
    return log


async def test_an_event_comes_back_as_it_was_appended(store: Store, log: EventLog) -> None:
    team, run = new_id(), new_id()
    before = utcnow()
    async with log.follow(after=None) as follower:
        event_id = await store.write(
            lambda c: append(
                c,
                "run.failed",
                subject=("run", run),
                team_id=team,
                run_id=run,
                actor="user:7",
                data={"findings": (1, 2), "at": before},
                audit=True,
                ip="::1",
                user_agent="x",
            )
        )
        live = await anext(follower)
    [stored] = await log.read()
    assert live == stored
    assert before <= stored.at <= utcnow()
    assert stored == Event(
        id=event_id,
        at=stored.at,
        kind="run.failed",
        subject_type="run",
        subject_id=run,
        team_id=team,
        run_id=run,
        actor="user:7",
        data={"findings": [1, 2], "at": before.isoformat().replace("+00:00", "Z")},
        audit=True,
        ip="::1",
        user_agent="x",
    )


async def test_pages_forwards_and_backwards(store: Store, log: EventLog) -> None:
    ids = await put(store, *["run.a"] * 7)
    assert [event.id for event in await log.read(after=ids[1], limit=3)] == ids[2:5]
    assert [event.id for event in await log.read(newest_first=True, limit=2)] == ids[:4:-1]
    assert [event.id for event in await log.read(newest_first=True, before=ids[2])] == ids[1::-1]


class Told:
    """A callback that keeps what it is told, and lets a test wait for it."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._parking = trio.lowlevel.ParkingLot()

    def __call__(self, events: Sequence[Event]) -> None:
        self.events += events
        self._parking.unpark_all()

    async def count(self, number: int) -> None:
        while len(self.events) < number:
            await self._parking.park()


async def test_an_event_of_a_job_that_fails_never_happened(store: Store, log: EventLog) -> None:
    told = Told()
    log.on_commit(told)

    def job(connection: Connection) -> None:
        append(connection, "run.ghost", subject=("run", "r"))
        raise KeyError

    with pytest.raises(KeyError):
        await store.write(job)
    await put(store, "run.real")
    await told.count(1)
    assert [event.kind for event in told.events] == ["run.real"]
    assert [event.kind for event in await log.read()] == ["run.real"]


async def test_a_callback_hears_of_commits_in_order_until_it_is_ended(store: Store, log: EventLog) -> None:
    told = Told()
    end = log.on_commit(told)
    ids = await put(store, "run.a", "run.b")
    ids += await put(store, "run.c")
    await told.count(3)
    assert [event.id for event in told.events] == ids
    assert log.last_id == ids[-1]
    end()
    other = Told()
    log.on_commit(other)
    await put(store, "run.d")
    await other.count(1)
    assert len(told.events) == 3


async def test_a_broken_callback_disturbs_nobody(store: Store, log: EventLog, caplog: pytest.LogCaptureFixture) -> None:
    def broken(events: Sequence[Event]) -> None:
        raise ValueError("broken")

    told = Told()
    log.on_commit(broken)
    log.on_commit(told)
    await put(store, "run.a")
    await told.count(1)
    assert "observer" in caplog.text


@pytest.mark.parametrize("replayed", [0, 3, 499, 500, 501, 1203])
async def test_a_follower_gets_the_log_and_then_what_comes(store: Store, log: EventLog, replayed: int) -> None:
    first = (await put(store, "run.before"))[0]
    ids = await put(store, *["run.a"] * replayed) if replayed else []
    async with log.follow(after=first) as follower:
        for expected in ids:
            assert (await anext(follower)).id == expected
        later = await put(store, "run.b", "run.c")
        assert [(await anext(follower)).id for _ in later] == later


async def test_followers_miss_nothing_while_others_write(store: Store, log: EventLog) -> None:
    seen: list[list[int]] = []

    async def follow(after: int) -> None:
        got: list[int] = []
        seen.append(got)
        async with log.follow(after=after, buffer=10_000) as follower:
            while len(got) < 400:
                got += [event.id for event in await follower.batch()]

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(put, store, "run.a", "run.b", "run.c", "run.d")
                nursery.start_soon(follow, 0)
    everything = [event.id for event in await log.read(limit=1000)]
    assert len(everything) == 400
    assert all(got == everything for got in seen)


async def test_a_slow_reader_is_cut_off_and_resumes(store: Store, log: EventLog) -> None:
    async with log.follow(after=None, buffer=5) as slow, log.follow(after=None) as quick:
        ids = await put(store, *["run.a"] * 8)
        assert [event.id for event in await quick.batch()] == ids
        got = [(await anext(slow)).id for _ in range(5)]
        with pytest.raises(SlowReader) as caught:
            await anext(slow)
    assert caught.value.details == {"last_id": ids[4]}
    async with log.follow(after=got[-1]) as again:
        got += [event.id for event in await again.batch()]
    assert got == ids


async def test_a_cursor_beyond_the_end_is_the_end(store: Store, log: EventLog) -> None:
    await put(store, "run.a")
    async with log.follow(after=10**9) as follower:
        [expected] = await put(store, "run.b")
        assert (await anext(follower)).id == expected


async def test_a_follower_gets_only_what_it_wants(store: Store, log: EventLog) -> None:
    mine, other = new_id(), new_id()
    await put(store, "run.a", team_id=mine)
    async with log.follow(after=0, where=EventFilter(team_id=mine, kinds=("run.", "key.made"))) as follower:
        await put(store, "run.b", team_id=other)
        await put(store, "key.made", "key.used", team_id=mine)
        await put(store, "run.lab")
        await put(store, "run.c", team_id=mine)
        assert [(await anext(follower)).kind for _ in range(3)] == ["run.a", "key.made", "run.c"]
        assert log.statistics().followers == 1
    assert log.statistics().followers == 0


async def test_what_is_written_beside_the_daemon_is_found(
    store_url: str, mock_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    """On PostgreSQL by its notification; on SQLite, where only commands write beside it, by the slow sweep."""
    async with open_store(store_url) as store, open_store(store_url) as beside:
        log = EventLog(store)
        await nursery.start(log.run)
        async with log.follow(after=0) as follower:
            [expected] = await put(beside, "user.created")
            if store.dialect == "sqlite":
                await trio.testing.wait_all_tasks_blocked(0.01)
                mock_clock.jump(10)
            assert (await anext(follower)).id == expected
        nursery.cancel_scope.cancel()


async def test_old_events_are_removed_and_audit_ones_kept_longer(store: Store) -> None:
    log = EventLog(store, keep=timedelta(days=30), keep_audit=timedelta(days=365))
    ids = [(await put(store, f"run.{days}", audit=audit))[0] for days, audit in AGES]
    for event_id, (days, _) in zip(ids, AGES, strict=True):
        old = utcnow() - timedelta(days=days)
        statement = update(events).where(events.c.id == event_id).values(at=old)
        await store.write(partial(Connection.execute, statement=statement))
    assert await log.trim() == 2
    assert [event.kind for event in await log.read()] == ["run.40", "run.29", "run.0"]


AGES = [(400, True), (40, True), (31, False), (29, False), (0, False)]


async def test_retention_works_in_slices(store: Store) -> None:
    log = EventLog(store, keep=timedelta(0))
    await put(store, *["run.a"] * 2500)
    assert await log.trim() == 2500
    [event_id] = await put(store, "run.b")
    assert event_id > 2500  # an id is never given twice


WRITER = """
import random, sys, time, trio
from anvild.core.events import append
from anvild.core.store import open_store

async def main():
    async with open_store(sys.argv[1]) as store, trio.open_nursery() as nursery:
        async def write(number):
            for step in range(10):
                def job(connection):
                    append(connection, "run.b", subject=("run", f"{sys.argv[2]}-{number}-{step}"))
                    time.sleep(random.random() / 500)  # the id is given, and another writer may commit meanwhile
                    if step % 5 == 0:
                        raise KeyError
                try:
                    await store.write(job)
                except KeyError:
                    pass
        print("ready", flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)
        for number in range(10):
            nursery.start_soon(write, number)

trio.run(main)
"""


async def test_a_cursor_never_misses_an_event_of_concurrent_writers_in_several_processes(
    store: Store, log: EventLog, store_url: str
) -> None:
    every = itertools.product(range(2), range(10), range(10))
    expected = {f"{process}-{number}-{step}" for process, number, step in every if step % 5}
    written = EventFilter(kinds=("run.b",))
    polled: list[str] = []
    followed: list[str] = []
    finished = trio.Event()

    async def poll() -> None:
        position = 0
        while True:
            done = finished.is_set()
            page = await log.read(after=position, limit=7, where=written)
            if page:
                position = page[-1].id
                polled.extend(event.subject_id for event in page)
            elif done:
                return

    async def follow() -> None:
        async with log.follow(after=0, buffer=1000, where=written) as follower:
            while len(followed) < len(expected):
                followed.extend(event.subject_id for event in await follower.batch())

    async def start(process: int, nursery: trio.Nursery) -> trio.Process:
        command = [sys.executable, "-c", WRITER, store_url, str(process)]
        open_process = partial(trio.run_process, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started: trio.Process = await nursery.start(open_process)
        return started

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(poll)
            nursery.start_soon(follow)
            async with trio.open_nursery() as writers:
                processes = [await start(process, writers) for process in range(2)]
                for process in processes:
                    assert process.stdout is not None
                    assert await process.stdout.receive_some()
                for process in processes:
                    assert process.stdin is not None
                    await process.stdin.send_all(b"go\n")
            finished.set()
            await put(store, "run.last")  # on SQLite our own commit shows what the other processes wrote before it
    assert len(polled) == len(followed) == len(expected)  # nothing twice
    assert set(polled) == set(followed) == expected
