"""Rate limits: moving windows on the loop's clock, in bounded memory."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from anvild.core.errors import RateLimited
from anvild.core.identity import Limits


async def test_a_window_moves(mock_clock: MockClock) -> None:
    limits = Limits({"two": "2/10second"})
    mock_clock.jump(1000)
    first = limits.hit("two", "a")
    assert (first.allowed, first.limit, first.window, first.remaining) == (True, 2, 10, 1)
    assert first.reset == pytest.approx(10)
    mock_clock.jump(4)
    assert limits.hit("two", "a").remaining == 0
    refused = limits.hit("two", "a")
    assert (refused.allowed, refused.remaining) == (False, 0)
    assert refused.reset == pytest.approx(6)
    assert limits.hit("two", "b").allowed
    mock_clock.jump(6)
    assert limits.hit("two", "a").allowed
    assert not limits.hit("two", "a").allowed
    mock_clock.jump(4)
    assert limits.hit("two", "a").allowed


async def test_a_refused_request_does_not_count(mock_clock: MockClock) -> None:
    limits = Limits({"one": "1/10second"})
    assert limits.hit("one").allowed
    for _ in range(9):
        mock_clock.jump(1)
        assert not limits.hit("one").allowed
    mock_clock.jump(1)
    assert limits.hit("one").allowed


async def test_the_error_says_when_to_come_back(mock_clock: MockClock) -> None:
    limits = Limits()
    for _ in range(5):
        limits.check("password_account", "ada")
    with pytest.raises(RateLimited) as caught:
        limits.check("password_account", "ada")
    assert caught.value.retry_after == pytest.approx(60)
    mock_clock.jump(caught.value.retry_after)
    limits.check("password_account", "ada")


async def test_the_same_key_under_two_limits_counts_apart() -> None:
    limits = Limits({"one": "1/minute", "other": "1/minute"})
    assert limits.hit("one", "k").allowed
    assert limits.hit("other", "k").allowed


async def test_an_undefined_limit_is_a_defect_of_the_caller() -> None:
    with pytest.raises(LookupError, match="nope"):
        Limits().hit("nope")


async def test_the_memory_is_bounded() -> None:
    limits = Limits({"one": "1/minute"}, capacity=100)
    assert limits.hit("one", "first").allowed
    for number in range(99):
        limits.hit("one", str(number))
    assert not limits.hit("one", "first").allowed
    for number in range(100, 300):
        limits.hit("one", str(number))
    assert limits.hit("one", "first").allowed
    assert trio.current_time() > 0
