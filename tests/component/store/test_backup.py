"""Backup of a store that is being written to, and restore into nothing."""

from __future__ import annotations

import io
import stat
import sys
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
import trio

from anvild.core.artifacts import Artifact, open_artifacts
from anvild.core.backup import Manifest, backup, restore
from anvild.core.events import EventLog, append
from anvild.core.store import Store, StoreError, open_store
from tests.stores import PostgresCluster

PROGRAM = """
import sys
from pathlib import Path
from anvild.core.backup import backup
backup(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
"""


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "store"  # where store_url has its SQLite file
    directory.mkdir(exist_ok=True)
    return directory


def leftovers(data_dir: Path) -> list[Path]:
    return list(data_dir.glob(".backup-*"))


@pytest.fixture
def restored_url(store_url: str, tmp_path: Path, postgres_cluster: PostgresCluster) -> Iterator[str]:
    """Where the database of ``store_url`` is restored to, in ``tmp_path / "restored"``."""
    if store_url.startswith("sqlite"):
        yield f"sqlite:///{tmp_path}/restored/anvild.sqlite"
    else:
        name = postgres_cluster.empty_database()
        yield postgres_cluster.url(name)
        postgres_cluster.drop(name)


async def one(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def test_a_backup_of_a_running_daemon_is_one_consistent_state(
    store: Store, store_url: str, data_dir: Path, tmp_path: Path, restored_url: str
) -> None:
    artifacts = await open_artifacts(store, data_dir)
    (data_dir / "secret.key").write_text("key")
    (data_dir / "secret.key").chmod(0o600)
    (data_dir / "pipelines").mkdir()
    (data_dir / "pipelines" / "own.toml").write_text("own")
    stored: list[Artifact] = []
    archive = tmp_path / "backup.tar"

    async def keep_storing() -> None:
        while True:
            content = f"content {len(stored)}".encode()
            stored.append(
                await artifacts.put(one(content), team_id=None, run_id=None, name="log", media_type="text/plain")
            )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_storing)
        await trio.run_process([sys.executable, "-c", PROGRAM, str(data_dir), store_url, str(archive)])
        nursery.cancel_scope.cancel()
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    assert not leftovers(data_dir)

    there = tmp_path / "restored"
    manifest = await trio.to_thread.run_sync(restore, archive, there, restored_url)
    assert manifest.database == store.dialect
    assert (there / "secret.key").read_text() == "key"
    assert stat.S_IMODE((there / "secret.key").stat().st_mode) == 0o600
    assert (there / "pipelines" / "own.toml").read_text() == "own"
    assert {path.name for path in there.iterdir()} - {"anvild.sqlite"} == {
        "artifacts",
        "artifacts.key",
        "pipelines",
        "secret.key",
    }
    async with open_store(restored_url) as again:
        events = await EventLog(again).read(limit=100_000)
        assert 0 < len(events) < len(stored)
        copies = await open_artifacts(again, there)
        for number, event in enumerate(events):
            artifact = await copies.get(event.subject_id)
            assert artifact == stored[number]
            async with copies.open(artifact) as stream:
                assert b"".join([chunk async for chunk in stream]) == f"content {number}".encode()
        assert copies.verify(artifacts.sign(artifact.id, lifetime=60)) == artifact.id
        newest = await again.write(lambda connection: append(connection, "run.a", subject=("run", "1")))
        assert newest > events[-1].id


async def test_a_backup_overwrites_nothing(store: Store, store_url: str, data_dir: Path, tmp_path: Path) -> None:
    archive = tmp_path / "backup.tar"
    archive.write_text("mine")
    with pytest.raises(StoreError, match="exists"):
        backup(data_dir, store_url, archive)
    assert archive.read_text() == "mine"


async def test_what_a_killed_backup_left_is_removed(
    store: Store, store_url: str, data_dir: Path, tmp_path: Path
) -> None:
    (data_dir / ".backup-killed" / "artifacts").mkdir(parents=True)
    backup(data_dir, store_url, tmp_path / "backup.tar")
    assert not leftovers(data_dir)


def test_without_a_database_there_is_nothing_to_back_up(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nothing to back up"):
        backup(tmp_path, f"sqlite:///{tmp_path}/anvild.sqlite", tmp_path / "backup.tar")


@pytest.fixture
def archive(migrated_sqlite: Path, tmp_path: Path) -> Path:
    """A backup of an empty daemon."""
    backup(migrated_sqlite.parent, f"sqlite:///{migrated_sqlite}", tmp_path / "backup.tar")
    return tmp_path / "backup.tar"


def test_a_directory_that_is_not_empty_is_not_restored_into(archive: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir(mode=0o750)
    restore(archive, there)
    assert stat.S_IMODE(there.stat().st_mode) == 0o750
    before = sorted(there.iterdir())
    with pytest.raises(StoreError, match="not empty"):
        restore(archive, there)
    assert sorted(there.iterdir()) == before


def test_a_damaged_archive_leaves_nothing(archive: Path, tmp_path: Path) -> None:
    whole = archive.read_bytes()
    there = tmp_path / "there"
    before = sorted(tmp_path.iterdir())
    for damaged in (b"", b"nonsense" * 1000, whole[: len(whole) // 2], whole[: len(whole) - 10_752], b"\0" * 10_240):
        archive.write_bytes(damaged)
        with pytest.raises(StoreError, match=r"no backup|not complete|damaged"):
            restore(archive, there)
        assert sorted(tmp_path.iterdir()) == before


def test_a_path_that_leads_out_is_refused(archive: Path, tmp_path: Path) -> None:
    rewritten = tmp_path / "evil.tar"
    with tarfile.open(archive) as old, tarfile.open(rewritten, "w") as new:
        for member in old.getmembers():
            new.addfile(member, old.extractfile(member) if member.isfile() else None)
        new.addfile(tarfile.TarInfo("../escaped"), io.BytesIO())
    with pytest.raises(StoreError):
        restore(rewritten, tmp_path / "there")
    assert not (tmp_path / "escaped").exists()


def test_a_backup_of_a_newer_anvild_is_refused(archive: Path, tmp_path: Path) -> None:
    rewritten = tmp_path / "newer.tar"
    with tarfile.open(archive) as old, tarfile.open(rewritten, "w") as new:
        for member in old.getmembers():
            source = old.extractfile(member)
            assert source is not None
            content = source.read()
            if member.name == "manifest.json":
                manifest = msgspec.json.decode(content, type=Manifest)
                content = msgspec.json.encode(msgspec.structs.replace(manifest, schema="9999"))
                member.size = len(content)
            new.addfile(member, io.BytesIO(content))
    with pytest.raises(StoreError, match="newer anvild"):
        restore(rewritten, tmp_path / "there")
    assert not (tmp_path / "there").exists()


async def test_a_server_that_is_not_empty_is_not_restored_into(
    postgres_cluster: PostgresCluster, tmp_path: Path
) -> None:
    name = postgres_cluster.migrated_database()
    url = postgres_cluster.url(name)
    (tmp_path / "data").mkdir()
    archive = tmp_path / "backup.tar"
    backup(tmp_path / "data", url, archive)
    for wrong in (url, None, f"sqlite:///{tmp_path}/x.sqlite"):
        with pytest.raises(StoreError, match="empty"):
            restore(archive, tmp_path / "there", wrong)
        assert not (tmp_path / "there").exists()
    postgres_cluster.drop(name)
