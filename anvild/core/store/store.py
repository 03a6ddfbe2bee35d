"""The store: jobs go in, are run in threads, and come back when they are durable."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal, TypeVar

import msgspec
import trio
from sqlalchemy import Connection

from anvild.core.ids import new_id
from anvild.core.store.database import Database
from anvild.core.store.revision import bring_up
from anvild.core.store.threads import ANNOUNCED, Inbox, Reader, Request, Writer
from anvild.core.store.urls import database_at

__all__ = ["Job", "Store", "StoreStatistics", "announce", "open_store"]

T = TypeVar("T")
Job = Callable[[Connection], T]

WRITES_QUEUED = 4096
READS_QUEUED = 1024
READERS = 2


class StoreStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What the store has done since it was opened, and what waits."""

    writes_waiting: int
    reads_waiting: int
    writes: int
    """Jobs that were committed."""
    failed: int
    """Write jobs whose callers got an exception."""
    redone: int
    """Jobs that were run a second time because another job of their group failed."""
    transactions: int
    largest_group: int
    reads: int
    connected: bool
    """Whether the writer has a connection."""


class Store:
    """The database of the daemon, used by jobs: plain functions of a SQLAlchemy connection.

    A job may be run twice (another job of its group failed, the connection was lost), so it has no effect but on the
    connection, and it neither commits nor rolls back. A job that raises undoes what it did, and that alone; its caller
    gets the exception. On PostgreSQL a statement that fails spoils the transaction: a job that wants to go on after it
    uses ``connection.begin_nested()``, or better a statement that does not fail (``on_conflict_do_nothing``).

    Errors of the database itself become: StorageFull (the disk is full; works again when there is space), Unavailable
    (locked for long, or the server cannot be reached; whether a write took effect is open if the connection was lost
    during its commit), StoreError (closed or damaged). Others (IntegrityError …) arrive as SQLAlchemy raises them.
    """

    def __init__(self, database: Database) -> None:
        """Use :func:`open_store`."""
        self.url = database.url.render_as_string(hide_password=False)
        self.dialect: Literal["sqlite", "postgresql"] = database.dialect
        self._database = database
        self._token = trio.lowlevel.current_trio_token()
        self._sender = new_id()
        self._listeners: list[Callable[[Sequence[object]], None]] = []
        self._writes = Inbox(WRITES_QUEUED)
        self._reads = Inbox(READS_QUEUED)
        self._writer = Writer(database, self._writes, self._sender, self._from_thread)
        self._readers = [Reader(database, self._reads, READERS, self._from_thread) for _ in range(READERS)]
        self._threads = [
            threading.Thread(target=self._writer.run, name="store-writer", daemon=True),
            *(threading.Thread(target=reader.run, name="store-reader", daemon=True) for reader in self._readers),
        ]
        for thread in self._threads:
            thread.start()

    async def write(self, job: Job[T]) -> T:
        """Run a job in a transaction and return its result once it is durably committed.

        The transaction is shared with other jobs; on either database one runs at a time. Waits while the queue is
        full. Cancellation: a job that is still queued is withdrawn and has no effect; one that the writer has taken is
        committed, the call returns its result, and the caller is cancelled at its next checkpoint. So a call that
        raises Cancelled has changed nothing.
        """
        request = Request(job, trio.lowlevel.current_task())

        def abort(_: object) -> trio.lowlevel.Abort:
            withdrawn = self._writes.withdraw(request)
            return trio.lowlevel.Abort.SUCCEEDED if withdrawn else trio.lowlevel.Abort.FAILED

        result: T = await self._submit(self._writes, request, abort)
        return result

    async def read(self, job: Job[T]) -> T:
        """Run a job that only reads, on a connection in autocommit mode, and return its result.

        Each statement sees what is committed when it runs; two statements of one job may see two states. A job that
        tries to write gets the database's error. Waits while the queue is full. Cancellation returns at once; the
        result of a job that runs already is thrown away.
        """
        request = Request(job, trio.lowlevel.current_task())

        def abort(_: object) -> trio.lowlevel.Abort:
            self._reads.withdraw(request)
            request.abandoned = True
            return trio.lowlevel.Abort.SUCCEEDED

        result: T = await self._submit(self._reads, request, abort)
        return result

    def statistics(self) -> StoreStatistics:
        """Return the counters as they are now."""
        return StoreStatistics(
            writes_waiting=len(self._writes),
            reads_waiting=len(self._reads),
            writes=self._writer.jobs,
            failed=self._writer.failed,
            redone=self._writer.redone,
            transactions=self._writer.transactions,
            largest_group=self._writer.largest_group,
            reads=sum(reader.jobs for reader in self._readers),
            connected=self._writer.connected,
        )

    def on_announced(self, listener: Callable[[Sequence[object]], None]) -> Callable[[], None]:
        """Have ``listener`` called on the loop, after each commit, with what its jobs announced, in their order.

        It is called before the callers of the jobs go on. It must not raise. Returns the function that ends it.
        """
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def listen(self, heard: Callable[[], None]) -> None:
        """Call ``heard`` whenever another daemon on the same database has announced something. Never returns.

        It is also called after each new connection, since something may have been missed before it. On SQLite there
        is no other daemon, and nothing is ever heard.
        """
        await self._database.listen(self._sender, heard)

    async def _submit(self, inbox: Inbox, request: Request, abort: Callable[[Any], trio.lowlevel.Abort]) -> Any:
        try:
            inbox.slots.acquire_nowait()
        except trio.WouldBlock:
            await inbox.slots.acquire()
        try:
            inbox.put(request)
            return await trio.lowlevel.wait_task_rescheduled(abort)
        finally:
            inbox.slots.release()

    def _from_thread(self, requests: Sequence[Request], announced: Sequence[object]) -> None:
        try:
            self._token.run_sync_soon(self._deliver, requests, announced)
        except trio.RunFinishedError:
            return  # the loop ended without closing the store; nobody waits any more

    def _deliver(self, requests: Sequence[Request], announced: Sequence[object]) -> None:
        if announced:
            for listener in tuple(self._listeners):
                listener(announced)
        for request in requests:
            if not request.abandoned:
                assert request.result is not None
                trio.lowlevel.reschedule(request.task, request.result)

    async def _close(self) -> None:
        """Refuse new jobs, finish those that are queued, end the threads."""
        self._writes.close()
        self._reads.close()
        with trio.CancelScope(shield=True):
            for thread in self._threads:
                await trio.to_thread.run_sync(thread.join)


def announce(connection: Connection, item: object) -> None:
    """Inside a write job: have ``item`` handed to the listeners of ``Store.on_announced`` after the commit."""
    announced: list[object] | None = connection.info.get(ANNOUNCED)
    if announced is None:
        raise RuntimeError("what is announced belongs to a job of Store.write; this connection is not the writer's")
    announced.append(item)


@asynccontextmanager
async def open_store(url: str) -> AsyncIterator[Store]:
    """Open the database at ``sqlite:///PATH`` or ``postgresql://…``, bringing its schema up to date first.

    A SQLite file that is not there is made, with its directory. Raises StoreError (one sentence) for a schema newer
    than this anvild, a wrong URL or a damaged file; Unavailable when the server cannot be reached; StorageFull. When
    the block ends, jobs that are queued are finished before the store closes, also under cancellation.
    """
    database = database_at(url)
    await trio.to_thread.run_sync(bring_up, database)
    store = Store(database)
    try:
        yield store
    finally:
        await store._close()
