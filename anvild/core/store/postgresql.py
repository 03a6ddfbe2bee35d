"""PostgreSQL: the database that the daemons of a fleet share."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, ClassVar

import psycopg
import trio
from sqlalchemy import Connection
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from anvild.core.errors import StorageFull
from anvild.core.store.database import BUSY_SECONDS, Database
from anvild.sdk import AnvilError, Unavailable

__all__ = ["CHANNEL", "Postgresql"]

CHANNEL = "anvil_commits"  # the notification channel on which a daemon says that it has committed events
_LOCK = 0x616E76696C64  # the advisory lock that each writing transaction takes first
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0  # seconds between two attempts to connect

_log = logging.getLogger(__name__)


class Postgresql(Database):
    """A server that the daemons of a fleet share."""

    dialect = "postgresql"

    # Defaults for what the URL does not say: a dead network ends a connection within a quarter of a minute.
    _CONNECT: ClassVar[dict[str, str]] = {
        "application_name": "anvild",
        "connect_timeout": "5",
        "keepalives_idle": "5",
        "keepalives_interval": "3",
        "keepalives_count": "3",
        "tcp_user_timeout": "15000",
    }

    def connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        """Open a bare connection in autocommit mode, for LISTEN. Blocks; raises psycopg.Error."""
        arguments, keywords = self.writer.dialect.create_connect_args(self.url)
        connection: psycopg.Connection[tuple[Any, ...]] = psycopg.connect(*arguments, **keywords, autocommit=True)
        return connection

    async def listen(self, sender: str, heard: Callable[[], None]) -> None:
        """See :meth:`Database.listen`. Connects again, with a growing pause, when the connection is lost."""
        pause = _FIRST_PAUSE
        while True:
            try:
                connection = await trio.to_thread.run_sync(self._listening)
            except psycopg.Error as error:
                _log.warning("cannot listen to %s, next attempt in %s s: %s", self.name, pause, error)
                await trio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                continue
            pause = _FIRST_PAUSE
            try:
                heard()
                await _hear(connection, sender, heard)
            except psycopg.Error as error:
                _log.warning("lost the connection that listens to %s: %s", self.name, error)
            finally:
                connection.close()

    def _listening(self) -> psycopg.Connection[tuple[Any, ...]]:
        connection = self.connect()
        try:
            connection.execute(f"LISTEN {CHANNEL}".encode())
        except BaseException:
            connection.close()
            raise
        return connection

    def _complete(self, url: URL) -> URL:
        return url.set(drivername="postgresql+psycopg", query={**self._CONNECT, **url.query})

    def _prepare_writer(self, connection: psycopg.Connection[Any], record: object) -> None:
        # A daemon that was stopped in the middle of a transaction must not stop the whole fleet.
        self._execute(connection, f"SET lock_timeout = '{BUSY_SECONDS}s'")
        self._execute(connection, "SET idle_in_transaction_session_timeout = '30s'")

    def _prepare_reader(self, connection: psycopg.Connection[Any], record: object) -> None:
        self._execute(connection, "SET default_transaction_read_only = on")

    def _execute(self, connection: psycopg.Connection[Any], statement: str) -> None:
        before = connection.autocommit
        connection.autocommit = True
        connection.execute(statement.encode())
        connection.autocommit = before

    def _begin(self, connection: Connection) -> None:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")

    def notify(self, connection: Connection, sender: str) -> None:
        connection.exec_driver_sql("SELECT pg_notify(%s, %s)", (CHANNEL, sender))

    def _meaning(self, error: DBAPIError) -> AnvilError | None:
        if not isinstance(error.orig, psycopg.Error):
            return None
        state = error.orig.sqlstate
        if state == "53100":
            return StorageFull(f"the disk of the database {self.name} is full")
        if error.connection_invalidated or (state is None and isinstance(error.orig, psycopg.OperationalError)):
            return Unavailable(f"the database {self.name} cannot be reached")
        # resources, cancelled or shut down, lock not available, serialization, idle in a transaction for too long
        if state is not None and state.startswith(("08", "53", "57", "55P03", "40", "25P03")):
            return Unavailable(f"the database {self.name} cannot serve now: {error.orig}")
        return None


async def _hear(connection: psycopg.Connection[tuple[Any, ...]], sender: str, heard: Callable[[], None]) -> None:
    while True:
        await trio.lowlevel.wait_readable(connection.fileno())
        connection.pgconn.consume_input()  # takes what has arrived and does not wait
        foreign = False
        while notification := connection.pgconn.notifies():
            foreign = foreign or notification.extra.decode() != sender
        if foreign:
            heard()
