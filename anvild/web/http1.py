"""HTTP/1.0 and HTTP/1.1 on hypercorn's h11 protocol, and the upgrade to a WebSocket."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, cast

import h11
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.events import Body, Data, EndBody, Request, Response, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol, H11WSConnection

from .exchange import Exchange
from .upgrade import WebSocketStream

if TYPE_CHECKING:
    from .connection import Connection

__all__ = ["Http1", "PriorKnowledge"]

HANDSHAKE = {
    b"connection",
    b"sec-websocket-extensions",
    b"sec-websocket-key",
    b"sec-websocket-protocol",
    b"sec-websocket-version",
}
PREFACE = b"PRI * HTTP/2.0\r\n\r\n"


class PriorKnowledge(Exception):
    """The client speaks HTTP/2 from its first byte on; ``data`` is all that it has said."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.data = data


class Refused(Exception):
    """The head of a request is refused with this status, and the connection closed."""

    def __init__(self, status: int) -> None:
        super().__init__()
        self.status = status


class Http1(H11Protocol):
    """One HTTP/1 connection: one request at a time, the next one after its answer.

    The upgrade to HTTP/2 in mid-connection (``Upgrade: h2c``) is not taken, as the standard allows: it is obsolete, and
    behind a proxy a way round its rules.
    """

    def __init__(self, link: Connection) -> None:
        super().__init__(
            link.app,  # type: ignore[arg-type]  # called by the streams alone
            link.config,
            link.context,
            link,  # type: ignore[arg-type]  # its streams start their own tasks
            link.state,
            False,
            link.client,
            link.server,
            link.send,
        )
        self.link = link
        self._in_head = False

    @property
    def idle(self) -> bool:
        """Whether no request is being answered. A WebSocket has no end of its own that could be waited for."""
        return self.stream is None or isinstance(self.stream, WebSocketStream)

    async def handle(self, event: Event) -> None:
        await super().handle(event)
        if isinstance(event, RawData):
            self._set_deadline()

    async def say_goodbye(self) -> None:
        """Close a WebSocket; otherwise HTTP/1 has no farewell but the end of the connection."""
        if isinstance(self.stream, WebSocketStream):
            await self.stream.go_away()

    async def timed_out(self) -> None:
        """The client was silent for too long: an idle connection just ends, a half-sent head is answered."""
        if self.stream is None and self._in_head:
            await self._refuse(408)

    async def stream_send(self, event: StreamEvent) -> None:
        if isinstance(event, StreamClosed):
            await self.link.flush()
        elif isinstance(event, Response) and event.status_code >= 200 and self._is_last():
            event = replace(event, headers=[*event.headers, (b"connection", b"close")])
        await super().stream_send(event)

    def _is_last(self) -> bool:
        """Whether the connection ends after this answer: the daemon stops, or it is given before its request has come
        to an end, of which nobody will read the rest."""
        unread = isinstance(self.stream, Exchange) and self.connection.their_state is h11.SEND_BODY
        return unread or self.context.terminated.is_set()

    async def answer(self, stream_id: int, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Send an answer that is all there, in one write."""
        headers += self.config.response_headers("h11")
        if self._is_last():
            headers.append((b"connection", b"close"))
        await self._send_h11_event(h11.Response(status_code=status, headers=headers))
        if body:
            await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())
        await self.link.flush()
        await self._maybe_recycle()

    async def _handle_events(self) -> None:
        while True:
            try:
                event = self.connection.next_event()
                if isinstance(event, h11.Request):
                    self.link.wait_for(inf)
                    await self._begin(event)
                    continue
            except h11.RemoteProtocolError as error:
                await self._refuse(error.error_status_hint)
                return
            except Refused as refusal:
                await self._refuse(refusal.status)
                return
            if event is h11.PAUSED:
                await self.can_read.clear()
                await self.link.held(self.can_read.wait)
            elif self.stream is None or event is h11.NEED_DATA or isinstance(event, h11.ConnectionClosed):
                return
            elif isinstance(event, h11.Data):
                await self.stream.handle(Body(stream_id=STREAM_ID, data=bytes(event.data)))
            elif isinstance(event, h11.EndOfMessage):
                await self.stream.handle(EndBody(stream_id=STREAM_ID))
                if not self.connection.trailing_data[0]:
                    return
            elif isinstance(event, Data):
                await self.stream.handle(event)

    async def _begin(self, request: h11.Request) -> None:
        self._in_head = False
        names = [name for name, _ in request.headers]
        target = self._target(request, len(names))
        has_body = b"content-length" in names or b"transfer-encoding" in names
        if has_body and names.count(b"content-length") + names.count(b"transfer-encoding") > 1:
            raise Refused(400)  # two lengths: the old way to smuggle a request past a proxy
        if request.method == b"GET" and _wants_websocket(request):
            if has_body or not all(value.isascii() for name, value in request.headers if name in HANDSHAKE):
                raise Refused(400)
            self.stream = WebSocketStream(self.link, self.stream_send, STREAM_ID)
            self.connection = H11WSConnection(cast("h11.Connection", self.connection))
        else:
            self.stream = Exchange(self.link, self, STREAM_ID, before_wait=self._invite)
        self.keep_alive_requests += 1
        await self.stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=list(request.headers),
                http_version=request.http_version.decode("ascii"),
                method=request.method.decode("ascii").upper(),
                raw_path=target,
                state=self.connection_state,
            )
        )

    def _target(self, request: h11.Request, header_count: int) -> bytes:
        """Check the head and return the path that it asks for."""
        target = request.target
        if request.http_version == b"2.0" and request.method == b"PRI" and not self.keep_alive_requests:
            raise PriorKnowledge(PREFACE + self.connection.trailing_data[0])
        if request.http_version not in {b"1.0", b"1.1"}:
            raise Refused(505)
        if len(target) > self.link.limits.target_bytes:
            raise Refused(414)
        if header_count > self.link.limits.header_count:
            raise Refused(431)
        if target.startswith((b"http://", b"https://")):
            target = b"/" + target.split(b"/", 3)[3] if target.count(b"/") > 2 else b"/"
        if not target.startswith(b"/") and not (target == b"*" and request.method == b"OPTIONS"):
            raise Refused(400)
        return target

    async def _invite(self) -> None:
        """Ask for the body of a client that waits to be asked, once the application wants it."""
        if self.connection.they_are_waiting_for_100_continue:
            await self._send_h11_event(
                h11.InformationalResponse(status_code=100, headers=self.config.response_headers("h11"))
            )
            await self.link.flush()

    async def _refuse(self, status: int) -> None:
        if self.connection.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            await self._send_error_response(status)
        await self.send(Closed())

    async def _maybe_recycle(self) -> None:
        await self._close_stream()
        if self.context.terminated.is_set() or not (
            self.connection.our_state is h11.DONE and self.connection.their_state is h11.DONE
        ):
            await self.can_read.set()
            await self.send(Closed())
            return
        self.connection.start_next_cycle()
        await self.can_read.set()
        self._set_deadline()

    def _set_deadline(self) -> None:
        """While no request is being answered, the client has its time to send the head of the next one."""
        if isinstance(self.stream, WebSocketStream):
            self.link.wait_for(self.stream.patience)
        elif self.stream is None and not self._in_head:
            self._in_head = bool(self.connection.trailing_data[0])
            self.link.wait_for(self.link.limits.header_seconds if self._in_head else self.link.limits.idle_seconds)


def _wants_websocket(request: h11.Request) -> bool:
    upgrade, connection = b"", b""
    for name, value in request.headers:
        if name == b"upgrade":
            upgrade = value.lower().strip()
        elif name == b"connection":
            connection += b"," + value.lower()
    return upgrade == b"websocket" and b"upgrade" in [token.strip() for token in connection.split(b",")]
