"""An allowance lets a burst through, and after that so much a second."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from anvild.core.allowance import Allowance


async def test_a_burst_then_a_rate(mock_clock: MockClock) -> None:
    allowance = Allowance(2, 5)
    assert [allowance.take() for _ in range(6)] == [True] * 5 + [False]
    mock_clock.jump(1)
    assert [allowance.take() for _ in range(3)] == [True, True, False]
    mock_clock.jump(1000)
    assert [allowance.take() for _ in range(6)] == [True] * 5 + [False]


async def test_who_waits_is_held_back_to_the_rate(autojump_clock: MockClock) -> None:
    allowance = Allowance(2, 5)
    began = trio.current_time()
    late = [await allowance.wait() for _ in range(15)]
    assert late == [False] * 5 + [True] * 10
    assert trio.current_time() - began == 5


async def test_waiting_is_cancelled(autojump_clock: MockClock) -> None:
    allowance = Allowance(1, 1)
    assert allowance.take()
    with trio.move_on_after(0.5) as scope:
        await allowance.wait()
    assert scope.cancelled_caught
