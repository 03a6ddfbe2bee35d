"""The real server on loopback sockets, and clients that behave as badly as clients can."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import msgspec
import pytest
import structlog.testing
import trio
import trio.testing

from anvild.core.identity import Limits
from anvild.sdk import ASGIApp, Services
from anvild.web.api import Api
from anvild.web.app import root_app
from anvild.web.errors import ErrorShape
from anvild.web.metrics import Metrics, Readiness
from anvild.web.request import Answer, Request
from anvild.web.server import ConnectionLimits, bind, serve
from anvild.web.websocket import WebSocket

LIMITS = ConnectionLimits(
    connections=64,
    header_seconds=0.3,
    decision_seconds=0.3,
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
        await trio.testing.wait_all_tasks_blocked()
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


class Form(msgspec.Struct):
    name: str


def _wing(services: Services) -> Api:
    """A wing with an operation of every kind; nobody needs a credential."""
    api = Api(name="lab", prefix="/lab", title="Lab", version="1", errors=ErrorShape(), services=services)

    @api.post("/forms", summary="Ordinary.", answers={201: Form}, body=Form)
    async def form(request: Request) -> Form:
        found: Form = request.body
        return found

    async def upload(request: Request) -> dict[str, int]:
        return {"bytes": sum([len(chunk) async for chunk in request.chunks()])}

    async def pieces() -> AsyncGenerator[bytes]:
        for _ in range(400):
            yield b"x" * 262_144

    async def download(_: Request) -> Answer:
        return Answer(200, aclosing(pieces()))

    async def wait(_: Request) -> Answer:
        await trio.sleep_forever()
        return Answer(204)

    async def echo(_: Request, socket: WebSocket) -> None:
        await socket.accept()
        async for message in socket:
            await socket.send(message)

    async def fail(_: Request, socket: WebSocket) -> None:
        await socket.accept()
        raise ZeroDivisionError

    async def flood(_: Request, socket: WebSocket) -> None:
        await socket.accept()
        while True:
            await socket.send(b"x" * 65_536)

    async def never(_: Request, socket: WebSocket) -> None:
        await trio.sleep_forever()

    api.raw("PUT", "/upload", upload, summary="Big in.", answers={200: dict}, max_body=64 * 2**20)
    api.raw("GET", "/download", download, summary="Big out.", answers={200: bytes})
    api.raw("GET", "/wait", wait, summary="Without end.", answers={204: None})
    api.raw("POST", "/wait", wait, summary="Without end, its body unread.", answers={204: None})
    for name, handler in (("echo", echo), ("fail", fail), ("flood", flood), ("never", never)):
        api.websocket(f"/{name}", handler, summary=name)
    return api


@pytest.fixture
async def wing_app() -> ASGIApp:
    """The root application with one wing."""
    services = Services()
    services.add(Limits, Limits({"default": "1000000/minute"}))
    services.add(Metrics, Metrics())
    services.add(Readiness, Readiness())
    return root_app([_wing(services).mount()], services)


Case = Sequence[bytes]


async def _healthy(server: Served) -> None:
    """Ask whether the server lives. What was sent to it before has been read by it then."""
    for _ in range(2):
        with trio.fail_after(60):
            stream = await trio.open_tcp_stream(*server.address)
            async with stream:
                await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")


@pytest.fixture
def attack(wing_app: ASGIApp) -> Callable[[Case, bool], Awaitable[None]]:
    """Send the pieces of a case to a server, end the connection, and check that the server is as it was before."""

    async def run(case: Case, by_reset: bool) -> None:
        with structlog.testing.capture_logs() as told:
            await talk(case, by_reset)
        # A connection that failed on what was sent did not harm the server; but it should have been answered.
        assert [line for line in told if line["event"] in {"connection_failed", "request_failed"}] == []

    async def talk(case: Case, by_reset: bool) -> None:
        async with serving(wing_app) as server:
            await _healthy(server)
            before = trio.lowlevel.current_statistics().tasks_living
            stream = await trio.open_tcp_stream(*server.address)
            try:
                for piece in case:
                    with trio.move_on_after(0.2):  # the server may hold its client back
                        await stream.send_all(piece)
                    await _healthy(server)
            except trio.BrokenResourceError:
                pass  # the server has ended it; that is its right
            if by_reset:
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await stream.aclose()
            await _healthy(server)
            with trio.fail_after(60):
                while trio.lowlevel.current_statistics().tasks_living > before:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            server.shutdown.set()
        # The server has ended: a connection that outlived its client would have been waited for.

    return run
