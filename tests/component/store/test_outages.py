"""What happens when the database is lost, locked or full, and after it."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trio
from sqlalchemy import Connection

from anvild.core.errors import StorageFull
from anvild.core.events import EventLog, append
from anvild.core.store import Store, database, open_store
from anvild.sdk import Unavailable
from tests.stores import PostgresCluster


def event(connection: Connection) -> int:
    return append(connection, "run.a", subject=("run", "1"))


def count(connection: Connection) -> int:
    found: int = connection.exec_driver_sql("SELECT count(*) FROM events").scalar_one()
    return found


@pytest.fixture
def server(postgres_cluster: PostgresCluster) -> Iterator[str]:
    name = postgres_cluster.migrated_database()
    yield postgres_cluster.url(name)
    postgres_cluster.drop(name)


@pytest.fixture
def file(migrated_sqlite: Path, tmp_path: Path) -> Path:
    path = tmp_path / "anvild.sqlite"
    path.write_bytes(migrated_sqlite.read_bytes())
    return path


@pytest.fixture
async def remote(server: str) -> AsyncIterator[Store]:
    async with open_store(server) as opened:
        yield opened


async def disconnect(cluster: PostgresCluster) -> None:
    """End all connections but those of the next test's own."""
    await trio.to_thread.run_sync(
        cluster.execute,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'anvild'",
    )


async def test_idle_connections_that_were_cut_are_made_again(remote: Store, postgres_cluster: PostgresCluster) -> None:
    assert await remote.write(event) == 1
    for _ in range(4):
        await remote.read(count)
    await disconnect(postgres_cluster)
    assert await remote.write(event) == 2
    for _ in range(4):
        assert await remote.read(count) == 2


async def test_a_job_whose_connection_is_cut_is_run_again(remote: Store, postgres_cluster: PostgresCluster) -> None:
    runs: list[int] = []

    def cut_once(connection: Connection) -> int:
        result = event(connection)
        runs.append(result)
        if len(runs) == 1:
            postgres_cluster.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'anvild'"
            )
            connection.exec_driver_sql("SELECT 1")
        return result

    assert await remote.write(cut_once) == runs[1]
    assert len(runs) == 2
    assert await remote.read(count) == 1


async def test_while_the_server_is_down_callers_are_told_and_then_it_works_again(
    remote: Store, postgres_cluster: PostgresCluster
) -> None:
    await remote.write(event)
    postgres_cluster.stop()
    try:
        for _ in range(3):
            with pytest.raises(Unavailable):
                await remote.write(event)
            with pytest.raises(Unavailable):
                await remote.read(count)
        assert not remote.statistics().connected
    finally:
        postgres_cluster.start()
    written = 1
    with trio.fail_after(60):
        while written == 1:
            try:
                await remote.write(event)
                written += 1
            except Unavailable:
                await trio.sleep(0.05)  # the store's own back-off lasts
        while True:
            try:
                assert await remote.read(count) == 2
                break
            except Unavailable:
                await trio.sleep(0.05)


async def test_a_follower_hears_of_another_daemon_after_the_listening_connection_was_cut(
    remote: Store, server: str, postgres_cluster: PostgresCluster, nursery: trio.Nursery
) -> None:
    log = EventLog(remote)
    await nursery.start(log.run)
    async with open_store(server) as other, log.follow(after=0) as follower:
        await other.write(event)
        assert (await anext(follower)).kind == "run.a"
        await disconnect(postgres_cluster)
        await other.write(event)
        with trio.fail_after(60):
            assert (await anext(follower)).kind == "run.a"


async def test_a_file_that_another_program_locks_is_unavailable(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.1)
    async with open_store(f"sqlite:///{file}") as store:
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE").close()
            with pytest.raises(Unavailable, match="locked"):
                await store.write(event)
            assert await store.read(count) == 0
            other.execute("ROLLBACK").close()
        assert await store.write(event) == 1


async def test_a_full_disk_fails_what_needs_space_and_nothing_else(file: Path) -> None:
    async with open_store(f"sqlite:///{file}") as store:
        pages = await store.write(lambda c: c.exec_driver_sql("PRAGMA page_count").scalar_one())

        def limit(connection: Connection) -> None:
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 4}").close()

        await store.write(limit)
        results: list[int | str] = []

        async def write(size: int) -> None:
            try:
                await store.write(lambda c: append(c, "run.a", subject=("run", "x" * size)))
                results.append(size)
            except StorageFull:
                results.append("full")

        async with trio.open_nursery() as nursery:
            for size in (10, 10, 100_000, 10, 100_000, 10):
                nursery.start_soon(write, size)
        assert sorted(results, key=str) == [10, 10, 10, 10, "full", "full"]
        assert await store.read(count) == 4
