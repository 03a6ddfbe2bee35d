"""A WebSocket between two tasks of this process, over the loopback: the host's end, and the driver's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Event, Message, Ping, Request

from ..protocol import Transport, TransportClosed, connect_websocket

__all__ = ["loopback"]

RECEIVE_SIZE = 262144


@asynccontextmanager
async def loopback() -> AsyncIterator[tuple[Transport, Transport]]:
    """Have the two ends of a WebSocket: the one that was called, and the one that called."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    ends: list[Transport] = []

    async def call() -> None:
        ends.append(await connect_websocket(f"ws://127.0.0.1:{port}/"))

    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(call)
        called = _Called(await listener.accept())
        await called.shake_hands()
    (calling,) = ends
    try:
        yield called, calling
    finally:
        with trio.CancelScope(shield=True):
            await calling.aclose()
            await called.aclose()


class _Called(Transport):
    """The end of a WebSocket that was called."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._socket = WSConnection(ConnectionType.SERVER)
        self._events: list[Event] = []
        self._sending = trio.Lock()

    async def shake_hands(self) -> None:
        """Accept the connection."""
        while not isinstance(await self._event(), Request):
            pass
        await self._send(AcceptConnection())

    async def send(self, message: str | bytes) -> None:
        await self._send(Message(data=message) if isinstance(message, str) else BytesMessage(data=message))

    async def receive(self) -> str | bytes:
        pieces: list[str | bytes] = []
        while True:
            match await self._event():
                case Message() as event:
                    pieces.append(event.data if isinstance(event.data, str) else bytes(event.data))
                    if event.message_finished:
                        return type(pieces[0])().join(pieces)  # type: ignore[arg-type]
                case Ping() as ping:
                    await self._send(ping.response())
                case CloseConnection():
                    raise TransportClosed("the driver closed the connection")

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self._stream)

    async def _event(self) -> Event:
        while not self._events:
            try:
                data = await self._stream.receive_some(RECEIVE_SIZE)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise TransportClosed("the connection broke") from None
            self._socket.receive_data(bytes(data) or None)
            self._events += self._socket.events()
        return self._events.pop(0)

    async def _send(self, event: Event) -> None:
        async with self._sending:
            try:
                await self._stream.send_all(self._socket.send(event))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise TransportClosed("the driver does not read any more") from None
