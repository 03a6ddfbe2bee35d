"""What an answer sends after its handler has returned, held open meanwhile by a task of the wing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from types import TracebackType

import trio

from anvild.core.logging import get_logger
from anvild.sdk import AnvilError, Unavailable

from .request import ByteStream

__all__ = ["keep_open"]

PATIENCE_SECONDS = 30.0

log = get_logger("web")


async def keep_open(nursery: trio.Nursery, source: ByteStream) -> ByteStream:
    """Enter ``source`` in a task of ``nursery``, and return what an :class:`Answer` sends of it.

    Raises what entering raises, so that it can still be answered with. The source is left when the sending has ended,
    however it did, or when it has not begun in :data:`PATIENCE_SECONDS`, because the client is gone.
    """
    kept = _Kept()
    await nursery.start(kept.hold, source)
    return kept


class _Kept(AbstractAsyncContextManager[AsyncIterator[bytes]]):
    def __init__(self) -> None:
        self._pieces: AsyncIterator[bytes] | None = None
        self._begun = trio.Event()
        self._over = trio.Event()
        self._left = trio.Event()

    async def hold(self, source: ByteStream, task_status: trio.TaskStatus[None]) -> None:
        begun = False
        try:
            async with source as pieces:
                self._pieces = pieces
                task_status.started()
                begun = True
                with trio.move_on_after(PATIENCE_SECONDS):
                    await self._begun.wait()
                if self._begun.is_set():
                    await self._over.wait()
                self._pieces = None
        except AnvilError as error:
            if not begun:
                raise
            log.warning("answer_source_failed", reason=error.message)
        finally:
            self._pieces = None
            self._left.set()

    async def __aenter__(self) -> AsyncIterator[bytes]:
        self._begun.set()
        if self._pieces is None:
            raise Unavailable("what the answer was to send has been closed")
        return self._pieces

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        await self._left.wait()
