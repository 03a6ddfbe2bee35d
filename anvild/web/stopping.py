"""Telling answers without end that the daemon stops."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

__all__ = ["Stopping"]


class Stopping:
    """An event that can also end waits: what is within :meth:`ending` is cancelled when the daemon stops."""

    def __init__(self) -> None:
        self._event = trio.Event()
        self._scopes: set[trio.CancelScope] = set()

    def is_set(self) -> bool:
        """Whether the daemon is stopping."""
        return self._event.is_set()

    async def wait(self) -> None:
        """Wait until the daemon stops."""
        await self._event.wait()

    def set(self) -> None:
        """Say that the daemon stops."""
        self._event.set()
        for scope in self._scopes:
            scope.cancel()

    @contextmanager
    def ending(self, scope: trio.CancelScope) -> Iterator[None]:
        """Run a block within ``scope``, which is cancelled when the daemon stops."""
        if self._event.is_set():
            scope.cancel()
        self._scopes.add(scope)
        try:
            with scope:
                yield
        finally:
            self._scopes.discard(scope)
