"""Sending an answer through ASGI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec

from .request import Answer

__all__ = ["encode", "head_of", "send_answer", "send_refusal"]

Send = Callable[[Any], Awaitable[None]]


def encode(answer: Answer) -> bytes:
    """Return the bytes of a body that is no stream."""
    body = answer.body
    if body is None:
        return b""
    if isinstance(body, bytes):
        return body
    if isinstance(body, str):
        return body.encode()
    return msgspec.json.encode(body)


def head_of(answer: Answer, more: Iterable[tuple[str, str]] = ()) -> list[tuple[bytes, bytes]]:
    """Return the headers of an answer as they go out."""
    pairs = [*answer.headers, *more, *(("set-cookie", cookie.header()) for cookie in answer.cookies)]
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1", "replace")) for name, value in pairs]
    if answer.body is not None and all(name != b"content-type" for name, _ in headers):
        headers.append((b"content-type", _media_type(answer).encode("latin-1")))
    return headers


async def send_answer(
    answer: Answer, send: Send, *, more: Iterable[tuple[str, str]] = (), head_only: bool = False
) -> None:
    """Send an answer. A stream is entered when its head has been handed over, and left however the sending ends."""
    await send({"type": "http.response.start", "status": answer.status, "headers": head_of(answer, more)})
    if not isinstance(answer.body, AbstractAsyncContextManager):
        await send({"type": "http.response.body", "body": encode(answer)})
        return
    if not head_only:
        async with answer.body as pieces:
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def send_refusal(answer: Answer, send: Send) -> None:
    """Refuse a WebSocket with an HTTP answer in place of the handshake. The connection closes after it, and says so."""
    headers = head_of(answer, [("connection", "close")])
    await send({"type": "websocket.http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": encode(answer)})


def _media_type(answer: Answer) -> str:
    if answer.media_type is not None:
        return answer.media_type
    if isinstance(answer.body, str):
        return "text/plain; charset=utf-8"
    if isinstance(answer.body, bytes | AbstractAsyncContextManager):
        return "application/octet-stream"
    return "application/json"
