"""A nursery for tasks that live as long as something that is no task itself: a driver between its start and its stop, a
session."""

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
        """Start a task and wait until it says that it has started; an error before that is raised here."""
        return await self._taking().start(self._guarded, function, *args)

    def start_soon(self, function: Callable[[*Ts], Awaitable[object]], *args: *Ts) -> None:
        """Start a task. After :meth:`close` it does not begin."""
        if not self._closed.is_set():
            self._taking().start_soon(self._alone, function, args)

    def _taking(self) -> trio.Nursery:
        assert self._nursery is not None, "open it first"
        return self._nursery

    async def _guarded(
        self, function: Callable[..., Awaitable[object]], *args: object, task_status: trio.TaskStatus[Any]
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
            with trio.CancelScope(shield=True):
                await self._closed.wait()


class _Status:
    """A task status that remembers whether the task has said that it has started."""

    def __init__(self, status: trio.TaskStatus[Any]) -> None:
        self._status = status
        self.has_started = False

    def started(self, value: Any = None) -> None:
        self._status.started(value)
        self.has_started = True
