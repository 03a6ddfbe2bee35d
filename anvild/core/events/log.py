"""The event log: appended in the transaction of the change, read by cursor, followed live."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import msgspec
import trio
from sqlalchemy import Connection, delete, false, func, insert, or_, select

from anvild.core.clock import utcnow
from anvild.core.errors import StorageFull
from anvild.core.events.filter import ALL, EventFilter
from anvild.core.events.follower import PAGE, Follower
from anvild.core.events.tables import events
from anvild.core.store import Store, announce
from anvild.sdk import Event, Unavailable

__all__ = ["EventLog", "EventLogStatistics", "append"]

_log = logging.getLogger(__name__)

_SWEEP_SECONDS = 10.0  # how late an event is seen that no commit of ours and no notification told of
_TRIM_SECONDS = 3600.0
_SLICE = 1000  # events that one transaction of the retention looks at
_INSERT = insert(events)


def append(
    conn: Connection,
    kind: str,
    *,
    subject: tuple[str, str],
    team_id: str | None = None,
    run_id: str | None = None,
    actor: str = "system",
    data: Mapping[str, Any] | None = None,
    audit: bool = False,
    ip: str | None = None,
    user_agent: str | None = None,
) -> int:
    """Inside a write job: add an event to the log and return its id.

    It becomes visible with the job's changes, or not at all. ``kind`` is ``noun.verb``; ``subject`` is type and id;
    ``data`` holds plain values and never a secret.
    """
    values: dict[str, Any] = {
        "at": utcnow(),
        "kind": kind,
        "subject_type": subject[0],
        "subject_id": subject[1],
        "team_id": team_id,
        "run_id": run_id,
        "actor": actor,
        "data": msgspec.json.decode(msgspec.json.encode(data or {})),
        "audit": audit,
        "ip": ip,
        "user_agent": user_agent,
    }
    result = conn.execute(_INSERT, values)
    assert result.inserted_primary_key is not None
    event_id: int = result.inserted_primary_key[0]
    announce(conn, Event(id=event_id, **values))
    return event_id


class EventLogStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What the live tail has done since it was started."""

    last_id: int
    followers: int
    delivered: int
    """Events that the tail has passed, whoever wrote them."""
    caught_up: int
    """How often the log had to be read because an event came from elsewhere or ids were skipped."""


