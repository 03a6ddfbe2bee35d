"""A WebSocket on the wire, on hypercorn's wsproto stream (ASGI ``websocket``). Handlers use :mod:`.websocket`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from math import inf
from typing import TYPE_CHECKING, Any

import trio
from hypercorn.events import Closed
from hypercorn.protocol.events import Body, Data, Event, StreamClosed
from hypercorn.protocol.ws_stream import ASGIWebsocketState, FrameTooLargeError, WSStream
from wsproto.connection import ConnectionState
from wsproto.events import CloseConnection, Message, Ping
from wsproto.frame_protocol import CloseReason

from anvild.core.logging import get_logger

from .exchange import Inbox

if TYPE_CHECKING:
    from hypercorn.typing import ASGISendEvent, WebsocketAcceptEvent

    from .connection import Connection

__all__ = ["WebSocketStream"]

log = get_logger("web")


class WebSocketStream(WSStream):
    """One WebSocket; runs the application in a task of its connection.

    What the client sends is held back while the application does not take it. The client is pinged, and dropped when
    nothing has come from it for two pings. Frames are never compressed: a small frame could unpack to any size.
    """

    def __init__(self, link: Connection, send: Callable[[Event], Awaitable[None]], stream_id: int) -> None:
        super().__init__(
            link.app,  # type: ignore[arg-type]  # called by ourselves, in _run
            link.config,
            link.context,
            self,  # type: ignore[arg-type]  # the task group of its one task
            False,
            link.client,
            link.server,
            send,
            stream_id,
        )
        self.link = link
        self._inbox = Inbox(farewell="websocket.disconnect", held=link.held)
        self._decided = trio.Event()
        self._close_code = int(CloseReason.ABNORMAL_CLOSURE)

    @property
    def patience(self) -> float:
        """How many seconds nothing may happen: a client may be silent, a handler undecided on the handshake."""
        limits = self.link.limits
        return limits.ping_seconds * 2 if self.state is ASGIWebsocketState.CONNECTED else limits.decision_seconds

    async def spawn_app(self, *_: object) -> Callable[[dict[str, Any]], Awaitable[None]]:
        """Start the application; hypercorn calls this when the handshake has been read."""
        self.link.start(self._run)
        return self._inbox.put

    async def handle(self, event: Event) -> None:
        if isinstance(event, Body | Data):
            # A client may send before it has our answer. It waits for the application's decision.
            await self.link.held(self._decided.wait)
            if self.closed or not self.handshake.accepted:
                return
            self.link.wait_for(inf)
            self.connection.receive_data(event.data)
            await self._handle_events()
        elif isinstance(event, StreamClosed):
            self._decided.set()
            if not self.closed:
                self.closed = True
                await self._inbox.put({"type": "websocket.disconnect", "code": self._close_code})
        else:
            self.link.wait_for(self.patience)
            await super().handle(event)
            if self.closed:  # the handshake was refused
                await self.link.send(Closed())

    async def app_send(self, message: ASGISendEvent | None) -> None:
        await trio.lowlevel.checkpoint()  # so that a handler that only ever sends lets others run, and can be cancelled
        if self.closed:
            return
        if message is not None and message["type"] == "websocket.close":
            self._close_code = int(message.get("code") or CloseReason.NORMAL_CLOSURE)
        await super().app_send(message)
        if message is not None and message["type"] != "websocket.http.response.start":
            self._decided.set()
        await self.link.flush()

    async def go_away(self) -> None:
        """Close it because the daemon stops; the handler is told as if the client had gone."""
        if self.state is ASGIWebsocketState.CONNECTED:
            await self._end(CloseReason.GOING_AWAY)
            await self.link.flush()

    async def _run(self) -> None:
        try:
            await self.link.app(self.scope, self._inbox.receive, self.app_send)
        except Exception:
            log.exception("application_failed", path=self.scope["path"])
        await self.app_send(None)

    async def _accept(self, message: WebsocketAcceptEvent) -> None:
        self.handshake.extensions = None
        await super()._accept(message)
        self.link.wait_for(self.patience)
        self.link.start(self._ping)

    async def _ping(self) -> None:
        while not self.closed:
            await trio.sleep(self.link.limits.ping_seconds)
            await self._send_wsproto_event(Ping())
            await self.link.flush()

    async def _handle_events(self) -> None:
        for event in self.connection.events():
            if isinstance(event, Message):
                try:
                    self.buffer.extend(event)
                except FrameTooLargeError:
                    await self._end(CloseReason.MESSAGE_TOO_BIG)
                    return
                if event.message_finished:
                    message = self.buffer.to_message()
                    self.buffer.clear()
                    await self._inbox.put(message)
            elif isinstance(event, Ping):
                await self._send_wsproto_event(event.response())
            elif isinstance(event, CloseConnection):
                if self.connection.state is ConnectionState.REMOTE_CLOSING:
                    self._close_code = int(event.code)
                    await self._send_wsproto_event(event.response())
                    await self.send(StreamClosed(stream_id=self.stream_id))
                else:  # an answer to our own close, or what the client sent was no frame
                    await self._end(event.code)
                return

    async def _end(self, code: int) -> None:
        if self.connection.state is ConnectionState.OPEN:
            self._close_code = int(code)
            await self._send_wsproto_event(CloseConnection(code=code))
        await self.send(StreamClosed(stream_id=self.stream_id))
