"""Requests of this side that have no answer yet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import trio

__all__ = ["Pending"]

T = TypeVar("T")


class Pending(Generic[T]):
    """A request of this side that has no answer yet. One task at most waits for it."""

    __slots__ = ("abandoned", "decode", "discard", "done", "error", "method", "task", "value")

    def __init__(self, method: str, decode: Callable[[Any], T], discard: Callable[[T], None] | None) -> None:
        self.method = method
        self.decode = decode
        self.discard = discard
        self.task: trio.lowlevel.Task | None = None
        self.done = False
        self.abandoned = False
        self.error: Exception | None = None
        self.value: Any = None

    def settle(self) -> None:
        """There is an answer: wake who waits for it."""
        self.done = True
        if self.task is not None:
            trio.lowlevel.reschedule(self.task)
            self.task = None

    async def wait(self) -> None:
        """Return when there is an answer."""
        if self.done:
            return

        def abort(_: object) -> trio.lowlevel.Abort:
            self.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        self.task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)
