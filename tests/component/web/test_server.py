"""The connection server, spoken to over real sockets."""

from __future__ import annotations

import gc
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H11Protocol

from anvild.sdk import ASGIApp
from anvild.web.connection import Connection
from anvild.web.exchange import Exchange, Inbox
from anvild.web.server import BindError, ConnectionLimits, bind, serve, url_of

Serving = Callable[..., Any]


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with method, path and body."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send(message | {"type": "websocket.send"})
        return
    body = b""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        more = message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send(
        {"type": "http.response.body", "body": b"%s %s %s" % (scope["method"].encode(), scope["path"].encode(), body)}
    )


def answers(data: bytes) -> list[bytes]:
    """The status lines in a stream of answers."""
    return re.findall(rb"HTTP/1\.1 \d+ ", data)


async def test_requests_on_one_connection_are_answered_in_turn(serving: Serving) -> None:
    async with serving(echo) as server:
        one = b"POST /a HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\nabc"
        two = b"GET /b HTTP/1.1\r\nHost: t\r\n\r\n"
        last = (
            b"PUT /c HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nde\r\n0\r\n\r\n"
        )
        found = await server.ask(one + two + last)
        assert len(answers(found)) == 3
        assert found.index(b"POST /a abc") < found.index(b"GET /b ") < found.index(b"PUT /c de")
        assert b"date: " in found


async def test_an_answer_that_comes_whole_leaves_in_one_write(serving: Serving) -> None:
    async with serving(echo) as server:

        def first_piece() -> bytes:
            with server.connect() as sock:
                sock.sendall(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
                return sock.recv(65536)

        assert (await trio.to_thread.run_sync(first_piece)).endswith(b"GET / ")


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"GET http://t/x HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n", b"200"),
        (b"GET / HTTP/1.0\r\n\r\n", b"200"),
        (b"GET x HTTP/1.1\r\nHost: t\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/3.7\r\nHost: t\r\n\r\n", b"505"),
        (b"CONNECT t:80 HTTP/1.1\r\nHost: t\r\n\r\n", b"400"),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: t\r\n\r\n", b"414"),
        (b"GET / HTTP/1.1\r\nHost: t\r\n" + b"a: b\r\n" * 101 + b"\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: t\r\na: " + b"b" * 40_000, b"431"),
        (b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"),
        (b"GET / HTTP/1.1\r\nHost: t\r\n", b"408"),
        (b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\nabc", b"408"),
    ],
)
async def test_heads(serving: Serving, request_head: bytes, status: bytes) -> None:
    async with serving(echo) as server:
        found = await server.ask(request_head)
        assert found.startswith((b"HTTP/1.1 " + status, b"HTTP/1.0 " + status)), found


