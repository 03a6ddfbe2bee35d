"""Event streams, on a log that the test commits to by hand and a clock that jumps."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from anvild.core.errors import Forbidden, InvalidRequest, RateLimited
from anvild.core.events import ALL, EventFilter, EventLog, Follower
from anvild.sdk import Event, Services
from anvild.web.body import BodyReader
from anvild.web.request import Answer, Request
from anvild.web.sse import BATCH_SECONDS, BUFFER, Frames, Streams, frame
from anvild.web.stopping import Stopping


class Log:
    """An event log in memory, with the followers of the real one."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.followers: list[Follower] = []

    def commit(self, count: int = 1, kind: str = "run.changed") -> list[Event]:
        first = len(self.events) + 1
        fresh = [
            Event(id=first + n, at=datetime.now(UTC), kind=kind, subject_type="run", subject_id="r1", data={"n": n})
            for n in range(count)
        ]
        self.events += fresh
        for follower in self.followers:
            follower.offer(fresh)
        return fresh

    @asynccontextmanager
    async def follow(self, *, after: int | None, where: EventFilter = ALL, buffer: int) -> AsyncIterator[Follower]:
        async def page(start: int, end: int | None) -> list[Event]:
            await trio.lowlevel.checkpoint()
            return [event for event in self.events if event.id > start and (end is None or event.id < end)][:500]

        def join(follower: Follower) -> int:
            self.followers.append(follower)
            return len(self.events)

        follower = Follower(where, after=after or 0, buffer=buffer, page=page, join=join)
        if after is None:
            follower.join()
        try:
            yield follower
        finally:
            if follower in self.followers:
                self.followers.remove(follower)


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def streams(log: Log) -> Streams:
    return Streams(cast("EventLog", log), per_principal=2)


FRAMES = Frames(lambda event: frame(event.id, event.kind, event.data))


def ask(headers: dict[str, str] | None = None, query: str = "", **more: Any) -> Request:
    scope = {
        "method": "GET",
        "path": "/events",
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in (headers or {}).items()],
        "client": ("127.0.0.1", 1),
        "state": {"stopping": Stopping()},
    }

    async def receive() -> Any:
        await trio.sleep_forever()

    return Request(scope, Services(), path={}, reader=BodyReader(receive, [], 0), **more)


@asynccontextmanager
async def opened(answer: Answer) -> AsyncIterator[AsyncIterator[bytes]]:
    async with cast("Any", answer.body) as pieces:
        assert await anext(pieces) == b"retry: 2000\n\n"
        yield pieces


def ids(pieces: Sequence[bytes]) -> list[int]:
    return [int(line[4:]) for line in b"".join(pieces).split(b"\n") if line.startswith(b"id: ")]


async def test_events_come_with_id_name_and_data(log: Log, streams: Streams, autojump_clock: MockClock) -> None:
    answer = streams.answer(ask(), FRAMES)
    assert (answer.status, answer.media_type) == (200, "text/event-stream; charset=utf-8")
    async with opened(answer) as pieces:
        log.commit()
        assert await anext(pieces) == b'id: 1\nevent: run.changed\ndata: {"n":0}\n\n'


async def test_what_gathers_within_the_batch_time_leaves_in_one_piece(
    log: Log, streams: Streams, autojump_clock: MockClock
) -> None:
    async with opened(streams.answer(ask(), FRAMES)) as pieces:
        log.commit()
        assert ids([await anext(pieces)]) == [1]
        start = trio.current_time()
        log.commit(5)
        log.commit(5)
        assert ids([await anext(pieces)]) == list(range(2, 12))
        assert trio.current_time() - start == pytest.approx(BATCH_SECONDS)


async def test_a_silent_stream_is_kept_alive(log: Log, streams: Streams, autojump_clock: MockClock) -> None:
    async with opened(streams.answer(ask(), FRAMES)) as pieces:
        start = trio.current_time()
        assert await anext(pieces) == b": keep-alive\n\n"
        assert trio.current_time() - start == pytest.approx(15)


