"""What differs between the two databases: how to connect, how to begin, what an error means."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import trio
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.pool import NullPool

from anvild.core.errors import StorageFull
from anvild.core.store.errors import StoreError
from anvild.sdk import AnvilError, Unavailable

__all__ = ["BUSY_SECONDS", "Database", "Sqlite"]

BUSY_SECONDS = 10
_FULL_BELOW = 1 << 20  # an I/O error on a file system with less free bytes than this is taken for a full disk


class Database(ABC):
    """A database by its URL. Nothing here is kept open: each thread makes its own connection and ends it."""

    dialect: ClassVar[Literal["sqlite", "postgresql"]]

    def __init__(self, url: URL) -> None:
        self.url = self._complete(url)
        self.writer = create_engine(self.url, poolclass=NullPool)
        reader = create_engine(self.url, poolclass=NullPool, skip_autocommit_rollback=True)
        self.reader = reader.execution_options(isolation_level="AUTOCOMMIT")
        event.listen(self.writer, "connect", self._prepare_writer)
        event.listen(self.writer, "begin", self._begin)
        event.listen(self.reader, "connect", self._prepare_reader)

    @property
    def name(self) -> str:
        """The URL without its password, for messages."""
        return self.url.render_as_string(hide_password=True)

    @abstractmethod
    def _complete(self, url: URL) -> URL:
        """Return the URL with what it leaves open."""

    @abstractmethod
    def _prepare_writer(self, connection: Any, record: object) -> None: ...

    @abstractmethod
    def _prepare_reader(self, connection: Any, record: object) -> None: ...

    @abstractmethod
    def _begin(self, connection: Connection) -> None:
        """Become the one writer until the transaction ends."""

    @abstractmethod
    def notify(self, connection: Connection, sender: str) -> None:
        """Tell the other daemons, when this transaction commits, that there is something new."""

    @abstractmethod
    async def listen(self, sender: str, heard: Callable[[], None]) -> None:
        """Call ``heard`` whenever a daemon other than ``sender`` has told of something new, and after each connection,
        since something may have been missed before it. Never returns; cancellation closes the connection."""

    @abstractmethod
    def _meaning(self, error: DBAPIError) -> AnvilError | None:
        """What a database error means to a caller; None for one that is the statement's own fault."""

    def translate(self, error: BaseException) -> BaseException:
        """Return what the caller of a job is to get for an exception that the job or its transaction raised."""
        if isinstance(error, StatementError) and isinstance(error.orig, AnvilError):
            return error.orig
        meaning = self._meaning(error) if isinstance(error, DBAPIError) else None
        if meaning is None:
            return error
        meaning.__cause__ = error
        return meaning


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switch to a write-ahead log. The first to do so needs the file alone, and SQLite does not wait for that."""
    patience = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").close()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > patience:
                raise
            time.sleep(0.01)
        else:
            return


class Sqlite(Database):
    """One file, shared by the threads of the daemon and, now and then, by a command beside it."""

    dialect = "sqlite"

    def __init__(self, url: URL) -> None:
        if url.database in (None, "", ":memory:"):
            raise StoreError(f"{url.render_as_string()} names no file; write sqlite:///PATH")
        self.path = Path(str(url.database)).absolute()
        super().__init__(url)

    def create_file(self) -> None:
        """Make the file and its directory, readable by their owner alone; SQLite gives its side files the same mode."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise StoreError(f"{self.path} cannot be opened for writing: {error.strerror}") from error

    @staticmethod
    def suspend_foreign_keys(connection: Connection) -> None:
        """Do not enforce foreign keys on this connection from now on. Has no effect within a transaction."""
        assert connection.connection.dbapi_connection is not None
        connection.connection.dbapi_connection.execute("PRAGMA foreign_keys = OFF").close()

    def _complete(self, url: URL) -> URL:
        return url.set(database=str(self.path))

    def _prepare_writer(self, connection: sqlite3.Connection, record: object) -> None:
        self._prepare(connection)
        _write_ahead(connection)
        connection.execute("PRAGMA journal_size_limit = 67108864").close()

    def _prepare_reader(self, connection: sqlite3.Connection, record: object) -> None:
        self._prepare(connection)
        connection.execute("PRAGMA query_only = ON").close()

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.isolation_level = None  # the driver opens no transaction by itself; see _begin
        for pragma in (f"busy_timeout = {BUSY_SECONDS * 1000}", "synchronous = FULL", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}").close()

    def _begin(self, connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    def notify(self, connection: Connection, sender: str) -> None:
        """Nothing to do: the file has one daemon, and what a command writes beside it is found by a slow sweep."""

    async def listen(self, sender: str, heard: Callable[[], None]) -> None:
        """There is no other daemon, so nothing is ever heard."""
        await trio.sleep_forever()

    def _meaning(self, error: DBAPIError) -> AnvilError | None:
        code = getattr(error.orig, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF  # the primary result code
        if code == sqlite3.SQLITE_FULL:
            return StorageFull(f"the disk that holds {self.path} is full")
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return Unavailable(f"{self.path} is locked by another program for more than {BUSY_SECONDS} s")
        if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
            if shutil.disk_usage(self.path.parent).free < _FULL_BELOW:
                return StorageFull(f"the disk that holds {self.path} is full")
            return Unavailable(f"{self.path} cannot be read or written: {error.orig}")
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
            return StoreError(f"{self.path} cannot be written by this user, and never by a job of Store.read")
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return StoreError(f"{self.path} is damaged ({error.orig}); restore a backup")
        return None
