"""The transports: pipes of a real child, and WebSockets against a third party's server."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio
from trio_websocket import CloseReason, ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

from anvild.sdk import Lease, Unavailable
from anvild.sdk.protocol import (
    Initialize,
    StdioTransport,
    Transport,
    TransportClosed,
    WebSocketRefused,
    connect_driver,
    connect_websocket,
    serve_driver,
)

TOY = Path(__file__).with_name("toy_driver.py")
PRINTING = """
import os, sys, subprocess
from contextlib import asynccontextmanager
import trio
from anvild.sdk import *

class Printing(Driver):
    name = "printing"
    async def start(self):
        print("to standard output")
        os.write(1, b"to descriptor 1\\n")
        subprocess.run(["echo", "from a child"], check=True)
        print("reading gives", repr(sys.stdin.read()))
        self.context.log("info", "started")
        await trio.to_thread.run_sync(self.tell)
    def tell(self):
        self.context.log("warning", "from_a_thread", odd=Health, long="x" * 99999)
    async def stop(self):
        print("stopped")
    async def describe(self):
        raise ZeroDivisionError
    async def watch(self, report):
        await trio.sleep_forever()
    def open(self, device, lease):
        raise ZeroDivisionError

class Other(Printing):
    name = "other"

def anvil_drivers():
    return [Printing, Other]
"""


# ----- children


async def test_what_a_child_prints_does_not_disturb(tmp_path: Path, heard: Any) -> None:
    path = tmp_path / "printing.py"
    path.write_text(PRINTING)
    command = [sys.executable, "-m", "anvild.sdk.protocol", f"{path}:printing"]
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    async with connect_driver(
        StdioTransport(process.stdin, process.stdout), Initialize(host="h"), on_log=heard.line
    ) as driver:
        assert (driver.hello.version, driver.hello.platforms) == ("", ())
        await driver.start()
        process.send_signal(signal.SIGTERM)
        assert "closed" in await driver.wait_closed()
    said = b"".join([bytes(data) async for data in process.stderr]).decode()
    await process.stderr.aclose()
    assert await process.wait() == 0
    for line in ("to standard output", "to descriptor 1", "from a child", "reading gives ''", "stopped"):
        assert line in said
    assert [line.event for line in heard.lines] == ["driver_fault", "started", "from_a_thread"]
    assert "Health" in heard.lines[2].values["values"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "usage: python -m anvild.sdk.protocol"),
        (["nothing-of-that-name"], 2, "no driver 'nothing-of-that-name' is installed"),
        (["/nothing.py"], 2, "'/nothing.py' is no Python file"),
        (["{path}"], 2, "offers printing, other: add :NAME"),
        (["{path}:third"], 2, "offers no such driver"),
        (["anvild.sdk:Session"], 2, "'anvild.sdk:Session' names no class of drivers"),
    ],
)
async def test_targets_that_name_no_driver(tmp_path: Path, arguments: list[str], code: int, said: str) -> None:
    path = tmp_path / "printing.py"
    path.write_text(PRINTING)
    command = [sys.executable, "-m", "anvild.sdk.protocol", *(each.format(path=path) for each in arguments)]
    ended = await trio.run_process(command, capture_stderr=True, check=False)
    assert (ended.returncode, said in ended.stderr.decode()) == (code, True), ended.stderr


async def test_a_child_refuses_a_newer_host_in_one_sentence() -> None:
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "anvild.sdk.protocol", str(TOY)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    sentence = "the driver speaks protocol 1.0 and the host speaks 2.0: upgrade the driver"
    with pytest.raises(Unavailable, match=sentence):
        async with connect_driver(StdioTransport(process.stdin, process.stdout), Initialize(host="h", protocol="2.0")):
            raise AssertionError("it connected")
    assert b"".join([bytes(data) async for data in process.stderr]).decode() == sentence + "\n"
    await process.stderr.aclose()
    assert await process.wait() == 1


async def test_a_child_that_speaks_something_else(start_child: Any) -> None:
    async with start_child("echo", "hello, this is no driver") as (_, transport):
        with pytest.raises(Unavailable, match=r"no message begins with b'hello.*is something else printing"):
            async with connect_driver(transport, Initialize(host="h")):
                raise AssertionError("it connected")
    async with start_child("printf", r"\0\0\0\11\0short") as (_, transport):
        with pytest.raises(Unavailable, match="closed the connection in the middle of a message"):
            async with connect_driver(transport, Initialize(host="h")):
                raise AssertionError("it connected")


async def test_a_message_that_was_cut_short_ends_the_connection() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    stuck = trio.testing.lockstep_stream_one_way_pair()[0]
    transport = StdioTransport(stuck, ours)
    with trio.move_on_after(0) as scope:
        await transport.send("a message")
    assert scope.cancelled_caught
    with pytest.raises(TransportClosed, match="cut short"):
        await transport.send("another")
    await theirs.aclose()


async def test_a_hundred_connections_leave_no_descriptor_and_no_task(
    over_memory: Any, toy: ModuleType, lease: Lease
) -> None:
    async def once() -> None:
        async with over_memory() as driver, driver.open(toy.fact("toy-0"), lease) as session:
            await session.read("/endless-100")
            await session.sample()

    def held() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").iterdir())), trio.lowlevel.current_statistics().tasks_living

    await once()
    before = held()
    for _ in range(100):
        await once()
    assert held() == before


# ----- WebSockets

Serve = Callable[[WebSocketRequest], Awaitable[None]]


@asynccontextmanager
async def server(handle: Serve) -> AsyncIterator[str]:
    async with trio.open_nursery() as nursery:

        async def start(task_status: trio.TaskStatus[Any]) -> None:
            await serve_websocket(
                handle, "127.0.0.1", 0, ssl_context=None, task_status=task_status, max_message_size=2**25
            )

        listening = await nursery.start(start)
        try:
            yield f"ws://127.0.0.1:{listening.port}/api/v1/driver?x=1"
        finally:
            nursery.cancel_scope.cancel()


class OverTrioWebSocket(Transport):
    """The host's end, by a third party."""

    def __init__(self, socket: WebSocketConnection) -> None:
        self._socket = socket

    async def send(self, message: str | bytes) -> None:
        try:
            await self._socket.send_message(message)
        except ConnectionClosed:
            raise TransportClosed("closed") from None

    async def receive(self) -> str | bytes:
        try:
            message: str | bytes = await self._socket.get_message()
        except ConnectionClosed:
            raise TransportClosed("closed") from None
        return message

    async def aclose(self) -> None:
        await self._socket.aclose()


