"""Artifacts on both databases: in and out, cancelled, over a limit, on a full disk, swept."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pytest
import trio
import trio.testing
from sqlalchemy import update

from anvild.core.artifacts import Artifact, Artifacts, open_artifacts
from anvild.core.artifacts.tables import artifacts as table
from anvild.core.clock import utcnow
from anvild.core.errors import Forbidden, StorageFull, TooLarge
from anvild.core.events import EventLog
from anvild.core.ids import new_id
from anvild.core.store import Store
from anvild.sdk import InvalidArgument, NotFound, Unavailable


@pytest.fixture
async def artifacts(store: Store, tmp_path: Path) -> Artifacts:
    return await open_artifacts(store, tmp_path, grace=60.0)


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        await trio.lowlevel.checkpoint()
        yield part


async def put(artifacts: Artifacts, *parts: bytes, run_id: str | None = None, team_id: str | None = None) -> Artifact:
    return await artifacts.put(chunks(*parts), team_id=team_id, run_id=run_id, name="log.txt", media_type="text/plain")


async def content(artifacts: Artifacts, artifact: Artifact, **where: int) -> bytes:
    async with artifacts.open(artifact, **where) as stream:  # type: ignore[arg-type]
        return b"".join([chunk async for chunk in stream])


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "artifacts").rglob("*") if path.is_file())


async def test_what_goes_in_comes_out(artifacts: Artifacts, tmp_path: Path) -> None:
    run = new_id()
    data = os.urandom(3_000_000)
    stored = await put(artifacts, *(data[at : at + 65_536] for at in range(0, len(data), 65_536)), run_id=run)
    assert stored.sha256 == hashlib.sha256(data).hexdigest()
    assert stored.size == len(data)
    assert await artifacts.get(stored.id) == stored
    assert await artifacts.list(run) == [stored]
    assert await content(artifacts, stored) == data
    assert await content(artifacts, stored, offset=2_999_990) == data[-10:]
    assert await content(artifacts, stored, offset=100, length=1_000_000) == data[100:1_000_100]
    assert await content(artifacts, stored, offset=len(data)) == b""
    assert files(tmp_path) == [stored.sha256]


@pytest.mark.parametrize(("offset", "length"), [(-1, None), (4, None), (0, 4), (2, 2), (2, -1)])
async def test_a_range_outside_is_refused(artifacts: Artifacts, offset: int, length: int | None) -> None:
    stored = await put(artifacts, b"abc")
    with pytest.raises(InvalidArgument):
        async with artifacts.open(stored, offset=offset, length=length):
            pytest.fail("it was opened")


async def test_an_empty_artifact_is_one(artifacts: Artifacts) -> None:
    assert await content(artifacts, await put(artifacts)) == b""


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 256])
async def test_a_name_that_cannot_be_shown_is_refused(artifacts: Artifacts, name: str) -> None:
    with pytest.raises(InvalidArgument):
        await artifacts.put(chunks(b"x"), team_id=None, run_id=None, name=name, media_type="text/plain")


async def test_equal_contents_share_a_file(artifacts: Artifacts, tmp_path: Path) -> None:
    first, second = await put(artifacts, b"same"), await put(artifacts, b"sa", b"me")
    assert first.id != second.id
    assert files(tmp_path) == [first.sha256]


async def test_an_artifact_is_stored_with_its_event(artifacts: Artifacts, store: Store) -> None:
    team, run = new_id(), new_id()
    stored = await put(artifacts, b"x", run_id=run, team_id=team)
    [event] = await EventLog(store).read()
    assert (event.kind, event.subject_id, event.team_id, event.run_id) == ("artifact.stored", stored.id, team, run)


async def test_what_is_not_there_is_not_found(artifacts: Artifacts, tmp_path: Path) -> None:
    for unknown in (new_id(), "nonsense"):
        with pytest.raises(NotFound):
            await artifacts.get(unknown)
    stored = await put(artifacts, b"x")
    next((tmp_path / "artifacts").rglob(stored.sha256)).unlink()
    with pytest.raises(Unavailable):
        await content(artifacts, stored)


async def test_a_large_file_needs_little_memory(artifacts: Artifacts) -> None:
    async def large() -> AsyncIterator[bytes]:
        for number in range(256):
            yield number.to_bytes(1, "big") * 262_144

    tracemalloc.start()
    try:
        stored = await artifacts.put(large(), team_id=None, run_id=None, name="large", media_type="x/y")
        async with artifacts.open(stored) as stream:
            async for _ in stream:
                pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert stored.size == 67_108_864
    assert peak < 8_000_000


async def test_a_cancelled_upload_leaves_nothing(artifacts: Artifacts, store: Store, tmp_path: Path) -> None:
    reached = trio.Event()

    async def stalled() -> AsyncIterator[bytes]:
        yield b"x" * 2_000_000
        reached.set()
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: artifacts.put(stalled(), team_id=None, run_id=None, name="n", media_type="x/y"))
        await reached.wait()
        assert len(files(tmp_path)) == 1
        nursery.cancel_scope.cancel()
    assert files(tmp_path) == []
    assert await EventLog(store).read() == []


@pytest.mark.parametrize("checkpoints", range(1, 12))
async def test_cancelled_anywhere_it_is_stored_or_not_but_never_half(
    artifacts: Artifacts, store: Store, tmp_path: Path, checkpoints: int
) -> None:
    with trio.CancelScope() as scope:

        async def cancel_later() -> None:
            for _ in range(checkpoints):
                await trio.testing.wait_all_tasks_blocked(0.0)
            scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancel_later)
            await put(artifacts, b"abc")
            nursery.cancel_scope.cancel()
    rows = await store.read(
        lambda connection: connection.scalars(table.select().with_only_columns(table.c.sha256)).all()
    )
    assert files(tmp_path) == list(rows)


async def test_an_upload_whose_source_fails_leaves_nothing(artifacts: Artifacts, tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await artifacts.put(broken(), team_id=None, run_id=None, name="n", media_type="x/y")
    assert files(tmp_path) == []


async def test_limits_are_kept(store: Store, tmp_path: Path) -> None:
    artifacts = await open_artifacts(store, tmp_path, lab_quota=1000, team_quota=600)
    one, two = new_id(), new_id()
    with pytest.raises(TooLarge):
        await artifacts.put(chunks(b"x" * 11), team_id=one, run_id=None, name="n", media_type="x/y", limit=10)
    await put(artifacts, b"a" * 600, team_id=one)
    with pytest.raises(StorageFull, match="team"):
        await put(artifacts, b"a", team_id=one)
    await put(artifacts, b"b" * 400, team_id=two)
    with pytest.raises(StorageFull, match="lab"):
        await put(artifacts, b"b", team_id=two)
    again = await open_artifacts(store, tmp_path, lab_quota=1000, team_quota=600)
    with pytest.raises(StorageFull):
        await put(again, b"a", team_id=one)
    assert len(files(tmp_path)) == 2


async def test_a_sweep_makes_room_by_the_oldest(store: Store, tmp_path: Path) -> None:
    artifacts = await open_artifacts(store, tmp_path, lab_quota=1000, grace=0)
    stored = [await put(artifacts, bytes([number]) * 100) for number in range(10)]
    report = await artifacts.sweep()
    assert (report.evicted, report.files, report.bytes) == (1, 1, 100)
    with pytest.raises(NotFound):
        await artifacts.get(stored[0].id)
    assert await content(artifacts, await artifacts.get(stored[1].id)) == bytes([1]) * 100


async def test_the_disk_keeps_a_reserve(store: Store, tmp_path: Path) -> None:
    artifacts = await open_artifacts(store, tmp_path, reserve=1 << 60)
    with pytest.raises(StorageFull, match="stay free"):
        await put(artifacts, b"x")
    assert files(tmp_path) == []


async def test_a_sweep_removes_what_is_too_old(
    artifacts: Artifacts, store: Store, tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    old, shared, new = await put(artifacts, b"old"), await put(artifacts, b"both"), await put(artifacts, b"both")
    long_ago = utcnow() - timedelta(days=91)
    statement = update(table).where(table.c.id.in_([old.id, shared.id])).values(stored_at=long_ago)
    await store.write(lambda connection: connection.execute(statement))
    report = await artifacts.sweep()
    assert (report.expired, report.files) == (2, 0)
    assert len(files(tmp_path)) == 2  # a backup that has copied the rows must still find them
    mock_clock.jump(61)
    assert (await artifacts.sweep()).files == 1
    assert files(tmp_path) == [new.sha256]
    kinds = [event.kind for event in await EventLog(store).read()]
    assert kinds == ["artifact.stored"] * 3 + ["artifact.expired"] * 2


async def test_what_a_team_keeps_without_a_run_is_listed_and_removed(artifacts: Artifacts, store: Store) -> None:
    team, other = new_id(), new_id()
    one, two = await put(artifacts, b"one", team_id=team), await put(artifacts, b"two", team_id=team)
    await put(artifacts, b"one", team_id=team, run_id=new_id())
    foreign = await put(artifacts, b"one", team_id=other)
    assert await artifacts.without_run(team) == [one, two]
    assert await artifacts.without_run(team, sha256=one.sha256) == [one]
    for _ in range(2):
        await artifacts.remove(one, actor="user:somebody")
    assert await artifacts.without_run(team) == [two]
    assert await content(artifacts, foreign) == b"one"
    events = await EventLog(store).read()
    assert [(event.kind, event.actor) for event in events[4:]] == [("artifact.removed", "user:somebody")]


async def test_a_file_that_is_stored_again_in_time_survives_the_sweep(
    artifacts: Artifacts, store: Store, tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    first = await put(artifacts, b"again")
    await store.write(lambda connection: connection.execute(table.delete()))
    await artifacts.sweep()
    mock_clock.jump(61)
    second = await put(artifacts, b"again")
    assert (await artifacts.sweep()).files == 0
    assert await content(artifacts, second) == b"again"
    assert first.sha256 == second.sha256


async def test_sweeping_never_removes_what_is_being_stored(store: Store, tmp_path: Path) -> None:
    artifacts = await open_artifacts(store, tmp_path, grace=0)
    stored: list[Artifact] = []

    async def keep_storing(number: int) -> None:
        for step in range(15):
            stored.append(await put(artifacts, f"{number % 2}-{step}".encode()))

    async def keep_sweeping(until: Callable[[], bool]) -> None:
        while not until():
            await artifacts.sweep()

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(keep_storing, number)
        nursery.start_soon(keep_sweeping, lambda: len(stored) == 60)
    for artifact in stored:
        assert hashlib.sha256(await content(artifacts, artifact)).hexdigest() == artifact.sha256


async def test_a_sweep_removes_what_a_killed_daemon_left(artifacts: Artifacts, tmp_path: Path) -> None:
    (tmp_path / "artifacts" / "incoming" / "half").write_bytes(b"half")
    await artifacts.sweep()
    assert files(tmp_path) == []


async def test_tokens_open_one_artifact_for_a_while(
    artifacts: Artifacts, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact_id = new_id()
    token = artifacts.sign(artifact_id, lifetime=60)
    assert artifacts.verify(token) == artifact_id
    assert (await open_artifacts(store, tmp_path)).verify(token) == artifact_id
    for position in range(len(token)):
        changed = token[:position] + ("A" if token[position] != "A" else "B") + token[position + 1 :]
        with pytest.raises(Forbidden):
            artifacts.verify(changed)
    for nonsense in ("", "x", "ü", token[:-4], token + "AAAA"):
        with pytest.raises(Forbidden):
            artifacts.verify(nonsense)
    with pytest.raises(Forbidden, match="expired"):
        artifacts.verify(artifacts.sign(artifact_id, lifetime=-1))
    other = await open_artifacts(store, tmp_path / "other")
    with pytest.raises(Forbidden):
        other.verify(token)
    assert stat.S_IMODE((tmp_path / "artifacts.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "artifacts").stat().st_mode) == 0o700


FULL_DISK = """
import sys, trio
from pathlib import Path
from anvild.core.artifacts import open_artifacts
from anvild.core.errors import StorageFull
from anvild.core.ids import new_id
from anvild.core.store import open_store

