"""Server-sent events from the event log."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from math import inf
from types import TracebackType

import msgspec
import trio

from anvild.core.errors import FieldProblem, InvalidRequest, RateLimited
from anvild.core.events import ALL, EventFilter, EventLog, Follower, SlowReader
from anvild.sdk import AnvilError, Event

from .request import Answer, Request
from .stopping import Stopping

__all__ = ["Frames", "Streams", "frame", "last_event_id"]

BATCH_SECONDS = 0.05
KEEP_ALIVE_SECONDS = 15.0
RECHECK_SECONDS = 60.0
BUFFER = 2048
HEADERS = (("cache-control", "no-store"), ("x-accel-buffering", "no"))

_encoder = msgspec.json.Encoder()


def frame(event_id: int, name: str, data: object) -> bytes:
    """Return one server-sent event, its data as JSON on one line."""
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event_id, name.encode(), _encoder.encode(data))


def last_event_id(request: Request) -> int | None:
    """Return where a client wants to resume: its Last-Event-ID header, or ``?last_event_id``. Raises InvalidRequest."""
    query = request.scope["query_string"].decode("latin-1").split("&")
    in_query = next((part.partition("=")[2] for part in query if part.startswith("last_event_id=")), None)
    text = request.headers.get("last-event-id", in_query)
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise InvalidRequest("the stream cannot be resumed there", (FieldProblem("last_event_id", "an event's id"),))
    return int(text)


class Frames:
    """How events look in one kind of stream; each is encoded once for all who follow it.

    ``encode`` gives an event's frame, or None for one that the stream does not show.
    """

    def __init__(self, encode: Callable[[Event], bytes | None], *, capacity: int = 4096) -> None:
        self._encode = encode
        self._capacity = capacity
        self._made: OrderedDict[int, bytes | None] = OrderedDict()

    def of(self, event: Event) -> bytes:
        """Return the frame of an event; empty when it is not shown."""
        try:
            made = self._made[event.id]
        except KeyError:
            made = self._made[event.id] = self._encode(event)
            if len(self._made) > self._capacity:
                self._made.popitem(last=False)
        return made or b""


class Streams:
    """Opens event streams, so many at a time for each principal."""

    def __init__(self, log: EventLog, *, per_principal: int = 32) -> None:
        self._log = log
        self._limit = per_principal
        self._open: Counter[str] = Counter()

    def answer(
        self,
        request: Request,
        frames: Frames,
        *,
        where: EventFilter = ALL,
        after: int | None = None,
        until: Callable[[Event], bool] | None = None,
        greeting: bytes = b"",
    ) -> Answer:
        """Return an answer that streams the events after Last-Event-ID, else after ``after`` (None: from now on). A
        ``greeting`` is sent before them.

        It ends after the event for which ``until`` holds, when the daemon stops, or when the credential is no longer
        good. A reader that falls behind is cut off with a comment, and resumes where it was. Raises RateLimited when
        the principal has too many streams open.
        """
        who = request.caller.actor if request.caller is not None else f"ip:{request.ip}"
        resume = last_event_id(request)
        if self._open[who] >= self._limit:
            raise RateLimited(f"at most {self._limit} event streams may be open at a time", retry_after=1.0)
        start = after if resume is None else resume
        return Answer(
            200,
            _EventStream(self._open, who, self._log, request, frames, where, start, until, greeting),
            headers=HEADERS,
            media_type="text/event-stream; charset=utf-8",
        )


class _EventStream(AbstractAsyncContextManager["_EventStream"], AsyncIterator[bytes]):
    """One open stream. What gathers within 50 ms leaves in one piece."""

    def __init__(
        self,
        counter: Counter[str],
        who: str,
        log: EventLog,
        request: Request,
        frames: Frames,
        where: EventFilter,
        after: int | None,
        until: Callable[[Event], bool] | None,
        greeting: bytes,
    ) -> None:
        self._greeting = greeting
        self._counter = counter
        self._who = who
        self._request = request
        self._frames = frames
        self._until = until
        self._following = log.follow(after=after, where=where, buffer=BUFFER)
        self._follower: Follower
        self._begun = False
        self._ended = False
        self._next_write = -inf
        self._next_check = inf

    async def __aenter__(self) -> _EventStream:
        self._follower = await self._following.__aenter__()
        self._counter[self._who] += 1
        self._next_check = trio.current_time() + RECHECK_SECONDS
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._counter[self._who] -= 1
        if not self._counter[self._who]:
            del self._counter[self._who]
        await self._following.__aexit__(kind, error, trace)

    def __aiter__(self) -> _EventStream:
        return self

    async def __anext__(self) -> bytes:
        if not self._begun:
            self._begun = True
            return b"retry: 2000\n\n" + self._greeting
        while not self._ended:
            try:
                piece = await self._piece()
            except SlowReader as error:
                self._ended = True
                return b": cut off: %s\n\n" % error.message.encode()
            except AnvilError as error:
                self._ended = True
                return b": ended: %s\n\n" % error.message.encode()
            if piece:
                return piece
        raise StopAsyncIteration

    async def _piece(self) -> bytes:
        stopping: Stopping = self._request.stopping
        now = trio.current_time()
        if now >= self._next_check:
            await self._request.recheck()
            self._next_check = now + RECHECK_SECONDS
        events: list[Event] = []
        with stopping.ending(trio.CancelScope(deadline=min(now + KEEP_ALIVE_SECONDS, self._next_check))):
            await trio.sleep_until(self._next_write)
            events = await self._follower.batch()
        if not events:
            self._ended = stopping.is_set()
            return b": stopping\n\n" if self._ended else b": keep-alive\n\n"
        self._next_write = trio.current_time() + BATCH_SECONDS
        if self._until is not None:
            for index, event in enumerate(events):
                if self._until(event):
                    self._ended = True
                    events = events[: index + 1]
                    break
        return b"".join(map(self._frames.of, events))
