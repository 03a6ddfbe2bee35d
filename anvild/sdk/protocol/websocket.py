"""The client's side of a WebSocket as a transport: how a helper on a device, or another host, calls the daemon."""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import trio
from wsproto import ConnectionType, WSConnection
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
)
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from .frames import MAX_MESSAGE
from .transports import Transport, TransportClosed

__all__ = ["WebSocketRefused", "connect_websocket"]

RECEIVE_SIZE = 262144
CLOSE_SECONDS = 2.0
CONNECT_SECONDS = 30.0
BODY_LIMIT = 500
NORMAL_CLOSURE, TOO_BIG = 1000, 1009


class WebSocketRefused(TransportClosed):
    """The server did not accept the connection. ``status`` is that of its HTTP answer."""

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.status = status


async def connect_websocket(
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    ssl_context: ssl.SSLContext | None = None,
    max_message: int = MAX_MESSAGE,
) -> Transport:
    """Connect to a ``ws://`` or ``wss://`` URL and return the transport, which the caller closes.

    ``headers`` go with the request, such as the one that authenticates. ``ssl_context`` is for ``wss``; without it the
    system's certificates are trusted. Raises WebSocketRefused when the server refuses, TransportClosed when it cannot
    be reached or does not answer within 30 s, ValueError for another kind of URL.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss") or parts.hostname is None:
        raise ValueError(f"{url!r} is no ws:// or wss:// URL")
    secure = parts.scheme == "wss"
    port = parts.port or (443 if secure else 80)
    with trio.move_on_after(CONNECT_SECONDS):
        stream = await _reach(parts.hostname, port, secure, ssl_context)
        transport = _WebSocketTransport(stream, max_message)
        try:
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            await transport.shake_hands(parts.netloc.rpartition("@")[2], target, dict(headers or {}))
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return transport
    raise TransportClosed(f"{parts.hostname}:{port} did not answer within {CONNECT_SECONDS:g} s")


async def _reach(host: str, port: int, secure: bool, context: ssl.SSLContext | None) -> trio.abc.Stream:
    try:
        if not secure:
            return await trio.open_tcp_stream(host, port)
        stream = await trio.open_ssl_over_tcp_stream(host, port, ssl_context=context, https_compatible=True)
    except OSError as error:
        raise TransportClosed(f"{host}:{port} cannot be reached: {error}") from None
    try:
        await stream.do_handshake()
    except BaseException as error:
        await trio.aclose_forcefully(stream)
        if isinstance(error, trio.BrokenResourceError):
            raise TransportClosed(f"no TLS with {host}:{port}: {error.__cause__ or error}") from None
        raise
    return stream


class _WebSocketTransport(Transport):
    def __init__(self, stream: trio.abc.Stream, max_message: int) -> None:
        self._stream = stream
        self._socket = WSConnection(ConnectionType.CLIENT)
        self._max = max_message
        self._lock = trio.Lock()
        self._urgent: deque[Event] = deque(maxlen=8)
        self._events: deque[Event] = deque()
        self._reason: str | None = None

    async def shake_hands(self, host: str, target: str, headers: dict[str, str]) -> None:
        """Ask the server to speak WebSocket. Raises WebSocketRefused, TransportClosed."""
        extra = [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]
        await self._write(self._socket.send(Request(host=host, target=target, extra_headers=extra)))
        status, body = 0, b""
        while True:
            match await self._event():
                case AcceptConnection():
                    return
                case RejectConnection() as rejected:
                    status = rejected.status_code
                    if not rejected.has_body:
                        raise WebSocketRefused(f"the server refused the connection with {status}", status)
                case RejectData() as data:
                    body = (body + bytes(data.data))[:BODY_LIMIT]
                    if data.body_finished:
                        text = body.decode("utf-8", "replace").strip()
                        raise WebSocketRefused(f"the server refused the connection with {status}: {text}", status)
                case CloseConnection():
                    raise TransportClosed(self._end("the server closed the connection before it answered"))

    async def send(self, message: str | bytes) -> None:
        event: Event = Message(data=message) if isinstance(message, str) else BytesMessage(data=message)
        async with self._lock:
            await self._write(self._packed(event) + self._packed_urgent())

    async def receive(self) -> str | bytes:
        pieces: list[Any] = []
        size = 0
        while True:
            event = await self._event()
            match event:
                case Message():
                    size += len(event.data)
                    if size > self._max:
                        self._urgent.append(CloseConnection(code=TOO_BIG, reason="the message is too long"))
                        await self._flush()
                        raise TransportClosed(
                            self._end(f"a message of over {self._max} bytes came, and {self._max} are allowed")
                        )
                    pieces.append(event.data)
                    if event.message_finished:
                        whole: str | bytes = type(event.data)().join(pieces)
                        return whole if isinstance(whole, str) else bytes(whole)
                case Ping():
                    self._urgent.append(event.response())
                    await self._flush()
                case CloseConnection():
                    if self._reason is None:
                        self._urgent.append(event.response())
                    said = f" and said: {event.reason}" if event.reason else ""
                    reason = self._end(f"the server closed the connection with {int(event.code)}{said}")
                    with trio.move_on_after(CLOSE_SECONDS):
                        await self._flush()
                    raise TransportClosed(reason)

    async def aclose(self) -> None:
        try:
            if self._reason is None:
                self._end("the connection was closed on this side")
                self._urgent.append(CloseConnection(code=NORMAL_CLOSURE))
                with trio.move_on_after(CLOSE_SECONDS):
                    await self._flush()
        finally:
            await trio.aclose_forcefully(self._stream)

    async def _event(self) -> Event:
        while not self._events:
            try:
                data = await self._stream.receive_some(RECEIVE_SIZE)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise TransportClosed(self._end("the connection broke")) from None
            try:
                self._socket.receive_data(bytes(data) or None)
                self._events.extend(self._socket.events())
            except (RemoteProtocolError, LocalProtocolError) as error:
                raise TransportClosed(self._end(f"the server does not speak WebSocket: {error}")) from None
        return self._events.popleft()

    async def _flush(self) -> None:
        """Send what is urgent, unless somebody is sending just now, who then does it."""
        if self._lock.locked():
            return
        async with self._lock:
            try:
                await self._write(self._packed_urgent())
            except TransportClosed:
                return  # whoever reads or writes next finds out

    def _packed(self, event: Event) -> bytes:
        try:
            return self._socket.send(event)
        except LocalProtocolError:
            raise TransportClosed(self._reason or "the server has closed the connection") from None

    def _packed_urgent(self) -> bytes:
        packed = b""
        while self._urgent:
            packed += self._packed(self._urgent.popleft())
        return packed

    async def _write(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise TransportClosed(self._end("the other side does not read any more")) from None

    def _end(self, reason: str) -> str:
        if self._reason is None:
            self._reason = reason
        return self._reason
