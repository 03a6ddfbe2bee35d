"""One connection of a client: its socket, its deadlines, and the wire protocol that is spoken on it.

hypercorn's protocol objects do the speaking (:mod:`.http1`, :mod:`.http2`, :mod:`.upgrade`); this module owns the
socket and gives them what hypercorn's own connection class lacks: whatever a connection does, it ends that connection
alone; a send waits for its reader only so long, and never against a cancellation; all that one step of a protocol
produces leaves in one write; and a connection that waits for its client has a deadline rather than a task.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Awaitable, Callable
from math import inf
from time import time
from typing import Any, Protocol
from wsgiref.handlers import format_date_time

import msgspec
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from anvild.core.logging import get_logger
from anvild.sdk import ASGIApp

from .http1 import Http1, PriorKnowledge
from .http2 import Http2

__all__ = ["Connection", "ConnectionLimits", "Host"]

log = get_logger("web")

RECEIVE_BYTES = 64 * 1024
SEND_PIECE = 64 * 1024
POLL_GONE = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0)


class ConnectionLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one client may take of the daemon. Times are seconds, sizes bytes.

    A body must arrive at ``body_rate`` on average; a client is forgiven ``body_seconds`` of silence in all. Only
    the time in which the application waits for the client counts.
    """

    connections: int = 4096
    header_bytes: int = 32 * 1024
    header_count: int = 100
    target_bytes: int = 8 * 1024
    header_seconds: float = 15.0
    idle_seconds: float = 75.0
    body_seconds: float = 20.0
    body_rate: float = 1024.0
    send_seconds: float = 30.0
    linger_seconds: float = 2.0
    grace_seconds: float = 5.0
    streams: int = 100
    message_bytes: int = 4 * 2**20
    ping_seconds: float = 20.0
    decision_seconds: float = 300.0
    """How long a handler may take to decide on a WebSocket: it may have to wait for a device first."""


class Host(Protocol):
    """What a connection needs of the server that accepted it."""

    app: ASGIApp
    limits: ConnectionLimits
    config: ProtocolConfig
    context: WorkerContext
    state: dict[str, Any]


