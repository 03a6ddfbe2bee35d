"""WebSockets for handlers. Pings, deadlines, bounds and compression are the connection's business."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import trio

__all__ = ["Disconnected", "WebSocket"]

GOING_AWAY = 1001


class Disconnected(Exception):
    """The client has closed the WebSocket, with this code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the client has closed the WebSocket ({code})")
        self.code = code


class WebSocket:
    """One WebSocket. :meth:`accept` it first, or raise an error, which refuses it with that error's answer.

    Iterating gives messages until the client closes. A handler that fails closes it with 1011, one that returns with
    1000. A client that is gone cancels its handler. Messages that the handler does not take hold the client back.
    """

    def __init__(self, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
        self._receive = receive
        self._send = send
        self._inward: trio.MemorySendChannel[str | bytes]
        self._messages: trio.MemoryReceiveChannel[str | bytes]
        self._inward, self._messages = trio.open_memory_channel(0)
        self.accepted = False
        self.closed = False
        self.close_code: int | None = None

    async def accept(self, subprotocol: str | None = None) -> None:
        """Take the WebSocket. ``subprotocol`` must be one that the client offers."""
        await self._send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": []})
        self.accepted = True

    async def receive(self) -> str | bytes:
        """Return the next message: text or bytes, as it was sent. Raises Disconnected."""
        try:
            return await self._messages.receive()
        except trio.EndOfChannel:
            raise Disconnected(self.close_code or GOING_AWAY) from None

    async def __aiter__(self) -> AsyncIterator[str | bytes]:
        async for message in self._messages:
            yield message

    async def send(self, message: str | bytes | msgspec.Struct) -> None:
        """Send text, bytes, or a Struct as JSON text. Waits for a slow client, which is dropped at its deadline."""
        if isinstance(message, bytes):
            await self._send({"type": "websocket.send", "bytes": message, "text": None})
        else:
            text = message if isinstance(message, str) else msgspec.json.encode(message).decode()
            await self._send({"type": "websocket.send", "bytes": None, "text": text})

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close it from this side. Closing twice is no error."""
        if not self.closed:
            self.closed = True
            await self._send({"type": "websocket.close", "code": code, "reason": reason[:120]})

    async def serve(self, handler: Callable[[WebSocket], Awaitable[object]]) -> None:
        """Run a handler until it returns or the client is gone. Called by the wing's surface."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pump, nursery.cancel_scope)
            await handler(self)
            nursery.cancel_scope.cancel()

    async def _pump(self, handler: trio.CancelScope) -> None:
        async with self._inward:
            while True:
                message = await self._receive()
                if message["type"] == "websocket.disconnect":
                    self.closed = True
                    self.close_code = message.get("code", GOING_AWAY)
                    break
                if message["type"] == "websocket.receive":
                    data = message.get("bytes")
                    await self._inward.send(data if data is not None else message["text"])
        # A handler that reads learns it from the channel and may end by itself; one that does not is told at once.
        await trio.lowlevel.checkpoint()
        handler.cancel()
