"""Reading the body of a request: bounded, with a deadline, holding the client back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import trio

from anvild.core.errors import InvalidRequest, TooLarge

__all__ = ["BodyReader", "ClientGone"]

Receive = Callable[[], Awaitable[Any]]


class ClientGone(Exception):
    """The client has left before its body was complete."""


class BodyReader(AsyncIterator[bytes]):
    """The body of one request, counted whether its length was announced or not. It is read once, piece by piece.

    Raises TooLarge before anything beyond the limit is taken in, and ClientGone. The connection's own patience ends a
    body that is too slow.
    """

    def __init__(self, receive: Receive, headers: Iterable[tuple[bytes, bytes]], limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._announced = next((value for name, value in headers if name == b"content-length"), None)
        self._taken = 0
        self._more = True

    async def whole(self) -> bytes:
        """Return the whole body."""
        return b"".join([chunk async for chunk in self])

    async def __anext__(self) -> bytes:
        self._check_announced()
        while self._more:
            message = await self._receive()
            if message["type"] != "http.request":
                await trio.lowlevel.checkpoint()  # the server cancels this request
                raise ClientGone
            chunk: bytes = message.get("body", b"")
            self._more = message.get("more_body", False)
            self._taken += len(chunk)
            if self._taken > self._limit:
                raise self._too_large()
            if chunk:
                return chunk
        raise StopAsyncIteration

    def _check_announced(self) -> None:
        if self._announced is None:
            return
        if not self._announced.isdigit() or len(self._announced) > 18:
            raise InvalidRequest("the length of the body is no number")
        if int(self._announced) > self._limit:
            raise self._too_large()

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the body is larger than {self._limit} bytes", max_bytes=self._limit)