@pytest.mark.parametrize("where", ["header", "query"])
async def test_a_reader_resumes_after_what_it_has_seen(
    log: Log, streams: Streams, where: str, autojump_clock: MockClock
) -> None:
    log.commit(1200)
    request = ask({"last-event-id": "40"}) if where == "header" else ask(query="a=b&last_event_id=40")
    found: list[int] = []
    async with opened(streams.answer(request, FRAMES)) as pieces:
        while not found or found[-1] < 1200:
            found += ids([await anext(pieces)])
        log.commit(3)
        found += ids([await anext(pieces)])
    assert found == list(range(41, 1204))


async def test_an_id_that_is_none_is_refused(streams: Streams) -> None:
    for text in ("x", "-1", "1.5", "9" * 30):
        with pytest.raises(InvalidRequest):
            streams.answer(ask({"last-event-id": text}), FRAMES)
    assert streams.answer(ask({"last-event-id": ""}), FRAMES).status == 200


async def test_a_slow_reader_is_cut_off_and_resumes_without_a_gap(
    log: Log, streams: Streams, autojump_clock: MockClock
) -> None:
    found: list[int] = []
    async with opened(streams.answer(ask(), FRAMES)) as pieces, opened(streams.answer(ask(), FRAMES)) as other:
        log.commit(BUFFER)
        assert len(ids([await anext(other)])) == BUFFER  # it reads in time, and is not slowed down
        log.commit(BUFFER)
        rest = [piece async for piece in pieces]
        assert rest[-1].startswith(b": cut off")
        found += ids(rest)
        assert len(ids([await anext(other)])) == BUFFER
    total = 2 * BUFFER
    assert 0 < len(found) < total
    async with opened(streams.answer(ask({"last-event-id": str(found[-1])}), FRAMES)) as pieces:
        while found[-1] < total:
            found += ids([await anext(pieces)])
    assert found == list(range(1, total + 1))


async def test_a_stream_ends_with_its_last_event(log: Log, streams: Streams, autojump_clock: MockClock) -> None:
    async with opened(streams.answer(ask(), FRAMES, until=lambda event: event.kind == "run.passed")) as pieces:
        log.commit()
        log.commit(kind="run.passed")
        log.commit()
        assert ids([piece async for piece in pieces]) == [1, 2]


async def test_a_stream_ends_when_the_daemon_stops(log: Log, streams: Streams) -> None:
    request = ask()
    async with opened(streams.answer(request, FRAMES)) as pieces, trio.open_nursery() as nursery:
        nursery.start_soon(trio.lowlevel.checkpoint)
        request.stopping.set()
        assert [piece async for piece in pieces] == [b": stopping\n\n"]


async def test_a_stream_ends_when_its_credential_does(log: Log, streams: Streams, autojump_clock: MockClock) -> None:
    checks: list[float] = []

    async def recheck() -> None:
        checks.append(trio.current_time())
        if len(checks) == 2:
            raise Forbidden("the key was revoked")

    start = trio.current_time()
    async with opened(streams.answer(ask(recheck=recheck), FRAMES)) as pieces:
        told = [piece async for piece in pieces]
    assert told[-1] == b": ended: the key was revoked\n\n"
    assert [round(at - start) for at in checks] == [60, 120]


async def test_streams_of_one_principal_are_limited(log: Log, streams: Streams) -> None:
    async with opened(streams.answer(ask(), FRAMES)):
        async with opened(streams.answer(ask(), FRAMES)):
            with pytest.raises(RateLimited):
                streams.answer(ask(), FRAMES)
        streams.answer(ask(), FRAMES)


async def test_an_event_is_encoded_once_for_all(log: Log, streams: Streams) -> None:
    made: list[int] = []

    def encode(event: Event) -> bytes | None:
        made.append(event.id)
        return None if event.id == 1 else frame(event.id, event.kind, {})

    frames = Frames(encode, capacity=2)
    events = log.commit(2)
    assert [frames.of(event) for event in (*events, *events)] == [b"", frame(2, "run.changed", {})] * 2
    assert made == [1, 2]
