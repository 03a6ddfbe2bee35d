"""The store on both databases: results, errors, isolation, cancellation, closing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import trio
import trio.testing
from sqlalchemy import Column, Connection, Integer, MetaData, Table, Text, insert, select
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError

from anvild.core.ids import new_id
from anvild.core.store import Id, Json, Store, StoreError, Timestamp, announce, open_store
from anvild.core.store.threads import Writer
from anvild.sdk import NotFound

things = Table(
    "things",
    MetaData(),
    Column("number", Integer, primary_key=True),
    Column("id", Id),
    Column("at", Timestamp),
    Column("data", Json),
    Column("note", Text),
)


@pytest.fixture
async def things_store(store: Store) -> Store:
    await store.write(things.create)
    return store


def put(number: int, note: str = "") -> Callable[[Connection], int]:
    def job(connection: Connection) -> int:
        connection.execute(insert(things).values(number=number, note=note))
        return number

    return job


def fail_after(number: int) -> Callable[[Connection], int]:
    def job(connection: Connection) -> int:
        connection.execute(insert(things).values(number=number))
        raise KeyError(number)

    return job


def numbers(connection: Connection) -> list[int]:
    return list(connection.scalars(select(things.c.number).order_by(things.c.number)))


class Gate:
    """A job that holds the writer until it is opened, so that what is queued meanwhile becomes one group."""

    def __init__(self) -> None:
        self._entered = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        self._open = threading.Event()

    def job(self, connection: Connection) -> None:
        self._token.run_sync_soon(self._entered.set)
        self._open.wait()

    async def closed(self) -> None:
        await self._entered.wait()

    def open(self) -> None:
        self._open.set()


async def test_a_write_is_seen_by_a_later_read(things_store: Store) -> None:
    assert await things_store.write(put(1)) == 1
    assert await things_store.read(numbers) == [1]


async def test_column_types_come_back_as_they_went_in(things_store: Store) -> None:
    row = {
        "number": 1,
        "id": new_id(),
        "at": datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=timezone(timedelta(hours=1))),
        "data": {"list": [1, 2.5, None, "ü"], "deep": {"x": True}},
        "note": None,
    }
    await things_store.write(lambda c: c.execute(insert(things).values(row)))
    found = await things_store.read(lambda c: c.execute(select(things)).mappings().one())
    assert dict(found) == row
    assert found["at"].tzinfo is UTC
    upper = select(things.c.number).where(things.c.id == str(row["id"]).upper())
    assert await things_store.read(lambda c: c.scalar(upper)) == 1


async def test_a_text_that_is_no_id_names_nothing(things_store: Store) -> None:
    with pytest.raises(NotFound, match="'robert'"):
        await things_store.read(lambda c: c.execute(select(things).where(things.c.id == "robert")))


async def test_a_datetime_without_zone_is_refused(things_store: Store) -> None:
    with pytest.raises(StatementError, match="no time zone"):
        await things_store.write(lambda c: c.execute(insert(things).values(number=1, at=datetime(2026, 1, 1))))


async def test_a_reader_cannot_write(things_store: Store) -> None:
    with pytest.raises((DBAPIError, StoreError)):
        await things_store.read(put(1))
    await things_store.write(put(2))
    assert await things_store.read(numbers) == [2]


async def test_many_writers_share_a_transaction(things_store: Store) -> None:
    gate = Gate()
    before = things_store.statistics().transactions
    async with trio.open_nursery() as nursery:
        nursery.start_soon(things_store.write, gate.job)
        await gate.closed()
        for number in range(100):
            nursery.start_soon(things_store.write, put(number))
        await trio.testing.wait_all_tasks_blocked()
        gate.open()
    assert await things_store.read(numbers) == list(range(100))
    after = things_store.statistics()
    assert after.transactions - before == 2
    assert after.largest_group == 100


async def test_only_the_bad_jobs_of_a_group_fail(things_store: Store) -> None:
    gate = Gate()
    errors: dict[int, BaseException] = {}

    async def write(number: int, job: Callable[[Connection], int]) -> None:
        try:
            await things_store.write(job)
        except Exception as error:
            errors[number] = error

    await things_store.write(put(7))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(things_store.write, gate.job)
        await gate.closed()
        for number in range(10):
            nursery.start_soon(write, number, fail_after(number) if number in (3, 4) else put(number))
        await trio.testing.wait_all_tasks_blocked()
        gate.open()
    assert {number: type(error) for number, error in errors.items()} == {3: KeyError, 4: KeyError, 7: IntegrityError}
    assert await things_store.read(numbers) == [0, 1, 2, 5, 6, 7, 8, 9]
    assert things_store.statistics().failed == 3


async def test_an_error_that_comes_with_the_commit_hits_only_its_job(store: Store) -> None:
    def schema(connection: Connection) -> None:
        connection.exec_driver_sql("CREATE TABLE parent (id integer PRIMARY KEY)")
        connection.exec_driver_sql(
            "CREATE TABLE child (id integer REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)"
        )

    def orphan(connection: Connection) -> None:
        connection.exec_driver_sql("INSERT INTO child VALUES (1)")

    def parent(connection: Connection) -> None:
        connection.exec_driver_sql("INSERT INTO parent VALUES (2)")

    await store.write(schema)
    gate = Gate()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.write, gate.job)
        await gate.closed()

        async def orphaned() -> None:
            with pytest.raises(IntegrityError):
                await store.write(orphan)

        nursery.start_soon(orphaned)
        nursery.start_soon(store.write, parent)
        await trio.testing.wait_all_tasks_blocked()
        gate.open()
    assert await store.read(lambda c: c.exec_driver_sql("SELECT count(*) FROM parent").scalar()) == 1
    assert await store.read(lambda c: c.exec_driver_sql("SELECT count(*) FROM child").scalar()) == 0


async def test_a_queued_write_that_is_cancelled_has_no_effect(things_store: Store) -> None:
    gate = Gate()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(things_store.write, gate.job)
        await gate.closed()
        with trio.move_on_after(0) as scope:
            await things_store.write(put(1))
        assert scope.cancelled_caught
        nursery.start_soon(things_store.write, put(2))
        await trio.testing.wait_all_tasks_blocked()
        gate.open()
    assert await things_store.read(numbers) == [2]


async def test_a_write_that_has_begun_commits_although_its_caller_is_cancelled(things_store: Store) -> None:
    gate = Gate()

    def job(connection: Connection) -> str:
        gate.job(connection)
        put(1)(connection)
        return "done"

    results: list[str] = []
    async with trio.open_nursery() as nursery:

        async def write() -> None:
            results.append(await things_store.write(job))
            await trio.lowlevel.checkpoint()
            results.append("went on")

        nursery.start_soon(write)
        await gate.closed()
        nursery.cancel_scope.cancel()
        gate.open()
    assert results == ["done"]
    assert await things_store.read(numbers) == [1]


async def test_a_read_that_has_begun_lets_its_caller_go_at_once(things_store: Store) -> None:
    gate = Gate()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(things_store.read, gate.job)
        await gate.closed()
        nursery.cancel_scope.cancel()
    gate.open()
    assert await things_store.read(numbers) == []


async def test_closing_finishes_what_is_queued_and_refuses_more(store_url: str) -> None:
    async with trio.open_nursery() as nursery, open_store(store_url) as store:
        await store.write(things.create)
        gate = Gate()
        nursery.start_soon(store.write, gate.job)
        await gate.closed()
        for number in range(5):
            nursery.start_soon(store.write, put(number))
        await trio.testing.wait_all_tasks_blocked()
        gate.open()
    with pytest.raises(StoreError, match="closed"):
        await store.write(put(9))
    with pytest.raises(StoreError, match="closed"):
        await store.read(numbers)
    async with open_store(store_url) as again:
        assert await again.read(numbers) == [0, 1, 2, 3, 4]


async def test_a_full_queue_holds_its_writers_back(things_store: Store) -> None:
    gate = Gate()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(things_store.write, gate.job)
        await gate.closed()
        for number in range(5000):
            nursery.start_soon(things_store.write, put(number))
        await trio.testing.wait_all_tasks_blocked()
        assert things_store.statistics().writes_waiting < 4096
        gate.open()
    assert len(await things_store.read(numbers)) == 5000


async def test_only_a_write_job_announces(things_store: Store) -> None:
    with pytest.raises(RuntimeError, match=r"Store\.write"):
        await things_store.read(lambda connection: announce(connection, "x"))


async def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be opened"):
        async with open_store(f"sqlite:///{tmp_path}/file/anvild.sqlite"):
            pytest.fail("it was opened")


@pytest.mark.parametrize("url", ["mysql://localhost/x", "nonsense", "sqlite://"])
async def test_a_url_of_no_known_database_is_refused(url: str) -> None:
    with pytest.raises(StoreError):
        async with open_store(url):
            pytest.fail("it was opened")


async def test_a_defect_of_the_writer_leaves_nobody_waiting(
    things_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(self: Writer, group: object) -> None:
        raise AssertionError("a defect")

    with monkeypatch.context() as broken:
        broken.setattr(Writer, "_serve", defect)
        with pytest.raises(AssertionError, match="a defect"):
            await things_store.write(put(1))
    await things_store.write(put(2))
    assert await things_store.read(numbers) == [2]
