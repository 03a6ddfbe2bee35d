"""The threads that talk to the database: one that writes, a few that read.

A request goes from the loop to a thread through an :class:`Inbox` and comes back with its outcome through ``deliver``,
which the store runs on the loop once for a whole group.
"""

from __future__ import annotations

import copy
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import outcome
import trio
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from anvild.core.store.database import Database
from anvild.core.store.errors import StoreError
from anvild.sdk import AnvilError, Unavailable

__all__ = ["ANNOUNCED", "Inbox", "Reader", "Request", "Writer"]

GROUP = 256  # jobs in one transaction at most
READ_BATCH = 32  # reads that one thread takes at once at most
FLUSH_SECONDS = 0.001  # a reader hands over what it has after this time, so that a slow read delays no quick one
BACK_OFF_SECONDS = (0.1, 5.0)  # first and longest pause between two attempts to connect

ANNOUNCED = "announced"  # the key in Connection.info of what the running transaction will announce

Deliver = Callable[[Sequence["Request"], Sequence[object]], None]


class Request:
    """One job on its way: the task that waits for it, and its outcome when it comes back."""

    __slots__ = ("abandoned", "job", "result", "task")

    def __init__(self, job: Callable[[Connection], Any], task: trio.lowlevel.Task) -> None:
        self.job = job
        self.task = task
        self.result: outcome.Outcome[Any] | None = None
        self.abandoned = False  # on the loop only: the caller of a read was cancelled and does not wait any more