async def test_a_body_that_dribbles_is_cut_off_and_one_that_flows_is_not(serving: Serving) -> None:
    async with serving(echo) as server:

        def dribble() -> bytes:
            with server.connect() as sock:
                sock.sendall(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 100000\r\n\r\n")
                sock.settimeout(0.02)
                for _ in range(400):
                    try:
                        sock.sendall(b"x")
                        return sock.recv(65536)
                    except TimeoutError:
                        continue
                return b"never"

        assert (await trio.to_thread.run_sync(dribble)).startswith(b"HTTP/1.1 408")


async def test_a_client_is_asked_for_its_body_only_when_somebody_wants_it(serving: Serving) -> None:
    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 413, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    head = b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    async with serving(refuse) as server:
        assert answers(await server.ask(head)) == [b"HTTP/1.1 413 "]
    async with serving(echo) as server:
        assert answers(await server.ask(head))[0] == b"HTTP/1.1 100 "


async def test_idle_connections_are_closed(serving: Serving) -> None:
    async with serving(echo) as server:
        found = await server.ask(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")  # returns when the server closes
        assert answers(found) == [b"HTTP/1.1 200 "]
        assert await server.ask(b"") == b""


async def test_a_reader_that_stalls_blocks_neither_others_nor_the_shutdown(serving: Serving) -> None:
    ended = trio.Event()

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while True:
                await send({"type": "http.response.body", "body": b"x" * 262144, "more_body": True})
        finally:
            ended.set()

    async with serving(endless) as server:
        sock = server.connect(receive_buffer=4096)
        sock.sendall(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        await ended.wait()
        sock.close()
        other = server.connect(receive_buffer=4096)
        other.sendall(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        assert await trio.to_thread.run_sync(other.recv, 1)
        server.shutdown.set()
    other.close()


async def test_a_client_that_leaves_cancels_its_handler(serving: Serving) -> None:
    started, cancelled = trio.Event(), trio.Event()

    async def wait(scope: Any, receive: Any, send: Any) -> None:
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with serving(wait) as server:
        sock = server.connect()
        sock.sendall(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        await started.wait()
        sock.close()
        await cancelled.wait()


async def test_a_body_waits_for_a_slow_handler(serving: Serving, limits: ConnectionLimits) -> None:
    taken = 0
    go_on = trio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        nonlocal taken
        await go_on.wait()
        while (message := await receive())["more_body"]:
            taken += len(message["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    size = 32 * 2**20
    async with serving(slow) as server:

        def upload(sent: list[int]) -> bytes:
            with server.connect() as sock:
                sock.sendall(b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % size)
                for _ in range(size // 65536):
                    sock.sendall(b"x" * 65536)
                    sent[0] += 65536
                return sock.recv(100)

        sent = [0]
        async with trio.open_nursery() as nursery:
            answer: list[bytes] = []

            async def run() -> None:
                answer.append(await trio.to_thread.run_sync(upload, sent))

            nursery.start_soon(run)
            before = -1
            while sent[0] != before or not sent[0]:  # until the client is held back
                before = sent[0]
                await trio.sleep(0.2)
            assert sent[0] < 16 * 2**20
            go_on.set()
        assert answer[0].startswith(b"HTTP/1.1 200")
        assert taken == size


async def test_an_answer_that_breaks_off_is_not_taken_for_whole(serving: Serving) -> None:
    async def fail(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ZeroDivisionError

    async def fail_early(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError

    async with serving(fail) as server:
        assert not (await server.get()).endswith(b"0\r\n\r\n")
    async with serving(fail_early) as server:
        assert (await server.get()).startswith(b"HTTP/1.1 500")


async def test_connections_beyond_the_limit_are_told_so(serving: Serving, limits: ConnectionLimits) -> None:
    async with serving(echo, msgspec.structs.replace(limits, connections=2)) as server:
        held = [server.connect(), server.connect()]
        assert (await server.get()).startswith(b"HTTP/1.1 503")
        for sock in held:
            sock.close()
        await trio.sleep(0.05)
        assert (await server.get()).startswith(b"HTTP/1.1 200")


async def test_shutdown_finishes_what_is_in_flight_and_cancels_what_does_not_end(serving: Serving) -> None:
    started, stopping, cancelled = trio.Event(), trio.Event(), trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/for-ever":
            try:
                await trio.sleep_forever()
            finally:
                cancelled.set()
        started.set()
        await scope["state"]["stopping"].wait()
        stopping.set()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    async with serving(app) as server:
        idle = server.connect()
        lasting = server.connect()
        lasting.sendall(b"GET /for-ever HTTP/1.1\r\nHost: t\r\n\r\n")
        async with trio.open_nursery() as nursery:

            async def in_flight() -> None:
                found = await server.ask(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
                assert found.endswith(b"done")
                assert b"connection: close" in found

            nursery.start_soon(in_flight)
            await started.wait()
            server.shutdown.set()
            assert await trio.to_thread.run_sync(idle.recv, 1) == b""
    assert cancelled.is_set()
    with pytest.raises(ConnectionRefusedError):
        server.connect()
    idle.close()
    lasting.close()


async def test_unix_sockets(tmp_path: Path) -> None:
    path = tmp_path / "anvil.sock"
    listeners = bind(f"unix:{path}")
    assert path.stat().st_mode & 0o777 == 0o660
    assert url_of(listeners[0]) == f"unix:{path}"
    with pytest.raises(BindError, match="in use"):
        bind(f"unix:{path}")
    shutdown = trio.Event()
    async with trio.open_nursery() as nursery:

        async def run(task_status: trio.TaskStatus[None]) -> None:
            await serve(echo, listeners, ConnectionLimits(), shutdown=shutdown, task_status=task_status)

        await nursery.start(run)
        stream = await trio.open_unix_socket(path)
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        assert (await stream.receive_some()).endswith(b"GET / ")
        await stream.aclose()
        shutdown.set()
    assert not path.exists()
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    (listener,) = bind(f"unix:{path}")
    listener.socket.close()


async def test_an_address_that_is_taken_is_told_in_one_sentence() -> None:
    (listener,) = bind("127.0.0.1:0")
    host, port = listener.socket.getsockname()
    assert url_of(listener) == f"http://127.0.0.1:{port}"
    with pytest.raises(BindError, match=f"cannot listen on {host}:{port}: the address is in use"):
        bind(f"{host}:{port}")
    listener.socket.close()
    for wrong in ("8470", "127.0.0.1:x", "127.0.0.1:99999"):
        with pytest.raises(BindError, match="expected HOST:PORT"):
            bind(wrong)


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


async def test_connections_leave_nothing_behind(serving: Serving, wing_app: ASGIApp) -> None:
    kinds = (Connection, Exchange, Inbox, H11Protocol, H2Protocol)
    requests = [
        b"GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n",
        b"GET /lab/wait HTTP/1.1\r\nHost: t\r\n\r\n",
        b"GET /lab/download HTTP/1.1\r\nHost: t\r\n\r\n",
        b"PUT /lab/upload HTTP/1.1\r\nHost: t\r\nContent-Length: 900000\r\n\r\n" + b"x" * 100_000,
        b"GET / HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    ]
    async with serving(wing_app) as server:
        files, tasks = open_files(), trio.lowlevel.current_statistics().tasks_living
        for _ in range(5):
            for request in requests:
                stream = await trio.open_tcp_stream(*server.address)
                await stream.send_all(request)
                assert await server.get("/healthz")
                await stream.aclose()
        with trio.fail_after(60):
            while trio.lowlevel.current_statistics().tasks_living > tasks or open_files() > files:  # noqa: ASYNC110
                await trio.sleep(0.01)
        gc.collect()
        assert [thing for thing in gc.get_objects() if isinstance(thing, kinds)] == []