async def test_a_driver_over_a_websocket(toy: ModuleType, lease: Lease) -> None:
    done = trio.Event()

    async def handle(request: WebSocketRequest) -> None:
        assert request.path == "/api/v1/driver?x=1"
        assert dict(request.headers)[b"authorization"] == b"Bearer t"
        socket = await request.accept()
        async with (
            connect_driver(OverTrioWebSocket(socket), Initialize(host="h")) as driver,
            driver.open(toy.fact("toy-0"), lease) as session,
        ):
            await socket.ping()
            async with await session.read("/endless-2") as stream:
                data = bytearray()
                while len(data) < 2 * 2**20:
                    data += await stream.receive_some()

            async def source() -> Any:
                for _ in range(32):
                    yield bytes(65536)

            assert await session.write("/x", source()) == 2**21
            assert len(await session.list("/many", depth=10_000)) == 10_000
        done.set()

    async with server(handle) as url:
        transport = await connect_websocket(url, headers={"Authorization": "Bearer t"})
        with trio.fail_after(60):
            await serve_driver(toy.ToyDriver, toy.ToyDriver, transport)
        await done.wait()


async def test_the_ends_of_a_websocket() -> None:
    async def handle(request: WebSocketRequest) -> None:
        if "refuse" in request.path:
            await request.reject(401, body=b"the token is expired")
            return
        socket = await request.accept()
        what = await socket.get_message()
        if what == "close":
            await socket.aclose(code=1008, reason="the token was revoked")
        elif what == "much":
            await socket.send_message("x" * 1001)
            with pytest.raises(ConnectionClosed) as caught:
                await socket.get_message()
            reasons.append(caught.value.reason)
        else:
            await socket.send_message("ä" * 500)
            await socket.send_message(b"")
            await socket.ping(b"there?")
            with pytest.raises(ConnectionClosed) as caught:
                await socket.get_message()
            reasons.append(caught.value.reason)

    reasons: list[CloseReason] = []
    async with server(handle) as url:
        with pytest.raises(WebSocketRefused, match="refused the connection with 401: the token is expired") as refused:
            await connect_websocket(url.replace("driver", "refuse"))
        assert refused.value.status == 401

        transport = await connect_websocket(url)
        await transport.send("close")
        with pytest.raises(TransportClosed, match="closed the connection with 1008 and said: the token was revoked"):
            await transport.receive()
        with pytest.raises(TransportClosed):
            await transport.send("more")
        await transport.aclose()

        transport = await connect_websocket(url, max_message=1000)
        await transport.send("much")
        with pytest.raises(TransportClosed, match="over 1000 bytes"):
            await transport.receive()
        await transport.aclose()

        transport = await connect_websocket(url)
        await transport.send("words")
        assert await transport.receive() == "ä" * 500
        assert await transport.receive() == b""
        with trio.move_on_after(0.05):
            await transport.receive()  # the ping is answered meanwhile
        await transport.aclose()
        await transport.aclose()
        with pytest.raises(TransportClosed):
            await transport.receive()
    assert [reason.code for reason in reasons] == [1009, 1000]


async def test_servers_that_are_none() -> None:
    with pytest.raises(ValueError, match="no ws:// or wss:// URL"):
        await connect_websocket("http://127.0.0.1/")
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]

    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"220 this is a mail server\r\n\r\n")
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, answer, [listener])
        with pytest.raises(TransportClosed, match="does not speak WebSocket"):
            await connect_websocket(f"ws://127.0.0.1:{port}/")
        with pytest.raises(TransportClosed, match="no TLS with"):
            await connect_websocket(f"wss://127.0.0.1:{port}/")
        nursery.cancel_scope.cancel()
    with pytest.raises(TransportClosed, match="cannot be reached"):
        await connect_websocket(f"ws://127.0.0.1:{port}/")
