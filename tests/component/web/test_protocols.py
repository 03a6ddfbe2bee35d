"""HTTP/2 and WebSockets as their clients use them, and the whole way of a request over a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest
import trio
import trio_websocket

from anvild.sdk import ASGIApp

Serving = Callable[..., Any]

HANDSHAKE = (
    b"GET /lab/echo HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Http2Client:
    """A client with prior knowledge, on the protocol library alone."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._connection.initiate_connection()
        self.heads: dict[int, dict[str, str]] = {}
        self.bodies: dict[int, int] = {}
        self.ended: set[int] = set()

    async def send(self, method: str, path: str, body: int | None = None, **headers: str) -> int:
        stream_id = self._connection.get_next_available_stream_id()
        fields = [(":method", method), (":path", path), (":scheme", "http"), (":authority", "t"), *headers.items()]
        self._connection.send_headers(stream_id, fields, end_stream=body is None)
        self.bodies[stream_id] = 0
        left = body or 0
        while left:
            size = min(left, self._connection.local_flow_control_window(stream_id), 16_384)
            if size:
                self._connection.send_data(stream_id, b"x" * size)
                left -= size
            else:
                await self._turn()
        if body is not None:
            self._connection.end_stream(stream_id)
        return stream_id

    async def answers(self) -> None:
        """Wait until everything that was asked has been answered."""
        while set(self.bodies) - self.ended:
            await self._turn()

    async def _turn(self) -> None:
        await self._stream.send_all(self._connection.data_to_send())
        for event in self._connection.receive_data(await self._stream.receive_some()):
            if isinstance(event, h2.events.ResponseReceived):
                self.heads[event.stream_id] = dict(event.headers)
            elif isinstance(event, h2.events.DataReceived):
                self.bodies[event.stream_id] += len(event.data)
                self._connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                self.ended.add(event.stream_id)


async def test_http2(serving: Serving, wing_app: ASGIApp) -> None:
    async with serving(wing_app) as server:
        async with await trio.open_tcp_stream(*server.address) as stream:
            client = Http2Client(stream)
            download = await client.send("GET", "/lab/download")
            upload = await client.send("PUT", "/lab/upload", 3_000_000)
            healthy = await client.send("GET", "/healthz")
            head = await client.send("HEAD", "/healthz")
            missing = await client.send("GET", "/nowhere")
            await client.answers()
        assert client.bodies[download] == 400 * 262_144
        assert [client.heads[one][":status"] for one in (download, upload, healthy, head, missing)] == [
            "200",
            "200",
            "200",
            "200",
            "404",
        ]
        assert client.heads[upload]["content-type"] == "application/json"
        assert client.bodies[head] == 0


@asynccontextmanager
async def websocket(server: Any, path: str) -> AsyncIterator[trio_websocket.WebSocketConnection]:
    stream = await trio.open_tcp_stream(*server.address)
    async with stream, trio.open_nursery() as nursery:
        yield await trio_websocket.wrap_client_stream(nursery, stream, "t", path)
        nursery.cancel_scope.cancel()


async def closed(socket: trio_websocket.WebSocketConnection) -> int:
    """Wait until the server closes and return its code."""
    with pytest.raises(trio_websocket.ConnectionClosed) as found:
        await socket.get_message()
    assert found.value.reason is not None
    return found.value.reason.code


async def test_websockets(serving: Serving, wing_app: ASGIApp) -> None:
    async with serving(wing_app) as server:
        async with websocket(server, "/lab/echo") as socket:
            for message in ("text", "", b"bytes", b"", "ü" * 1000):
                await socket.send_message(message)
                assert await socket.get_message() == message
            await socket.ping()
            await socket.aclose()
        async with websocket(server, "/lab/fail") as socket:
            assert await closed(socket) == 1011
        async with websocket(server, "/lab/echo") as socket:
            await socket.send_message("x" * 100_000)
            assert await closed(socket) == 1009
        found = await server.ask(HANDSHAKE.replace(b"/lab/echo", b"/lab/nowhere"))
        assert found.startswith(b"HTTP/1.1 404")
        assert b'{"error":{"code":"not_found"' in found


async def test_a_websocket_is_closed_when_the_server_stops(serving: Serving, wing_app: ASGIApp) -> None:
    async with serving(wing_app) as server, websocket(server, "/lab/echo") as socket:
        await socket.send_message("x")
        await socket.get_message()
        server.shutdown.set()
        assert await closed(socket) == 1001


async def test_a_dead_websocket_is_noticed(serving: Serving, wing_app: ASGIApp) -> None:
    async with serving(wing_app) as server:
        before = trio.lowlevel.current_statistics().tasks_living
        stream = await trio.open_tcp_stream(*server.address)
        await stream.send_all(HANDSHAKE)
        assert b" 101 " in await stream.receive_some()
        with trio.fail_after(60):
            while await stream.receive_some():  # pings, which nobody answers; then the end
                pass
        await stream.aclose()
        with trio.fail_after(60):
            while trio.lowlevel.current_statistics().tasks_living > before:  # noqa: ASYNC110
                await trio.sleep(0.01)
