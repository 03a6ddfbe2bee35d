"""The descriptors that the agent listens to."""

from __future__ import annotations

import collections
import os
import select

from .wire import PAYLOAD_LIMIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Handler = Callable[[int, int], None]

DRAIN_LIMIT = 128


class Poll:
    """Descriptors with their handlers, and pipes that are read only to be emptied."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.handlers: dict[int, Handler] = {}
        self.drains: collections.deque[int] = collections.deque()

    def watch(self, fd: int, handler: Handler, events: int) -> None:
        if fd in self.handlers:
            self.epoll.modify(fd, events)
        else:
            self.epoll.register(fd, events)
        self.handlers[fd] = handler

    def unwatch(self, fd: int) -> None:
        if self.handlers.pop(fd, None):
            self.epoll.unregister(fd)

    def wait(self, timeout: float | None) -> None:
        """Wait at most so many seconds, or for ever, and call the handlers of what has happened."""
        for fd, events in self.epoll.poll(timeout):
            handler = self.handlers.get(fd)
            if handler:
                handler(fd, events)

    def drain(self, fd: int) -> None:
        """Go on reading a pipe that an ended program's children hold, so that they do not die of it."""
        self.drains.append(fd)
        self.watch(fd, self.discard, select.EPOLLIN)
        if len(self.drains) > DRAIN_LIMIT:
            self.end_drain(self.drains[0])

    def discard(self, fd: int, _events: int) -> None:
        try:
            data = os.read(fd, PAYLOAD_LIMIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.end_drain(fd)

    def end_drain(self, fd: int) -> None:
        self.drains.remove(fd)
        self.unwatch(fd)
        os.close(fd)