async def source(megabytes):
    for _ in range(megabytes):
        yield b"x" * 1_048_576

async def main():
    directory = Path(sys.argv[1])
    async with open_store(f"sqlite:///{directory}/anvild.sqlite") as store:
        artifacts = await open_artifacts(store, directory, reserve=0)
        put = lambda megabytes: artifacts.put(source(megabytes), team_id=None, run_id=None, name="n", media_type="x/y")
        for _ in range(3):
            try:
                await put(16)
            except StorageFull as error:
                print("full:", error)
            else:
                raise SystemExit("a disk of 8 MiB took 16 MiB")
        assert not [path for path in (directory / "artifacts").rglob("*") if path.is_file()]
        await put(2)

        ballast = directory / "ballast"
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 4096)
            except OSError:
                pass
        from anvild.core.events import append
        try:
            while True:
                await store.write(lambda connection: append(connection, "run.a", subject=("run", "x" * 100_000)))
        except StorageFull as error:
            print("full:", error)
        count = lambda connection: connection.exec_driver_sql("SELECT count(*) FROM events").scalar_one()
        before = await store.read(count)
        ballast.unlink()
        await store.write(lambda connection: append(connection, "run.b", subject=("run", "1")))
        assert await store.read(count) == before + 1

trio.run(main)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="makes a small disk with Linux namespaces")
def test_a_full_disk_is_told_and_recovered_from(tmp_path: Path) -> None:
    """On a real file system of 8 MiB, in a mount namespace of its own."""
    script = f'mount -t tmpfs -o size=8m tmpfs "{tmp_path}" && exec "$0" -c "$1" "{tmp_path}"'
    namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, sys.executable, FULL_DISK]
    done = subprocess.run(namespace, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("is full") == 4
