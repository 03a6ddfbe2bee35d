"""What a driver says gets into the log line by line, and a flood of it does not."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
import trio
from trio.testing import MockClock, memory_stream_one_way_pair

from anvild.core.isolation.sayings import BYTES_PER_SECOND, LINE_LIMIT, LINES_AT_ONCE, LINES_PER_SECOND, Sayings
from anvild.core.logging import configure
from anvild.sdk.protocol import LogLine

Said = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def said() -> Iterator[Said]:
    """The lines of the log until now."""
    stream = io.StringIO()
    configure(stream, pretty=False)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    structlog.reset_defaults()


async def heard(sayings: Sayings, *chunks: bytes) -> None:
    send, receive = memory_stream_one_way_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sayings.read, receive)
        for chunk in chunks:
            await send.send_all(chunk)
            await trio.testing.wait_all_tasks_blocked()
        await send.aclose()


async def test_lines_carry_the_drivers_name(said: Said) -> None:
    sayings = Sayings("lamp")
    await heard(sayings, b"one\ntw", b"o\n\nthree")
    assert [(line["part"], line["event"], line["line"]) for line in said()] == [
        ("driver.lamp", "said", "one"),
        ("driver.lamp", "said", "two"),
        ("driver.lamp", "said", "three"),
    ]
    assert (sayings.last_words, sayings.dropped) == ("three", 0)


async def test_a_long_line_is_cut(said: Said, autojump_clock: MockClock) -> None:
    sayings = Sayings("lamp")
    await heard(sayings, *[b"x" * 65536] * 160, b"\nshort\n")
    first, second = said()
    assert (first["line"], first["cut"]) == ("x" * LINE_LIMIT, 160 * 65536 - LINE_LIMIT)
    assert second["line"] == "short"
    assert len(sayings._line) == 0


async def test_a_flood_of_lines_is_dropped_and_counted(said: Said, mock_clock: MockClock) -> None:
    sayings = Sayings("lamp")
    await heard(sayings, b"".join(b"%d\n" % number for number in range(10_000)), b"the last\nand mo")
    lines = said()
    assert [line["line"] for line in lines[:-2]] == [str(number) for number in range(LINES_AT_ONCE)]
    assert sayings.dropped == 10_001 - LINES_AT_ONCE
    # What was cut off by the end is told all the same, and how much was lost before it.
    assert (lines[-2]["event"], lines[-2]["lines"]) == ("lines_dropped", sayings.dropped)
    assert lines[-1]["line"] == "and mo"


async def test_the_last_words_are_known_though_they_were_dropped(mock_clock: MockClock) -> None:
    sayings = Sayings("lamp")
    await heard(sayings, b"noise\n" * 10_000 + b"RuntimeError: the bulb is broken\n")
    assert sayings.last_words == "RuntimeError: the bulb is broken"
    sayings.begin()
    assert sayings.last_words == ""


async def test_the_log_opens_again_with_time(said: Said, mock_clock: MockClock) -> None:
    sayings = Sayings("lamp")
    await heard(sayings, b"noise\n" * LINES_AT_ONCE * 2)
    mock_clock.jump(1)
    before = len(said())
    await heard(sayings, b"noise\n" * LINES_AT_ONCE)
    assert len(said()) == before + LINES_PER_SECOND + 1  # and one that tells of the loss


async def test_who_writes_faster_waits(autojump_clock: MockClock) -> None:
    sayings = Sayings("lamp")
    began = trio.current_time()
    await heard(sayings, *[b"x" * 65536] * (2 * BYTES_PER_SECOND // 65536))
    assert trio.current_time() - began > 1.5


async def test_structured_lines_keep_to_the_same_bounds(said: Said, autojump_clock: MockClock) -> None:
    sayings = Sayings("lamp")
    await sayings.hear(LogLine(level="warning", event="bulb_dim", values={"watts": 3, "event": "x", "level": "y"}))
    await sayings.hear(LogLine(level="shouted", event="x" * 10_000, values={"much": "y" * 10_000}, lost=7))
    first, lost, second = said()
    assert (first["level"], first["event"], first["watts"]) == ("warning", "bulb_dim", 3)
    assert (lost["event"], lost["lines"], sayings.dropped) == ("lines_dropped", 7, 7)
    assert (second["level"], len(second["event"]), second["cut"]) == ("info", 300, True)
    began = trio.current_time()
    for _ in range(LINES_AT_ONCE + LINES_PER_SECOND):
        await sayings.hear(LogLine(level="info", event="again"))
    assert trio.current_time() - began > 1
