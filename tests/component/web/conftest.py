"""The real server on loopback sockets, and clients that behave as badly as clients can."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from anvild.web.server import ConnectionLimits, bind, serve

LIMITS = ConnectionLimits(
    connections=64,
    header_seconds=0.3,
    idle_seconds=0.6,
    body_seconds=0.3,
    body_rate=100_000,
    send_seconds=0.3,
    linger_seconds=0.2,
    grace_seconds=1.0,
    ping_seconds=0.5,
    message_bytes=64 * 1024,
)


class Served:
    """A running server and what a test needs to talk to it."""

    def __init__(self, address: tuple[str, int], shutdown: trio.Event) -> None:
        self.address = address
        self.shutdown = shutdown

    def connect(self, *, receive_buffer: int | None = None) -> socket.socket:
        """Return a connected blocking socket, for use in a thread or for a few bytes."""
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(5)
        try:
            sock.connect(self.address)
        except OSError:
            sock.close()
            raise
        return sock

    async def ask(self, data: bytes) -> bytes:
        """Send bytes on a connection of their own and return all that comes back until it ends."""

        def talk() -> bytes:
            with self.connect() as sock:
                sock.sendall(data)
                found = b""
                try:
                    while piece := sock.recv(65536):
                        found += piece
                except (ConnectionError, TimeoutError):
                    pass
                return found

        return await trio.to_thread.run_sync(talk)

    async def get(self, path: str = "/") -> bytes:
        return await self.ask(b"GET %s HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n" % path.encode())


def reset(sock: socket.socket) -> None:
    """End a connection by a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@asynccontextmanager
async def serving(app: Any, limits: ConnectionLimits = LIMITS) -> AsyncIterator[Served]:
    """Serve an application while the block runs; then stop it, which must succeed."""
    listeners = bind("127.0.0.1:0")
    shutdown = trio.Event()
    async with trio.open_nursery() as nursery:

        async def run(task_status: trio.TaskStatus[None]) -> None:
            await serve(app, listeners, limits, shutdown=shutdown, task_status=task_status)

        await nursery.start(run)
        yield Served(listeners[0].socket.getsockname(), shutdown)
        shutdown.set()


@pytest.fixture(name="serving")
def _serving() -> Callable[..., Any]:
    return serving


@pytest.fixture(name="reset")
def _reset() -> Callable[[socket.socket], None]:
    return reset


@pytest.fixture
def limits() -> ConnectionLimits:
    return LIMITS
