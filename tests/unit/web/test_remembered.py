"""Remembered answers: never older than what an event has told of."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import trio

from anvild.sdk import Event, NotFound
from anvild.web.remembered import Remembered


def run_event(run: str) -> Event:
    return Event(id=1, at=datetime.now(UTC), kind="run.phase", subject_type="run", subject_id=run, run_id=run)


@pytest.fixture
def remembered() -> Remembered:
    return Remembered(lambda event: [event.run_id or ""], capacity=2)


async def answer(remembered: Remembered, scope: str, value: bytes) -> bytes:
    async def make() -> bytes:
        await trio.lowlevel.checkpoint()
        return value

    return await remembered.get(scope, "detail", make)


async def test_an_answer_is_made_once_until_an_event(remembered: Remembered) -> None:
    assert await answer(remembered, "a", b"1") == b"1"
    assert await answer(remembered, "a", b"2") == b"1"
    remembered._announced(["something else", run_event("b")])
    assert await answer(remembered, "a", b"3") == b"1"
    remembered._announced([run_event("a")])
    assert await answer(remembered, "a", b"4") == b"4"


async def test_an_answer_that_an_event_overtook_is_not_kept(remembered: Remembered) -> None:
    async def make() -> bytes:
        remembered._announced([run_event("a")])
        return b"old"

    assert await remembered.get("a", "detail", make) == b"old"
    assert await answer(remembered, "a", b"new") == b"new"


async def test_an_error_is_not_kept(remembered: Remembered) -> None:
    async def fail() -> bytes:
        raise NotFound("there is no such run")

    with pytest.raises(NotFound):
        await remembered.get("a", "detail", fail)
    assert await answer(remembered, "a", b"1") == b"1"


async def test_memory_is_bounded(remembered: Remembered) -> None:
    for scope in "abc":
        await answer(remembered, scope, b"1")
    assert await answer(remembered, "c", b"2") == b"1"
    assert await answer(remembered, "a", b"2") == b"2"
