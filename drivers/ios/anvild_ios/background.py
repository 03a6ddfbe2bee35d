"""Tasks that live as long as something that is no task itself: a driver, a session."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

__all__ = ["Background"]


class Background:
    """Holds tasks from :meth:`open` to :meth:`close`. A task that fails after its start is told of to ``on_error``."""

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

    async def start(self, function: Callable[..., Awaitable[object]], *args: object) -> Any:
        """Start a task and return what it tells when it has started; an error before that is raised here."""
        assert self._nursery is not None, "it is not open"
        return await self._nursery.start(self._run, function, args)

    async def close(self) -> None:
        """Cancel all tasks and return when they have ended. Closing twice is fine."""
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await self._closed.wait()

    async def _hold(self, opened: trio.Event) -> None:
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                opened.set()
                await trio.sleep_forever()
        finally:
            self._nursery = None
            self._closed.set()

    async def _run(
        self, function: Callable[..., Awaitable[object]], args: tuple[object, ...], *, task_status: trio.TaskStatus[Any]
    ) -> None:
        status = _Status(task_status)
        try:
            await function(*args, task_status=status)
        except Exception as error:
            if not status.told:
                raise
            self._on_error(error)


class _Status:
    """A task status that remembers whether the task has started."""

    def __init__(self, status: trio.TaskStatus[Any]) -> None:
        self._status = status
        self.told = False

    def started(self, value: Any = None) -> None:
        self.told = True
        self._status.started(value)
