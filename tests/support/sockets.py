"""A WebSocket client for tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from trio_websocket import WebSocketConnection, open_websocket_url

__all__ = ["open_socket"]


@asynccontextmanager
async def open_socket(url: str, **options: Any) -> AsyncIterator[WebSocketConnection]:
    """Open a WebSocket as the library does; but when the other side closes first, that leaves its connection open."""
    stream = None
    try:
        async with open_websocket_url(url, **options) as socket:
            stream = socket._stream
            yield socket
    finally:
        if stream is not None:
            await trio.aclose_forcefully(stream)
