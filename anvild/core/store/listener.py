"""Hearing of the commits of other daemons on the same PostgreSQL."""

from __future__ import annotations

import logging
from collections.abc import Callable

import psycopg
import trio

from anvild.core.store.database import CHANNEL, Postgresql

__all__ = ["listen"]

_log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0  # seconds between two attempts to connect


async def listen(database: Postgresql, sender: str, heard: Callable[[], None]) -> None:
    """Call ``heard`` for each notification that is not ``sender``'s own, and after each connection. Never returns.

    Connects again, with a growing pause, when the connection is lost. Cancellation closes the connection.
    """
    pause = _FIRST_PAUSE
    while True:
        try:
            connection = await trio.to_thread.run_sync(_connect, database)
        except psycopg.Error as error:
            _log.warning("cannot listen to %s, next attempt in %s s: %s", database.name, pause, error)
            await trio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
            continue
        pause = _FIRST_PAUSE
        try:
            heard()
            await _hear(connection, sender, heard)
        except psycopg.Error as error:
            _log.warning("lost the connection that listens to %s: %s", database.name, error)
        finally:
            connection.close()


def _connect(database: Postgresql) -> psycopg.Connection[tuple[object, ...]]:
    connection = database.connect()
    try:
        connection.execute(f"LISTEN {CHANNEL}".encode())
    except BaseException:
        connection.close()
        raise
    return connection


async def _hear(connection: psycopg.Connection[tuple[object, ...]], sender: str, heard: Callable[[], None]) -> None:
    while True:
        await trio.lowlevel.wait_readable(connection.fileno())
        connection.pgconn.consume_input()  # takes what has arrived and does not wait
        foreign = False
        while notification := connection.pgconn.notifies():
            foreign = foreign or notification.extra.decode() != sender
        if foreign:
            heard()
