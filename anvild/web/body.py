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


class BodyReader:
    """The body of one request, counted whether its length was announced or not. It can be read once."""

    def __init__(self, receive: Receive, headers: Iterable[tuple[bytes, bytes]], limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._announced = next((value for name, value in headers if name == b"content-length"), None)

    async def whole(self) -> bytes:
        """Return the whole body. Raises as :meth:`chunks` does."""
        return b"".join([chunk async for chunk in self.chunks()])

    async def chunks(self) -> AsyncIterator[bytes]:
        """Iterate over the body as it arrives.

        Raises TooLarge before anything beyond the limit is taken in, and ClientGone. The connection's own patience
        ends a body that is too slow.
        """
        if self._announced is not None and (not self._announced.isdigit() or len(self._announced) > 18):
            raise InvalidRequest("the length of the body is no number")
        if self._announced is not None and int(self._announced) > self._limit:
            raise self._too_large()
        taken = 0
        more = True
        while more:
            message = await self._receive()
            if message["type"] != "http.request":
                await trio.lowlevel.checkpoint()  # the server cancels this request
                raise ClientGone
            chunk = message.get("body", b"")
            more = message.get("more_body", False)
            taken += len(chunk)
            if taken > self._limit:
                raise self._too_large()
            if chunk:
                yield chunk

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the body is larger than {self._limit} bytes", max_bytes=self._limit)
