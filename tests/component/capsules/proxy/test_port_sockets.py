"""WebSockets to ports of capsules, with a web server in a namespace sandbox."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection, wrap_client_stream

from tests.component.capsules.proxy.conftest import Site

LARGE = 3 * 2**20


@asynccontextmanager
async def opened(
    site: Site, path: str = "/socket", key: bool = True, **more: Any
) -> AsyncIterator[WebSocketConnection]:
    """A WebSocket to the server."""
    headers = [("X-API-Key", site.lab.wing.first.api_key)] if key else []
    headers += more.pop("headers", [])
    stream = await trio.open_tcp_stream("127.0.0.1", int(site.lab.wing.url.rsplit(":", 1)[1]))
    async with stream, trio.open_nursery() as nursery:
        with trio.fail_after(60):
            socket = await wrap_client_stream(
                nursery, stream, site.host(), path, extra_headers=headers, max_message_size=2**25, **more
            )
        yield socket
        await socket.aclose()


async def test_messages_go_both_ways(site: Site) -> None:
    cookies = [("Cookie", "own=1; wrenn_sid=secret"), ("Origin", f"http://{site.host()}")]
    async with opened(site, "/socket/a%2Fb/?q=1", subprotocols=["other", "chat"], headers=cookies) as socket:
        assert socket.subprotocol == "chat"
        with trio.fail_after(60):
            seen = json.loads(await socket.get_message())
            assert "x-api-key" not in seen
            assert (seen["host"], seen["cookie"]) == ("localhost:8000", "own=1")
            assert seen["origin"] == "http://localhost:8000"
            assert seen["x-forwarded-host"] == site.host()
            for message in ("grüß", "x" * LARGE, b"\0\xff" * 1000, bytes(LARGE), "", b""):
                await socket.send_message(message)
                assert await socket.get_message() == message
            await socket.send_message(f"send {5 * LARGE}")
            assert len(await socket.get_message()) == 5 * LARGE


async def test_the_server_closes(site: Site) -> None:
    async with opened(site) as socket:
        with trio.fail_after(60):
            await socket.get_message()
            await socket.send_message("close 4321")
            with pytest.raises(ConnectionClosed):
                await socket.get_message()
        assert (socket.closed.code, socket.closed.reason) == (4321, "as you wish")


async def test_the_client_closes(site: Site) -> None:
    async with site.api.client.stream("GET", "/events", headers=site.headers()) as events:
        async with opened(site) as socket:
            await socket.get_message()
            await socket.aclose(4999, "enough")
        with trio.fail_after(60):
            lines = events.aiter_lines()
            assert await anext(lines) == "data: closed by 4999"
            await site.ask("POST", "/say")
            assert [line async for line in lines] == [""]


async def test_a_server_that_breaks_off(site: Site) -> None:
    async with opened(site) as socket:
        with trio.fail_after(60):
            await socket.get_message()
            await socket.send_message("drop")
            with pytest.raises(ConnectionClosed):
                await socket.get_message()
        assert socket.closed.code == 1011


async def test_a_message_that_is_too_large(site: Site) -> None:
    async with opened(site) as socket:
        with trio.fail_after(60):
            await socket.get_message()
            await socket.send_message(f"send {17 * 2**20}")
            with pytest.raises(ConnectionClosed):
                await socket.get_message()
        assert socket.closed.code == 1009


async def test_what_is_refused(site: Site) -> None:
    for path, key, headers, status, told in (
        ("/socket/refused", True, [], 401, b"not you"),
        ("/echo", True, [], 200, b"{"),
        ("/nothing", True, [], 502, b"no answer"),
        ("/garbage", True, [], 502, b"no answer"),
        ("/socket", False, [], 401, b"sign in"),
        ("/socket", False, [("Origin", "http://elsewhere")], 403, b"own pages"),
    ):
        with pytest.raises((ConnectionRejected, ExceptionGroup)) as refused:
            async with opened(site, path, key, headers=headers):
                pytest.fail("it was opened")
        error = refused.value
        while isinstance(error, ExceptionGroup):
            (error,) = error.exceptions
        assert isinstance(error, ConnectionRejected), error
        assert error.status_code == status, path
        assert told in (error.body or b""), path


async def test_a_refusal_that_is_broken_off(site: Site) -> None:
    handshake = {
        **site.headers(),
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in handshake.items())
    async with await trio.open_tcp_stream("127.0.0.1", int(site.lab.wing.url.rsplit(":", 1)[1])) as stream:
        await stream.send_all(f"GET /short HTTP/1.1\r\n{head}\r\n".encode())
        with trio.fail_after(60):
            shown = b"".join([piece async for piece in stream])
    assert shown.startswith(b"HTTP/1.1 200")
    assert shown.endswith(b"only this")


async def test_what_is_said_counts_as_use(site: Site) -> None:
    async def last_use() -> str:
        shown = await site.api("GET", "/v1/capsules/{id}", 200, values={"id": site.capsule})
        return str(shown["last_active_at"])

    async with opened(site) as socket:
        await socket.get_message()
        before = await last_use()
        await socket.send_message("hello")
        assert await socket.get_message() == "hello"
        assert await last_use() > before
