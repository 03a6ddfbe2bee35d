"""Tasks that live as long as a driver or a session."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from anvild.sdk.background import Background


async def started_then(error: Exception | None, *, task_status: trio.TaskStatus[str]) -> None:
    task_status.started("here")
    if error is not None:
        raise error
    await trio.sleep_forever()


async def test_tasks_run_until_it_is_closed() -> None:
    errors: list[Exception] = []
    background = Background(errors.append)
    await background.open()
    await background.open()
    ended = trio.Event()

    async def lasting() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    background.start_soon(lasting)
    assert await background.start(started_then, None) == "here"
    await background.close()
    assert ended.is_set()
    background.start_soon(lasting)
    await background.close()
    assert errors == []


async def test_a_task_that_fails_harms_no_other() -> None:
    errors: list[Exception] = []
    background = Background(errors.append)
    await background.open()
    assert await background.start(started_then, ValueError("late")) == "here"

    async def failing() -> None:
        raise KeyError("soon")

    async def early(*, task_status: trio.TaskStatus[None]) -> None:
        raise LookupError("before it has started")

    background.start_soon(failing)
    await trio.testing.wait_all_tasks_blocked()
    assert sorted(map(repr, errors)) == ["KeyError('soon')", "ValueError('late')"]
    with pytest.raises(LookupError):
        await background.start(early)
    assert await background.start(started_then, None) == "here"
    await background.close()


async def test_it_takes_nothing_before_it_is_open() -> None:
    with pytest.raises(AssertionError):
        Background(lambda error: None).start_soon(trio.sleep_forever)


async def test_closing_ends_its_tasks_even_when_cancelled() -> None:
    background = Background(lambda error: None)
    await background.open()
    ended = trio.Event()

    async def slow() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
            ended.set()

    background.start_soon(slow)
    await trio.testing.wait_all_tasks_blocked()
    with trio.CancelScope() as scope:
        scope.cancel()
        await background.close()
    assert ended.is_set()
