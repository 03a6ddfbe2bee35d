"""Backup of a daemon, also while it runs, and restore into an empty data directory.

A backup is one tar archive: a manifest, a snapshot of the database, the daemon's key files, its own pipelines, the
artifacts, and a last member that shows that nothing is missing. It holds keys and must be kept like them. A key that
systemd hands to the daemon as a credential is not in the data directory and so not in the backup.

Everything here blocks and runs in a process of its own, or in a thread; it talks to no daemon.
"""

from __future__ import annotations

import fcntl
import io
import os
import shutil
import sqlite3
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import msgspec
from sqlalchemy import inspect
from sqlalchemy.exc import DBAPIError

from anvild.core.clock import utcnow
from anvild.core.store.database import Database, Sqlite
from anvild.core.store.errors import StoreError
from anvild.core.store.migrate import check_revision, current_revision
from anvild.core.store.postgresql import Postgresql
from anvild.core.store.urls import database_at

__all__ = ["Manifest", "backup", "restore"]

_MANIFEST = "manifest.json"
_COMPLETE = "complete"
_DATABASE: dict[str, str] = {"sqlite": "anvild.sqlite", "postgresql": "database.dump"}
_FOLDERS = ("artifacts", "pipelines")
_KEYS = "*.key"
_WORK = ".backup-"


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What an archive says of itself: which anvild made it, when, and the revision of its schema."""

    version: str
    schema: str
    database: Literal["sqlite", "postgresql"]
    made_at: datetime
    format: Literal[1] = 1


def backup(data_dir: Path, url: str, target: Path) -> Manifest:
    """Write a backup of the daemon with this data directory and database into the new file ``target``.

    The daemon may run and is not disturbed. The database is one consistent state, and every artifact that it names is
    in the archive. The archive appears under its name when it is complete. Raises StoreError (one sentence) when the
    target exists, another backup runs, or the database or ``pg_dump`` fails; Unavailable; OSError.
    """
    if target.exists():
        raise StoreError(f"{target} exists; name a new file for the backup")
    database = database_at(url)
    with _workplace(data_dir) as work:
        manifest = Manifest(
            version=version("anvild"), schema=_schema(database), database=database.dialect, made_at=utcnow()
        )
        snapshot = work / _DATABASE[database.dialect]
        _take_snapshot(database, snapshot)
        # After the snapshot: what it names lies here still, because the sweep leaves a file for a while after its rows.
        _link(data_dir, work)
        part = target.with_name(target.name + ".part")
        try:
            part.touch(mode=0o600)
            with part.open("wb") as file:
                _write_archive(file, manifest, work, first=snapshot.name)
                file.flush()
                os.fsync(file.fileno())
            part.rename(target)
        finally:
            part.unlink(missing_ok=True)
    return manifest


def restore(archive: Path, data_dir: Path, url: str | None = None) -> Manifest:
    """Make a data directory from a backup; for a PostgreSQL one also fill the empty database at ``url``.

    ``data_dir`` is not there or empty, and gets all or nothing; SQLite's file is ``anvild.sqlite`` in it. Its owner is
    kept. The next start of the daemon brings
    an older schema up to date. Raises StoreError (one sentence) when the directory or the database is not empty, the
    archive is damaged or comes from a newer anvild; OSError.
    """
    if data_dir.exists() and any(data_dir.iterdir()):
        raise StoreError(f"{data_dir} is not empty; a backup is restored into an empty data directory")
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{data_dir.name}-", dir=data_dir.parent) as parent:
        work = Path(parent) / "data"
        work.mkdir(mode=0o700)
        manifest = _read_archive(archive, work)
        if manifest.database == "postgresql":
            dump = work / _DATABASE["postgresql"]
            _fill(_empty_server(url), dump)
            dump.unlink()
        if data_dir.exists():
            _give(work, data_dir)
        os.sync()
        try:
            work.rename(data_dir)
        except OSError as error:
            raise StoreError(f"{data_dir} cannot be replaced by what was restored: {error.strerror}") from error
    return manifest


@contextmanager
def _workplace(data_dir: Path) -> Iterator[Path]:
    """A directory inside the data directory, so that files can be linked; one backup at a time, leftovers removed."""
    with (data_dir / ".backup.lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(f"another backup of {data_dir} is being made") from None
        for leftover in data_dir.glob(f"{_WORK}*"):
            shutil.rmtree(leftover)
        with tempfile.TemporaryDirectory(prefix=_WORK, dir=data_dir) as work:
            yield Path(work)


def _schema(database: Database) -> str:
    if isinstance(database, Sqlite) and not database.path.exists():
        raise StoreError(f"{database.path} is not there; there is nothing to back up")
    try:
        with database.reader.connect() as connection:
            revision = current_revision(connection)
    except DBAPIError as error:
        raise database.translate(error) from error
    if revision is None:
        raise StoreError(f"{database.name} is not the database of an anvild")
    check_revision(revision)
    return revision


def _take_snapshot(database: Database, snapshot: Path) -> None:
    if isinstance(database, Sqlite):
        with closing(sqlite3.connect(database.path)) as source, closing(sqlite3.connect(snapshot)) as copy:
            source.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE").close()
    else:
        assert isinstance(database, Postgresql)
        _run_client(database, "pg_dump", "--format=custom", "--no-owner", "--no-privileges", f"--file={snapshot}")


def _link(data_dir: Path, work: Path) -> None:
    """Link all files of a backup into the workplace, where no sweep removes them."""
    for path in data_dir.glob(_KEYS):
        os.link(path, work / path.name)
    for folder in _FOLDERS:
        for directory, folders, names in os.walk(data_dir / folder):
            if directory == str(data_dir / "artifacts"):
                folders[:] = [name for name in folders if name != "incoming"]
            there = work / Path(directory).relative_to(data_dir)
            there.mkdir(mode=0o700)
            for name in names:
                try:
                    os.link(Path(directory, name), there / name)
                except FileNotFoundError:
                    continue  # swept away between the listing and now; the snapshot does not name it


def _write_archive(file: io.BufferedWriter, manifest: Manifest, work: Path, *, first: str) -> None:
    with tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        _add_bytes(archive, _MANIFEST, msgspec.json.encode(manifest))
        archive.add(work / first, first)
        for path in sorted(work.iterdir()):
            if path.name != first:
                archive.add(path, path.name)
        _add_bytes(archive, _COMPLETE, b"")


def _add_bytes(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    member.mode = 0o600
    archive.addfile(member, io.BytesIO(content))


def _read_archive(archive: Path, work: Path) -> Manifest:
    """Unpack all but the manifest and the mark of the end, after checking that this anvild can use it."""
    manifest: Manifest | None = None
    complete = False
    try:
        with tarfile.open(archive, mode="r|*") as members:
            for member in members:
                if manifest is None:
                    content = members.extractfile(member) if member.name == _MANIFEST else None
                    if content is None:
                        raise StoreError(f"{archive} is no backup of an anvild")
                    manifest = msgspec.json.decode(content.read(), type=Manifest)
                    check_revision(manifest.schema)
                elif member.name == _COMPLETE:
                    complete = True
                else:
                    members.extract(member, work, filter="data")
    except (tarfile.TarError, msgspec.DecodeError, EOFError) as error:
        raise StoreError(f"{archive} is no backup of an anvild, or it is damaged: {error}") from error
    if manifest is None or not complete:
        raise StoreError(f"{archive} is not complete; the end is missing")
    return manifest


def _empty_server(url: str | None) -> Postgresql:
    database = database_at(url) if url is not None else None
    if not isinstance(database, Postgresql):
        raise StoreError("the backup holds a PostgreSQL database; name the URL of an empty one to restore it into")
    try:
        tables = inspect(database.reader).get_table_names()
    except DBAPIError as error:
        raise database.translate(error) from error
    if tables:
        raise StoreError(f"{database.name} is not empty; a backup is restored into an empty database")
    return database


def _fill(database: Postgresql, dump: Path) -> None:
    _run_client(
        database, "pg_restore", "--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges", dump
    )


def _run_client(database: Postgresql, program: str, *arguments: str | Path) -> None:
    """Run a PostgreSQL client program on the database; the password goes by its environment."""
    plain = database.url.set(drivername="postgresql", password=None)
    connect = ("--dbname", plain.render_as_string(hide_password=False))
    environment = dict(os.environ)
    if database.url.password is not None:
        environment["PGPASSWORD"] = str(database.url.password)
    command = [_client(program), *connect, *arguments]
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip().replace("\n", " ")
        raise StoreError(f"{program} failed for {database.name}: {reason}")


def _client(program: str) -> Path:
    """The newest version of a client program: an older one refuses a newer server."""
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"), key=lambda path: int(path.parts[-3]))
    found = installed[-1] if installed else shutil.which(program)
    if found is None:
        raise StoreError(f"{program} is not installed; install the PostgreSQL client programs (postgresql-client)")
    return Path(found)


def _give(work: Path, like: Path) -> None:
    """Make the owner and the mode of the directory that is replaced those of what replaces it."""
    status = like.stat()
    work.chmod(status.st_mode & 0o777)
    if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
        for directory, folders, names in os.walk(work):
            for name in (".", *folders, *names):
                os.chown(Path(directory, name), status.st_uid, status.st_gid)
