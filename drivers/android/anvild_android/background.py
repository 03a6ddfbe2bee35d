"""A nursery for the tasks that the driver keeps between its start and its stop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVarTuple

import trio

__all__ = ["Background"]

Ts = TypeVarTuple("Ts")


class Background:
    """Holds tasks from :meth:`open` to :meth:`close`. An error of one is told to ``on_error`` and harms no other."""

    def __init__(self, on_error: Callable[[Exception], None]) -> None:
        self._on_error = on_error
        self._nursery: trio.Nursery | None = None
        self._closed = trio.Event()

    async def open(self) -> None:
        """Begin to take tasks. Opening twice is fine."""
        if self._nursery is None:
            opened = trio.Event()
            self._closed = trio.Event()
            trio.lowlevel.spawn_system_task(self._hold, opened)
            await opened.wait()

    async def _hold(self, opened: trio.Event) -> None:
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                opened.set()
                await trio.sleep_forever()
        finally:
            self._nursery = None
            self._closed.set()

    async def start(self, function: Callable[..., Awaitable[object]], *args: object) -> Any:
        """Start a task and return what it says when it has started. What it raises before that is raised here."""
        assert self._nursery is not None, "the driver has not been started"
        return await self._nursery.start(self._begun, function, args)

    def start_soon(self, function: Callable[[*Ts], Awaitable[object]], *args: *Ts) -> None:
        """Start a task. After :meth:`close` it does not begin."""
        if self._nursery is not None:
            self._nursery.start_soon(self._alone, function, args)

    async def _begun(
        self, function: Callable[..., Awaitable[object]], args: tuple[object, ...], *, task_status: trio.TaskStatus[Any]
    ) -> None:
        status = _Status(task_status)
        try:
            await function(*args, task_status=status)
        except Exception as error:
            if not status.has_started:
                raise
            self._on_error(error)

    async def _alone(self, function: Callable[[*Ts], Awaitable[object]], args: tuple[*Ts]) -> None:
        try:
            await function(*args)
        except Exception as error:
            self._on_error(error)

    async def close(self) -> None:
        """Cancel all tasks and return when they have ended. Closing twice is fine."""
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()
            await self._closed.wait()


class _Status:
    """A task status that remembers whether the task has said that it has started."""

    def __init__(self, status: trio.TaskStatus[Any]) -> None:
        self._status = status
        self.has_started = False

    def started(self, value: Any = None) -> None:
        self._status.started(value)
        self.has_started = True
