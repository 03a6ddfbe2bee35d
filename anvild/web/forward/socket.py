"""Forwarding a WebSocket: its messages, its close and the refusal of its handshake."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import trio
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Message,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from .headers import Headers, Route
from .server import BROKEN, RECEIVE_BYTES, NoAnswer

__all__ = ["forward_socket"]

HANDSHAKE_SECONDS = 60.0
MESSAGE_BYTES = 16 * 2**20
FAREWELL_SECONDS = 1.0

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


async def forward_socket(
    scope: Mapping[str, Any], receive: Receive, send: Send, stream: trio.abc.Stream, route: Route
) -> None:
    """Open a WebSocket to the server at the other end of ``stream``, and carry messages both ways until one end closes.

    Messages of the server are at most 16 MiB. Compression is not passed on; pings are answered by each side alone.
    Raises NoAnswer while the client waits for the answer to its handshake. The caller closes the stream.
    """
    socket = _Socket(receive, send, stream, route)
    with trio.move_on_after(HANDSHAKE_SECONDS) as patience:
        accepted = await socket.shake_hands(scope)
    if patience.cancelled_caught:
        raise NoAnswer(f"it has not answered the handshake within {HANDSHAKE_SECONDS:g} s")
    if accepted:
        await socket.carry()


class _Socket:
    def __init__(self, receive: Receive, send: Send, stream: trio.abc.Stream, route: Route) -> None:
        self._receive = receive
        self._send = send
        self._stream = stream
        self._route = route
        self._server = WSConnection(ConnectionType.CLIENT)
        self._refused = False
        self._text: list[str] = []
        self._data: list[bytes] = []
        self._size = 0

    async def shake_hands(self, scope: Mapping[str, Any]) -> bool:
        """Ask the server, and tell the client what it says: True when it takes the WebSocket. Raises NoAnswer."""
        headers = [pair for pair in self._route.request_headers(scope) if not _of_handshake(pair[0])]
        host = headers.pop(0)[1].decode("ascii")
        query = scope["query_string"]
        target = (scope["raw_path"] or b"/") + (b"?" + query if query else b"")
        request = Request(
            host=host,
            target=target.decode("ascii"),
            subprotocols=list(scope["subprotocols"]),
            extra_headers=headers,
        )
        try:
            await self._stream.send_all(self._server.send(request))
            while True:
                data = await self._stream.receive_some(RECEIVE_BYTES)
                self._server.receive_data(bytes(data) or None)
                for event in self._server.events():
                    if isinstance(event, AcceptConnection):
                        await self._accept(event)
                        return True
                    if await self._refuse(event):
                        return False
                if not data:
                    raise NoAnswer("it has closed the connection without an answer")
        except BROKEN as error:
            trouble = f"the connection to it has broken: {error}"
        except (LocalProtocolError, RemoteProtocolError) as error:
            trouble = f"it does not speak WebSocket: {error}"
        if not self._refused:
            raise NoAnswer(trouble)
        return False  # the client sees a refusal that is cut short

    async def _accept(self, event: AcceptConnection) -> None:
        headers = [pair for pair in self._back(event.extra_headers) if not _of_handshake(pair[0])]
        await self._send({"type": "websocket.accept", "subprotocol": event.subprotocol, "headers": headers})

    async def _refuse(self, event: Event) -> bool:
        """Pass a part of the server's refusal on. True after the last."""
        if isinstance(event, RejectConnection):
            self._refused = True
            start = {"status": event.status_code, "headers": self._back(event.headers)}
            await self._send({"type": "websocket.http.response.start", **start})
            if event.has_body:
                return False
            await self._send({"type": "websocket.http.response.body", "body": b""})
            return True
        if isinstance(event, RejectData):
            part = {"body": bytes(event.data), "more_body": not event.body_finished}
            await self._send({"type": "websocket.http.response.body", **part})
            return event.body_finished
        return False

    def _back(self, headers: Any) -> Headers:
        return self._route.answer_headers((bytes(name).lower(), bytes(value)) for name, value in headers)

    async def carry(self) -> None:
        """Carry messages until either end closes."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._carry_onward, nursery.cancel_scope)
            await self._carry_back()
            nursery.cancel_scope.cancel()

    async def _carry_onward(self, carrying: trio.CancelScope) -> None:
        """Carry what the client says to the server."""
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                break
            if message["type"] == "websocket.receive":
                self._route.used()
                data = message.get("bytes")
                await self._say(BytesMessage(data=data) if data is not None else TextMessage(data=message["text"]))
        with trio.move_on_after(FAREWELL_SECONDS, shield=True):
            await self._say(CloseConnection(code=_sayable(message.get("code"), CloseReason.GOING_AWAY)))
        carrying.cancel()

    async def _carry_back(self) -> None:
        """Carry what the server says to the client; at the end, its close."""
        code, reason = int(CloseReason.INTERNAL_ERROR), "the server has gone"
        try:
            while (ended := await self._carry_what_has_come()) is None:
                data = await self._stream.receive_some(RECEIVE_BYTES)
                if not data:
                    break
                self._server.receive_data(bytes(data))
            if ended is not None:
                code, reason = _sayable(ended.code, CloseReason.NORMAL_CLOSURE), ended.reason or ""
        except BROKEN:
            pass  # the client is told so by the code
        except RemoteProtocolError:
            code, reason = int(CloseReason.PROTOCOL_ERROR), "the server has broken the rules of WebSockets"
        await self._send({"type": "websocket.close", "code": code, "reason": reason})

    async def _carry_what_has_come(self) -> CloseConnection | None:
        """Carry what is here; return the server's close."""
        for event in self._server.events():
            if isinstance(event, Ping):
                await self._say(event.response())
            elif isinstance(event, CloseConnection):
                if self._server.state is ConnectionState.REMOTE_CLOSING:
                    await self._say(event.response())
                return event
            elif isinstance(event, Message):
                self._route.used()
                if not await self._carry_message(event):
                    too_large = CloseConnection(code=CloseReason.MESSAGE_TOO_BIG, reason="the message is too large")
                    await self._say(too_large)
                    return too_large
        return None

    async def _carry_message(self, event: Message[Any]) -> bool:
        """Carry a message when its last piece has come. False when it is too large."""
        self._size += len(event.data)
        if self._size > MESSAGE_BYTES:
            return False
        is_text = isinstance(event, TextMessage)
        if is_text:
            self._text.append(event.data)
        else:
            self._data.append(bytes(event.data))
        if event.message_finished:
            text, data = ("".join(self._text), None) if is_text else (None, b"".join(self._data))
            self._text, self._data, self._size = [], [], 0
            await self._send({"type": "websocket.send", "text": text, "bytes": data})
        return True

    async def _say(self, event: Event) -> None:
        """Say something to the server. One that has gone or has closed is noticed by who listens to it."""
        try:
            await self._stream.send_all(self._server.send(event))
        except (*BROKEN, LocalProtocolError):
            return


def _of_handshake(name: bytes) -> bool:
    return name.startswith(b"sec-websocket-")


def _sayable(code: Any, otherwise: CloseReason) -> int:
    """Return a close code as it may stand in a frame: some only say that there was none."""
    local = {CloseReason.NO_STATUS_RCVD, CloseReason.ABNORMAL_CLOSURE, CloseReason.TLS_HANDSHAKE_FAILED}
    return int(otherwise) if code is None or code in local else int(code)
