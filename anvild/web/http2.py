"""HTTP/2 with prior knowledge (a proxy's way to speak to a server behind it) on hypercorn's h2 protocol."""

from __future__ import annotations

from functools import partial
from math import inf
from typing import TYPE_CHECKING

import h2.events
import h2.exceptions
import h2.settings
import trio
from h2.errors import ErrorCodes
from hypercorn.events import Closed
from hypercorn.protocol.events import (
    Body,
    EndBody,
    InformationalResponse,
    Request,
    Response,
    StreamClosed,
)
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.utils import filter_pseudo_headers

from .exchange import Exchange

if TYPE_CHECKING:
    from .connection import Connection

__all__ = ["Http2"]

CONNECTION_WINDOW = 2**20
RESETS_FORGIVEN = 200


class Http2(H2Protocol):
    """One HTTP/2 connection. Its streams send for themselves, each as its window allows.

    What is not offered: WebSockets over HTTP/2, server push, priorities. A body is acknowledged when the application
    has taken it, so a slow handler holds back its own stream and nothing else.
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
        self.connection.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: link.limits.streams,
                h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: link.limits.header_bytes,
            },
        )
        self._window = trio.Event()
        self._resets = 0
        self._answers = 0

    async def initiate(self, headers: object = None, settings: object = None) -> None:
        self.connection.initiate_connection()
        self.connection.increment_flow_control_window(CONNECTION_WINDOW - 65_535)
        self.link.wait_for(self.link.limits.idle_seconds)
        await self._flush()

    async def say_goodbye(self) -> None:
        """Tell the client that this connection takes no more requests."""
        self.connection.close_connection()
        await self._flush()

    async def timed_out(self) -> None:
        """The connection was idle for too long."""
        await self.say_goodbye()

    async def stream_send(self, event: StreamEvent) -> None:
        try:
            if isinstance(event, Response | InformationalResponse):
                # hop-by-hop fields have no place in HTTP/2
                headers = [(n, v) for n, v in event.headers if n.lower() not in {b"connection", b"transfer-encoding"}]
                self.connection.send_headers(
                    event.stream_id,
                    [(b":status", b"%d" % event.status_code), *headers, *self.config.response_headers("h2")],
                )
            elif isinstance(event, Body):
                await self._send_body(event.stream_id, event.data)
            elif isinstance(event, EndBody):
                self.connection.end_stream(event.stream_id)
                self._answers += 1
                await self._flush()
            elif isinstance(event, StreamClosed):
                await self._end_stream(event.stream_id)
        except (h2.exceptions.ProtocolError, KeyError):
            # The stream, or the connection, has been ended by the client meanwhile.
            await self._close_stream(event.stream_id)

    async def answer(self, stream_id: int, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Send an answer that is all there."""
        await self.stream_send(Response(stream_id, headers, status))
        if body:
            await self.stream_send(Body(stream_id, body))
        await self.stream_send(EndBody(stream_id))
        await self.stream_send(StreamClosed(stream_id))

    async def _send_body(self, stream_id: int, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            size = min(self.connection.local_flow_control_window(stream_id), self.connection.max_outbound_frame_size)
            if size > 0:
                self.connection.send_data(stream_id, bytes(rest[:size]))
                rest = rest[size:]
                continue
            await self._flush()
            with trio.move_on_after(self.link.limits.send_seconds) as scope:
                await self._window.wait()
            if scope.cancelled_caught:  # a reader that grants no window
                await self._reset(stream_id, ErrorCodes.CANCEL)
                await self._close_stream(stream_id)
                return
            if stream_id not in self.streams:
                return

    async def _end_stream(self, stream_id: int) -> None:
        stream = self.connection.streams.get(stream_id)
        if stream is not None and not stream.closed:
            # The answer broke off, or came before the end of the request's body; the client need send no more.
            finished = stream.state_machine.state.name in {"HALF_CLOSED_LOCAL", "CLOSED"}
            await self._reset(stream_id, ErrorCodes.NO_ERROR if finished else ErrorCodes.INTERNAL_ERROR)
        await self._close_stream(stream_id)
        if self.streams:
            return
        if self.context.terminated.is_set():
            await self.say_goodbye()
            await self.send(Closed())
        else:
            self.link.wait_for(self.link.limits.idle_seconds)

    async def _handle_events(self, events: list[h2.events.Event]) -> None:
        for event in events:
            if isinstance(event, h2.events.RequestReceived):
                await self._create_stream(event)
            elif isinstance(event, h2.events.DataReceived):
                await self._take(event)
            elif isinstance(event, h2.events.StreamEnded):
                if event.stream_id in self.streams:
                    await self.streams[event.stream_id].handle(EndBody(stream_id=event.stream_id))
            elif isinstance(event, h2.events.StreamReset):
                await self._forgive(event.stream_id)
            elif isinstance(event, h2.events.WindowUpdated | h2.events.RemoteSettingsChanged):
                self._wake()
            elif isinstance(event, h2.events.ConnectionTerminated):
                await self.send(Closed())
        await self._flush()

    async def _create_stream(self, request: h2.events.RequestReceived) -> None:
        stream_id = request.stream_id
        fields = {name: value for name, value in request.headers if name.startswith(b":")}
        path, method = fields.get(b":path", b""), fields.get(b":method", b"")
        limits = self.link.limits
        if self.context.terminated.is_set():
            await self._reset(stream_id, ErrorCodes.REFUSED_STREAM)
        elif method == b"CONNECT" or not path.startswith(b"/") or not path.isascii() or not method.isalpha():
            await self._reset(stream_id, ErrorCodes.PROTOCOL_ERROR)
        elif len(path) > limits.target_bytes or len(request.headers) > limits.header_count:
            status = b"414" if len(path) > limits.target_bytes else b"431"
            self.connection.send_headers(stream_id, [(b":status", status)], end_stream=True)
        else:
            self.link.wait_for(inf)
            stream = Exchange(self.link, self, stream_id, taken=partial(self._acknowledge, stream_id))
            self.streams[stream_id] = stream
            await stream.handle(
                Request(
                    stream_id=stream_id,
                    headers=filter_pseudo_headers(request.headers),
                    http_version="2",
                    method=method.decode("ascii").upper(),
                    raw_path=path,
                    state=self.connection_state,
                )
            )

    async def _take(self, event: h2.events.DataReceived) -> None:
        stream = self.streams.get(event.stream_id)
        padding = event.flow_controlled_length - len(event.data)
        if stream is None:
            await self._acknowledge(event.stream_id, event.flow_controlled_length)
        else:
            # The stream's window is no larger than the inbox: this waits only for a flood of tiny frames.
            await stream.handle(Body(stream_id=event.stream_id, data=event.data))
            if padding:
                await self._acknowledge(event.stream_id, padding)

    async def _acknowledge(self, stream_id: int, size: int) -> None:
        try:
            self.connection.acknowledge_received_data(size, stream_id)
        except h2.exceptions.ProtocolError:  # the connection has ended meanwhile
            return
        await self._flush()

    async def _forgive(self, stream_id: int) -> None:
        """A client may take back what it asked for, but not make a load of nothing else."""
        await self._close_stream(stream_id)
        self._wake()
        self._resets += 1
        if self._resets > RESETS_FORGIVEN + self._answers:
            self.connection.close_connection(ErrorCodes.ENHANCE_YOUR_CALM)
            await self._flush()
            await self.send(Closed())
        elif not self.streams:
            self.link.wait_for(self.link.limits.idle_seconds)

    async def _reset(self, stream_id: int, code: ErrorCodes) -> None:
        try:
            self.connection.reset_stream(stream_id, code)
        except h2.exceptions.ProtocolError:  # it is closed already
            return
        await self._flush()

    async def _flush(self) -> None:
        await super()._flush()
        await self.link.flush()

    def _wake(self) -> None:
        self._window.set()
        self._window = trio.Event()
