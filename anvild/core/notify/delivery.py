"""Delivery: one task for each channel, woken by commits, which sends its letters in order."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from typing import TypeVar

import msgspec
import trio
from sqlalchemy import delete, select

from anvild.core.clock import utcnow
from anvild.core.engine.persist import fetch, persist
from anvild.core.errors import StorageFull
from anvild.core.events import EventFilter, EventLog
from anvild.core.identity import SecretBox, SecretBoxError
from anvild.core.identity.tables import teams
from anvild.core.logging import get_logger
from anvild.core.store import Job, Store
from anvild.sdk import AnvilError, Event, InvalidArgument, Notice, Unavailable

from . import book
from .notifiers import Notifiers
from .sealing import unsealed
from .tables import channels
from .values import Channel, Letter

__all__ = ["Delivery", "DeliveryStatistics", "Tell"]

T = TypeVar("T")

Tell = Callable[[Channel, Event], Awaitable[Notice]]
"""Says how a channel tells of an event. It reads the store at most."""

AT_A_TIME = 256
"""Letters that are on their way at once, each of another channel."""

STRETCH = 0.1
SETTLE_SECONDS = 5.0

log = get_logger("notify")


class DeliveryStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What was sent since the start, and how many channels there are."""

    channels: int
    sending: int
    delivered: int
    failed: int
    given_up: int


class _Post:
    """The task of one channel, and what wakes it."""

    def __init__(self, where: EventFilter) -> None:
        self.where = where
        self.wake = trio.Event()
        self.scope = trio.CancelScope()


class Delivery:
    """Sends what channels have taken from the event log. :meth:`run` must be running.

    ``sender`` names this daemon among those on the same database, the same after a restart. A letter is sent at least
    once; again only where a daemon ended between the receiver's answer and its note in the book.
    """

    def __init__(
        self,
        store: Store,
        events: EventLog,
        notifiers: Notifiers,
        box: SecretBox,
        tell: Tell,
        *,
        sender: str,
        now: Callable[[], datetime] = utcnow,
    ) -> None:
        self._store = store
        self._events = events
        self._notifiers = notifiers
        self._box = box
        self._tell = tell
        self._sender = sender
        self._now = now
        self._posts: dict[str, _Post] = {}
        self._changed = trio.Event()
        self._limiter = trio.CapacityLimiter(AT_A_TIME)
        self._random = random.Random()  # noqa: S311  # spreads retries
        self._delivered = self._failed = self._given_up = 0

    async def run(self) -> None:
        """Serve all channels until cancelled."""
        forget = self._events.on_commit(self._hear)
        try:
            async with trio.open_nursery() as nursery:
                while True:
                    self._changed = trio.Event()
                    await self._look(nursery)
                    await self._changed.wait()
        finally:
            self._posts.clear()
            forget()

    def statistics(self) -> DeliveryStatistics:
        """Return the counters as they are now."""
        return DeliveryStatistics(
            channels=len(self._posts),
            sending=self._limiter.borrowed_tokens,
            delivered=self._delivered,
            failed=self._failed,
            given_up=self._given_up,
        )

    def _hear(self, fresh: Sequence[Event]) -> None:
        """Wake the channels that something has happened for. Called after a commit."""
        for event in fresh:
            if event.subject_type == "channel" or event.kind == "team.deleted":
                self._changed.set()
        for post in self._posts.values():
            if any(post.where.matches(event) for event in fresh):
                post.wake.set()

    async def _look(self, nursery: trio.Nursery) -> None:
        """Have a task for each channel that there is, and look at each again."""
        ended = select(teams.c.id).where(teams.c.deleted_at.is_not(None))
        await persist(self._store, lambda conn: conn.execute(delete(channels).where(channels.c.team_id.in_(ended))))
        query = select(channels)
        present = await fetch(self._store, lambda conn: [book.channel_of(row) for row in conn.execute(query)])
        for gone in self._posts.keys() - {channel.id for channel in present}:
            self._posts.pop(gone).scope.cancel()
        for channel in present:
            post = self._posts.get(channel.id)
            if post is None:
                post = self._posts[channel.id] = _Post(channel.where)
                nursery.start_soon(self._serve, channel.id, post)
            post.where = channel.where
            post.wake.set()

    async def _serve(self, channel_id: str, post: _Post) -> None:
        with post.scope:
            while True:
                post.wake = trio.Event()
                async with self._limiter:
                    next_ = await self._advance(channel_id)
                    if next_ is None:
                        return
                    if next_.letter is not None:
                        await self._send(next_, next_.letter)
                        continue
                patience = float("inf") if next_.due is None else (next_.due - self._now()).total_seconds()
                with trio.move_on_after(max(0.0, patience)):
                    await post.wake.wait()

    async def _advance(self, channel_id: str) -> book.Advance | None:
        return await persist(
            self._store, lambda conn: book.advance(conn, channel_id, sender=self._sender, now=self._now())
        )

    async def _send(self, next_: book.Advance, letter: Letter) -> None:
        failure = await self._try(next_.channel, next_.config, letter.event)
        if failure is None:
            await self._note(partial(book.delivered, letter_id=letter.id))
            self._delivered += 1
            return
        state = await self._note(partial(book.failed, letter_id=letter.id, failure=failure, now=self._now()))
        self._failed += 1
        self._given_up += state == "dead"
        log.warning(
            "letter_given_up" if state == "dead" else "letter_not_delivered",
            channel=next_.channel.id,
            event_id=letter.event.id,
            attempts=letter.attempts + 1,
            reason=failure.answer,
        )

    async def _note(self, job: Job[T]) -> T:
        """Write what became of a letter. A stop of the daemon waits for that, or the letter would be sent again."""
        try:
            return await persist(self._store, job)
        except trio.Cancelled:
            with trio.move_on_after(SETTLE_SECONDS, shield=True):
                await persist(self._store, job)
            raise

    async def _try(self, channel: Channel, sealed: str, event: Event) -> book.Failure | None:
        """Send an event; return why it has not arrived, or None when it has."""
        stretch = self._random.uniform(0, STRETCH)
        try:
            config = unsealed(self._box, channel.id, sealed)
            notice = await self._told(channel, event)
            await self._notifiers.send(channel.provider, config, notice)
        except (AnvilError, SecretBoxError) as error:
            details = error.details if isinstance(error, AnvilError) else {}
            wait = details.get("retry_after")
            return book.Failure(
                answer=str(error),
                final=isinstance(error, InvalidArgument),
                retry_after=wait if isinstance(wait, int | float) else 0.0,
                stretch=stretch,
            )
        return None

    async def _told(self, channel: Channel, event: Event) -> Notice:
        try:
            return await self._tell(channel, event)
        except (StorageFull, Unavailable):
            raise
        except Exception as error:
            log.exception("event_untold", event_id=event.id, event_kind=event.kind)
            raise InvalidArgument(f"the event cannot be told: {type(error).__name__}; see the log") from None