class Inbox:
    """A bounded queue from the loop to threads. ``slots`` bounds it: who puts a request in holds a slot of it."""

    def __init__(self, capacity: int) -> None:
        self.slots = trio.Semaphore(capacity)
        self._ready = threading.Condition()
        self._queue: deque[Request] = deque()
        self._closed = False

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, request: Request) -> None:
        """Queue a request. Raises StoreError when the store is closed."""
        with self._ready:
            if self._closed:
                raise StoreError("the store is closed")
            self._queue.append(request)
            self._ready.notify()

    def withdraw(self, request: Request) -> bool:
        """Take a request back; False when a thread has it already."""
        with self._ready:
            try:
                self._queue.remove(request)
            except ValueError:
                return False
            return True

    def take(self, limit: int, share: int = 1) -> list[Request]:
        """Wait for requests and return at most ``limit`` of them, and no more than one thread's share of the queue.

        Returns nothing once the inbox is closed and empty.
        """
        with self._ready:
            while not self._queue and not self._closed:
                self._ready.wait()
            count = min(limit, -(-len(self._queue) // share))
            return [self._queue.popleft() for _ in range(count)]

    def close(self) -> None:
        """Refuse new requests; the threads end when they have served those that are in it."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()


class _Link:
    """A thread's own connection, made when it is needed, made anew after a loss, with a back-off between attempts."""

    def __init__(self, database: Database, *, writing: bool) -> None:
        self._database = database
        self._engine = database.writer if writing else database.reader
        self._connection: Connection | None = None
        self._pause = 0.0
        self._not_before = 0.0

    @property
    def connected(self) -> bool:
        return self._connection is not None

    def get(self) -> Connection:
        """Return the connection. Raises Unavailable, without an attempt, while the back-off lasts."""
        if self._connection is None:
            if time.monotonic() < self._not_before:
                raise Unavailable(f"the database {self._database.name} cannot be reached")
            try:
                self._connection = self._engine.connect()
            except DBAPIError:
                shortest, longest = BACK_OFF_SECONDS
                self._pause = min(max(self._pause * 2, shortest), longest)
                self._not_before = time.monotonic() + self._pause
                raise
            self._pause = 0.0
        return self._connection

    def drop(self) -> None:
        """Forget the connection, whatever state it is in; rolls back what was not committed."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()
            connection.close()


def _lost(error: BaseException) -> bool:
    return isinstance(error, DBAPIError) and error.connection_invalidated


class Writer:
    """The one writer thread: it runs what is queued as one transaction, and wakes all callers after its commit.

    A job that raises undoes the group, which is then run again in one transaction with a savepoint round each job, so
    that only the callers of the bad jobs get an exception. Where the transaction itself fails (the disk is full, a
    constraint is checked at the commit), each job has a transaction of its own.
    """

    def __init__(self, database: Database, inbox: Inbox, sender: str, deliver: Deliver) -> None:
        self._database = database
        self._inbox = inbox
        self._sender = sender
        self._deliver = deliver
        self._link = _Link(database, writing=True)
        self._announced: list[object] = []  # committed, not yet delivered
        self.transactions = 0
        self.jobs = 0
        self.failed = 0
        self.redone = 0
        self.largest_group = 0

    @property
    def connected(self) -> bool:
        return self._link.connected

    def run(self) -> None:
        """Serve until the inbox is closed and empty; the body of the thread."""
        while group := self._inbox.take(GROUP):
            try:
                self._serve(group)
            except BaseException as error:  # a defect of ours: the callers get it, or they would wait for ever
                self._link.drop()
                self._fail(group, error)
            announced, self._announced = self._announced, []
            self.failed += sum(isinstance(request.result, outcome.Error) for request in group)
            self._deliver(group, announced)
        self._link.drop()

    def _serve(self, group: list[Request]) -> None:
        """Give each request its outcome."""
        if self._attempt(group, isolated=False):
            return
        self.redone += len(group)
        if self._attempt(group, isolated=True) or len(group) == 1:
            return
        for request in group:
            self._serve([request])

    def _attempt(self, group: list[Request], *, isolated: bool) -> bool:
        """Run the group as one transaction; False when it was undone and should be run again."""
        try:
            connection = self._begin()
        except Exception as error:  # whatever it is, the callers get it
            self._fail(group, error)
            return True
        announced: list[object] = []
        connection.info[ANNOUNCED] = announced
        try:
            for request in group:
                if isolated:
                    self._run_isolated(connection, request, announced)
                else:
                    request.result = outcome.Value(request.job(connection))
            if announced:
                self._database.notify(connection, self._sender)
        except BaseException as error:  # a thread has nobody above it; the callers get it
            self._undo(connection, error)
            self._fail(group, error)
            return len(group) == 1 and not _lost(error)
        try:
            connection.commit()
        except BaseException as error:
            self._link.drop()  # the driver may still be in the transaction, which SQLAlchemy takes for ended
            self._fail(group, error)
            # A connection that is lost during the commit leaves it open whether it took effect: never twice.
            return len(group) == 1 or _lost(error)
        self._announced += announced
        self.transactions += 1
        self.jobs += len(group)
        self.largest_group = max(self.largest_group, len(group))
        return True

    def _begin(self) -> Connection:
        connection = self._link.get()
        try:
            connection.begin()
        except DBAPIError as error:
            self._undo(connection, error)
            if not _lost(error):
                raise
            connection = self._link.get()  # the server was restarted while nothing was written
            connection.begin()
        return connection

    def _run_isolated(self, connection: Connection, request: Request, announced: list[object]) -> None:
        mark = len(announced)
        connection.exec_driver_sql("SAVEPOINT job")
        try:
            request.result = outcome.Value(request.job(connection))
        except BaseException as error:
            if _lost(error):
                raise
            connection.exec_driver_sql("ROLLBACK TO SAVEPOINT job")
            del announced[mark:]
            request.result = outcome.Error(self._database.translate(error))
        connection.exec_driver_sql("RELEASE SAVEPOINT job")

    def _undo(self, connection: Connection, error: BaseException) -> None:
        """End the transaction without effect, and the connection too where it cannot even do that."""
        if not _lost(error):
            with suppress(SQLAlchemyError):
                connection.rollback()
                return
        self._link.drop()

    def _fail(self, group: list[Request], error: BaseException) -> None:
        for request in group:
            # Each caller raises an exception of its own: a shared one would gather the tracebacks of all. A job's own
            # exception has one caller; it is left alone, for not every class can be copied.
            own = copy.copy(error) if len(group) > 1 and isinstance(error, AnvilError) else error
            request.result = outcome.Error(self._database.translate(own))


class Reader:
    """A reader thread with its own connection, on which each statement sees what is committed when it runs."""

    def __init__(self, database: Database, inbox: Inbox, share: int, deliver: Deliver) -> None:
        self._database = database
        self._inbox = inbox
        self._share = share
        self._deliver = deliver
        self._link = _Link(database, writing=False)
        self.jobs = 0

    def run(self) -> None:
        """Serve until the inbox is closed and empty; the body of the thread."""
        while batch := self._inbox.take(READ_BATCH, self._share):
            done: list[Request] = []
            since = time.monotonic()
            for request in batch:
                request.result = self._read(request)
                done.append(request)
                if time.monotonic() - since > FLUSH_SECONDS:
                    self._deliver(done, ())
                    done = []
                    since = time.monotonic()
            if done:
                self._deliver(done, ())
        self._link.drop()

    def _read(self, request: Request) -> outcome.Outcome[Any]:
        self.jobs += 1
        try:
            try:
                return outcome.Value(self._run(request))
            except DBAPIError as error:
                if not _lost(error):
                    raise
                self._link.drop()
                return outcome.Value(self._run(request))
        except BaseException as error:  # the caller gets it
            return outcome.Error(self._database.translate(error))

    def _run(self, request: Request) -> Any:
        connection = self._link.get()
        try:
            return request.job(connection)
        finally:
            if connection.in_transaction():
                connection.rollback()  # ends SQLAlchemy's own bookkeeping; in AUTOCOMMIT nothing goes to the database
