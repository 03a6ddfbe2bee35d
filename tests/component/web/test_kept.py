"""What an answer sends after its handler has returned is open meanwhile, and is closed however that ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from anvild.sdk import NotFound, Unavailable
from anvild.web.kept import PATIENCE_SECONDS, keep_open


class Source:
    """Something to send. ``closed`` when it is not open any more."""

    def __init__(self, refusal: Exception | None = None) -> None:
        self.closed = trio.Event()
        self.refusal = refusal

    @asynccontextmanager
    async def open(self) -> AsyncIterator[AsyncIterator[bytes]]:
        if self.refusal is not None:
            raise self.refusal
        try:
            yield _pieces()
        finally:
            self.closed.set()


async def _pieces() -> AsyncIterator[bytes]:
    yield b"one"
    yield b"two"


async def test_it_is_sent_and_then_closed(nursery: trio.Nursery) -> None:
    source = Source()
    async with await keep_open(nursery, source.open()) as pieces:
        assert not source.closed.is_set()
        assert [piece async for piece in pieces] == [b"one", b"two"]
    assert source.closed.is_set()


async def test_what_opening_it_raises_can_be_answered(nursery: trio.Nursery) -> None:
    with pytest.raises(NotFound):
        await keep_open(nursery, Source(NotFound("nothing is there")).open())


async def test_it_is_closed_when_the_client_breaks_off(nursery: trio.Nursery) -> None:
    source = Source()
    with trio.CancelScope() as scope:
        async with await keep_open(nursery, source.open()):
            scope.cancel()
            await trio.sleep_forever()
    await source.closed.wait()


async def test_one_that_no_answer_takes_is_closed(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    source = Source()
    begun = trio.current_time()
    kept = await keep_open(nursery, source.open())
    await source.closed.wait()
    assert trio.current_time() - begun == pytest.approx(PATIENCE_SECONDS)
    with pytest.raises(Unavailable):
        async with kept:
            pytest.fail("it was sent")