class ProtocolConfig(Config):
    """hypercorn's configuration for our limits. The date header is made once a second."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.accesslog = None
        self.errorlog = None
        self.h11_max_incomplete_size = limits.header_bytes
        self.h2_max_concurrent_streams = limits.streams
        self.h2_max_header_list_size = limits.header_bytes
        self.keep_alive_max_requests = 2**31
        self.websocket_max_message_size = limits.message_bytes
        self._second = 0
        self._headers: list[tuple[bytes, bytes]] = []

    def response_headers(self, protocol: str) -> list[tuple[bytes, bytes]]:
        second = int(time())
        if second != self._second:
            self._second = second
            self._headers = [(b"date", format_date_time(second).encode("ascii"))]
        return self._headers


class Connection:
    """Serves one accepted stream until either side ends it. It is also the task group of its protocol."""

    def __init__(self, host: Host, stream: trio.SocketStream) -> None:
        self.host = host
        self.app = host.app
        self.limits = host.limits
        self.config = host.config
        self.context = host.context
        self.state = ConnectionState(host.state)
        self.stream = stream
        self.client = _address(stream, "getpeername")
        self.server = _address(stream, "getsockname")
        self.protocol: Http1 | Http2
        self._nursery: trio.Nursery
        self._reading = trio.CancelScope()
        self._send_lock = trio.Lock()
        self._outgoing: list[bytes] = []
        self._closing = False
        self._peer_gone = False

    async def run(self) -> None:
        """Serve the connection. Errors of the socket end it quietly. Cancelling drops it at once."""
        async with trio.open_nursery() as self._nursery:
            self.protocol = Http1(self)
            await self._read()
            await self.protocol.handle(Closed())
            # Handlers of requests have been cancelled; handlers of WebSockets have been told, and may say goodbye.
            self._nursery.cancel_scope.deadline = trio.current_time() + self.limits.linger_seconds
        if self._closing and not self._peer_gone:
            await self._linger()

    def start(self, task: Callable[..., Awaitable[Any]], *args: object) -> None:
        """Run a task of this connection: a request's handler, a WebSocket's pings."""
        self._nursery.start_soon(task, *args)

    def wait_for(self, seconds: float) -> None:
        """Give the client this long to say something; ``inf`` while it is the daemon's turn."""
        self._reading.deadline = trio.current_time() + seconds if seconds != inf else inf

    def stop(self) -> None:
        """Begin a graceful end: an idle connection closes now, a busy one after its answers."""
        if self.protocol.idle and not self._closing and not self._peer_gone:
            self.start(self._leave)

    def close(self) -> None:
        """Stop reading; the connection ends when what it has to send is sent."""
        self._closing = True
        self._reading.cancel()

    async def send(self, event: Event) -> None:
        """Take what the protocol produces. Bytes leave with the next :meth:`flush`."""
        if isinstance(event, RawData):
            if event.data:
                self._outgoing.append(event.data)
        elif isinstance(event, Closed):
            await self.flush()
            self.close()

    async def flush(self) -> None:
        """Write what has been produced. Waits for the reader up to its deadline, then drops the connection."""
        if self._outgoing:
            data = self._outgoing[0] if len(self._outgoing) == 1 else b"".join(self._outgoing)
            self._outgoing.clear()
            await self._write(data)

    async def _leave(self) -> None:
        await self.protocol.say_goodbye()
        self.close()

    async def _read(self) -> None:
        with self._reading:
            self.wait_for(self.limits.header_seconds)
            while True:
                data = await self._receive()
                if not data:
                    self._peer_gone = True
                    return
                await self._handle(data)
        if not self._closing and not self._peer_gone:  # the deadline has passed
            await self.protocol.timed_out()
            self._closing = True

    async def _receive(self) -> bytes:
        """Wait first and then read: between two requests there is nothing to read yet."""
        sock = self.stream.socket
        while True:
            await trio.lowlevel.wait_readable(sock)
            try:
                return os.read(sock.fileno(), RECEIVE_BYTES)
            except BlockingIOError:  # woken for nothing
                continue
            except OSError:  # reset by the peer
                return b""

    async def _handle(self, data: bytes) -> None:
        try:
            await self.protocol.handle(RawData(data))
        except PriorKnowledge as switch:
            self.protocol = Http2(self)
            await self.protocol.initiate()
            await self.protocol.handle(RawData(switch.data))
        await self.flush()

    async def _write(self, data: bytes) -> None:
        if self._peer_gone:
            return
        try:
            self._send_lock.acquire_nowait()
        except trio.WouldBlock:
            await self._send_lock.acquire()
        try:
            rest = memoryview(data)[self._send_now(data) :]
            while rest:
                with trio.fail_after(self.limits.send_seconds):
                    await self.stream.send_all(rest[:SEND_PIECE])
                rest = rest[SEND_PIECE:]
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            self._drop()
        except trio.TooSlowError:
            log.debug("reader_stalled", client=self.client)
            # What the kernel still holds for this reader is thrown away with the connection.
            self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._drop()
        finally:
            self._send_lock.release()

    def _send_now(self, data: bytes) -> int:
        """Hand the kernel what it takes at once: the usual case, and it needs no turn of the scheduler."""
        try:
            return os.write(self.stream.socket.fileno(), data)
        except BlockingIOError:
            return 0

    async def held(self, wait: Callable[[], Awaitable[object]]) -> None:
        """Wait for the daemon's side while nothing is read, and so no end of the connection is seen: look for it."""
        while True:
            with trio.move_on_after(self.limits.ping_seconds):
                await wait()
                return
            self._look()

    def _look(self) -> None:
        """Drop the connection if the client has left behind what is still unread."""
        poll = select.poll()
        poll.register(self.stream.socket.fileno(), POLL_GONE)
        if poll.poll(0):
            self._drop()

    def _drop(self) -> None:
        self._peer_gone = True
        self._reading.cancel()

    async def _linger(self) -> None:
        """Let the client read the last answer: closing on unread bytes would reset the connection under it."""
        with trio.move_on_after(self.limits.linger_seconds):
            try:
                await self.stream.send_eof()
                while await self.stream.receive_some(RECEIVE_BYTES):
                    pass
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return


def _address(stream: trio.SocketStream, name: str) -> tuple[str, int] | None:
    if stream.socket.family == socket.AF_UNIX:
        return None
    try:
        host, port, *_ = getattr(stream.socket, name)()
    except OSError:  # the peer has gone before it was asked
        return None
    return host, port
