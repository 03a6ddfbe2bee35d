"""Multipart forms, read as they arrive: whatever the size of a file in one, little of it is in memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData, Preamble

from anvild.core.errors import InvalidRequest

from .errors import UnsupportedMediaType
from .request import Request

__all__ = ["Form"]

HEAD_LIMIT = 64 * 1024
PARTS_LIMIT = 100


class Form:
    """The parts of a request's body, in their order. Raises InvalidRequest for what is no form, and as
    :meth:`Request.chunks`."""

    def __init__(self, request: Request) -> None:
        media_type, options = parse_options_header(request.headers.get("content-type"))
        boundary = options.get("boundary", "")
        if media_type != "multipart/form-data" or not 1 <= len(boundary) <= 70:
            raise UnsupportedMediaType("the content type must be multipart/form-data, with its boundary")
        self._chunks = request.chunks()
        self._decoder = MultipartDecoder(boundary.encode("latin-1", "replace"), max_parts=PARTS_LIMIT)
        self._within = False
        self._ended = False

    async def next_part(self) -> str | None:
        """Return the name of the next part, or None after the last one. What is left of the one before is skipped."""
        while self._within:
            await self._piece()
        while not self._ended:
            event = await self._event()
            if isinstance(event, Field | File):
                self._within = True
                return event.name or ""
            if isinstance(event, Epilogue):
                self._ended = True
        return None

    async def text(self, limit: int) -> str:
        """Return the rest of the present part as text, of at most ``limit`` bytes."""
        found = b""
        async for piece in self.content():
            found += piece
            if len(found) > limit:
                raise InvalidRequest(f"a field of the form is longer than {limit} bytes")
        try:
            return found.decode()
        except UnicodeDecodeError:
            raise InvalidRequest("a field of the form is no UTF-8") from None

    async def content(self) -> AsyncGenerator[bytes, None]:
        """Iterate over the rest of the present part as it arrives."""
        while self._within:
            if piece := await self._piece():
                yield piece

    async def _piece(self) -> bytes:
        event = await self._event()
        if not isinstance(event, Data):
            raise InvalidRequest("the form is cut off, or not well formed")
        self._within = event.more_data
        return event.data

    async def _event(self) -> Preamble | Field | File | Data | Epilogue:
        while True:
            try:
                event = self._decoder.next_event()
            except (ValueError, UnicodeDecodeError) as error:
                raise InvalidRequest(f"the form is not well formed: {error}") from None
            if not isinstance(event, NeedData):
                return event  # type: ignore[return-value]
            if not self._within and len(self._decoder.buffer) > HEAD_LIMIT:
                raise InvalidRequest("the form has no part where one should begin")
            self._decoder.receive_data(await self._next_chunk())

    async def _next_chunk(self) -> bytes | None:
        chunks: AsyncIterator[bytes] = self._chunks
        return await anext(chunks, None)