class EventLog:
    """Reading and following the log.

    Ids grow in commit order on either database, with any number of daemons: a reader that has seen an id and asks for
    what is after it never misses an event. ``last_id`` is the newest event that followers and callbacks have been
    told of. :meth:`run` must be running for anything to be followed.
    """

    def __init__(
        self,
        store: Store,
        *,
        keep: timedelta = timedelta(days=30),
        keep_audit: timedelta = timedelta(days=365),
    ) -> None:
        """``keep`` and ``keep_audit`` say how long events, and those marked for audit, stay in the log."""
        self.last_id = 0
        self._store = store
        self._keep = keep
        self._keep_audit = max(keep, keep_audit)
        self._callbacks: list[Callable[[Sequence[Event]], None]] = []
        self._followers: dict[EventFilter, list[Follower]] = {}
        self._reading = True  # whether the log is being read up to its end; then what is announced is found by that
        self._wake = trio.Event()
        self._delivered = 0
        self._caught_up = 0

    async def read(
        self,
        *,
        after: int = 0,
        limit: int = 500,
        where: EventFilter = ALL,
        newest_first: bool = False,
        before: int | None = None,
    ) -> list[Event]:
        """Return at most ``limit`` events with ``after < id < before``, oldest first or newest first."""
        statement = select(events).where(events.c.id > after, where.condition()).limit(limit)
        if before is not None:
            statement = statement.where(events.c.id < before)
        statement = statement.order_by(events.c.id.desc() if newest_first else events.c.id)
        return await self._store.read(
            lambda connection: [Event(**row) for row in connection.execute(statement).mappings()]
        )

    @asynccontextmanager
    async def follow(
        self, *, after: int | None, where: EventFilter = ALL, buffer: int = 256
    ) -> AsyncIterator[Follower]:
        """Follow the log from ``after`` on, without a gap and without a duplicate; None begins with what comes next.

        First the log is read, page by page; then events arrive as they are committed. A reader that lets more than
        ``buffer`` live events gather is cut off: its next call raises SlowReader, and it may resume from its last id.
        It slows nobody else. An ``after`` beyond the end of the log (of a store before it was restored) is taken for
        the end.
        """

        async def page(start: int, end: int | None) -> list[Event]:
            return await self.read(after=start, before=end, where=where, limit=PAGE)

        if after is not None and after > self.last_id:
            after = min(after, await self._newest())
        follower = Follower(where, after=after or 0, buffer=buffer, page=page, join=self._join)
        if after is None:
            follower.join()
        try:
            yield follower
        finally:
            self._leave(follower)

    def on_commit(self, callback: Callable[[Sequence[Event]], None]) -> Callable[[], None]:
        """Have ``callback`` called on the loop with new events, in the order of their ids.

        It is called soon after the commit; with events of this daemon's own jobs mostly, but not always, before the
        job's caller goes on. It must be quick and not raise; what it raises is logged. Returns the function that ends
        it.
        """
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the live tail: our own commits, those of other daemons, and a slow sweep; and trim old events.

        Started when the tail stands at the end of the log. Runs until it is cancelled; followers then wait for ever,
        so end them first.
        """
        end = self._store.on_announced(self._announced)
        try:
            self.last_id = await self._newest()
            self._wake.set()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._store.listen, self._look)
                nursery.start_soon(self._sweep)
                nursery.start_soon(self._trim_again_and_again)
                nursery.start_soon(self._catch_up)
                task_status.started()
        finally:
            end()

    def statistics(self) -> EventLogStatistics:
        """Return the counters as they are now."""
        followers = sum(len(group) for group in self._followers.values())
        return EventLogStatistics(
            last_id=self.last_id, followers=followers, delivered=self._delivered, caught_up=self._caught_up
        )

    async def trim(self) -> int:
        """Remove the events that are older than they are kept, in slices, and return how many they were."""
        removed = position = 0
        while (last := await self._store.read(partial(self._end_of_slice, position))) is not None:
            removed += await self._store.write(partial(self._remove, position, last))
            position = last
        return removed

    def _end_of_slice(self, position: int, connection: Connection) -> int | None:
        """The last event of the next slice that is older than events are kept."""
        page = select(events.c.id, events.c.at).where(events.c.id > position).order_by(events.c.id).limit(_SLICE)
        rows = page.subquery()
        last: int | None = connection.scalar(select(func.max(rows.c.id)).where(rows.c.at < utcnow() - self._keep))
        return last

    def _remove(self, position: int, last: int, connection: Connection) -> int:
        now = utcnow()
        statement = delete(events).where(
            events.c.id > position,
            events.c.id <= last,
            events.c.at < now - self._keep,
            or_(events.c.audit == false(), events.c.at < now - self._keep_audit),
        )
        return connection.execute(statement).rowcount

    async def _newest(self) -> int:
        statement = select(func.coalesce(func.max(events.c.id), 0))
        newest = await self._store.read(lambda connection: connection.execute(statement).scalar_one())
        return int(newest)

    # ----- the live tail, on the loop

    def _announced(self, items: Sequence[object]) -> None:
        """Take the events that a group of our own jobs has committed."""
        fresh = [item for item in items if isinstance(item, Event) and item.id > self.last_id]
        if not fresh:
            return
        if self._reading or fresh[0].id != self.last_id + 1:
            self._look()  # another writer's events lie between, or a rolled back group has used up ids
        else:
            self._deliver(fresh)

    def _look(self) -> None:
        """Have the log read from where the tail stands."""
        self._wake.set()

    async def _catch_up(self) -> None:
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            self._reading = True
            try:
                while page := await self.read(after=self.last_id):
                    self._deliver(page)
                    self._caught_up += 1
            except (Unavailable, StorageFull) as error:
                _log.warning("the event log cannot be read, next attempt in %s s: %s", _SWEEP_SECONDS, error)
                continue
            self._reading = False

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(_SWEEP_SECONDS)
            self._look()

    async def _trim_again_and_again(self) -> None:
        while True:
            try:
                await self.trim()
            except (Unavailable, StorageFull) as error:
                _log.warning("old events cannot be removed, next attempt in %s s: %s", _TRIM_SECONDS, error)
            await trio.sleep(_TRIM_SECONDS)

    def _deliver(self, fresh: Sequence[Event]) -> None:
        self.last_id = fresh[-1].id
        self._delivered += len(fresh)
        for callback in tuple(self._callbacks):
            try:
                callback(fresh)
            except Exception:
                _log.exception("an observer of the event log failed at events up to %s", self.last_id)
        for where, followers in self._followers.items():
            chosen = [event for event in fresh if where.matches(event)]
            if chosen:
                for follower in followers:
                    follower.offer(chosen)

    def _join(self, follower: Follower) -> int:
        self._followers.setdefault(follower.where, []).append(follower)
        return self.last_id

    def _leave(self, follower: Follower) -> None:
        followers = self._followers.get(follower.where, [])
        if follower in followers:
            followers.remove(follower)
            if not followers:
                del self._followers[follower.where]
