"""A small driver in each of the places where one can stand, and one that is written by hand, message by message."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
import trio

from anvild.sdk import Driver, DriverContext, DriverFault, Lease
from anvild.sdk.protocol import (
    Initialize,
    LogLine,
    RemoteDriver,
    StdioTransport,
    Transport,
    connect_driver,
    memory_transports,
    serve_driver,
)
from anvild.sdk.protocol.frames import stream_frame

TOY = Path(__file__).with_name("toy_driver.py")
LEASE = Lease(lease_id="lease-1", fence=7, holder="run:1")

Place = Callable[..., AbstractAsyncContextManager[Driver]]


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def toy() -> ModuleType:
    """The module of the small driver."""
    return _load(TOY)


@pytest.fixture
def lease() -> Lease:
    return LEASE


@dataclass
class Heard:
    """What a host has heard of a driver beside its answers."""

    lines: list[LogLine] = field(default_factory=list)
    faults: list[DriverFault] = field(default_factory=list)
    traffic: list[tuple[str, str | bytes]] = field(default_factory=list)
    instances: list[Driver] = field(default_factory=list)

    async def line(self, line: LogLine) -> None:
        self.lines.append(line)


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def in_process(toy: ModuleType, tmp_path: Path, heard: Heard) -> Place:
    @asynccontextmanager
    async def place(**settings: Any) -> AsyncIterator[Driver]:
        context = DriverContext(
            settings=msgspec.convert(settings, toy.ToySettings),
            host="bench-1",
            state_dir=tmp_path,
            cache_dir=tmp_path,
            data_path=(),
            log=lambda *args, **values: None,
        )
        heard.instances.append(toy.ToyDriver(context))
        yield heard.instances[-1]

    return place


@pytest.fixture
def over_memory(toy: ModuleType, heard: Heard) -> Place:
    @asynccontextmanager
    async def place(**settings: Any) -> AsyncIterator[RemoteDriver]:
        here, there = memory_transports()

        def make(context: DriverContext[Any]) -> Driver:
            heard.instances.append(toy.ToyDriver(context))
            return heard.instances[-1]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_driver, make, toy.ToyDriver, there)
            failure: Exception | None = None
            try:
                async with connect_driver(
                    here,
                    Initialize(host="bench-1", settings=settings),
                    on_log=heard.line,
                    on_fault=heard.faults.append,
                    on_traffic=lambda way, message: heard.traffic.append((way, message)),
                ) as driver:
                    yield driver
            except Exception as error:
                failure = error
        if failure is not None:
            raise failure

    return place


@asynccontextmanager
async def child(*command: str) -> AsyncIterator[tuple[trio.Process, Transport]]:
    process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    transport = StdioTransport(process.stdin, process.stdout)
    try:
        yield process, transport
    finally:
        with trio.CancelScope(shield=True):
            await transport.aclose()
            with trio.move_on_after(10) as scope:
                await process.wait()
            if scope.cancelled_caught:
                process.kill()
                await process.wait()
    assert process.returncode == 0


@pytest.fixture
def start_child() -> Callable[..., AbstractAsyncContextManager[tuple[trio.Process, Transport]]]:
    """Start a command whose standard input and output are a transport; it must end with 0 when they are closed."""
    return child


@pytest.fixture
def over_stdio(heard: Heard) -> Place:
    @asynccontextmanager
    async def place(**settings: Any) -> AsyncIterator[RemoteDriver]:
        async with (
            child(sys.executable, "-m", "anvild.sdk.protocol", str(TOY)) as (_, transport),
            connect_driver(
                transport,
                Initialize(host="bench-1", settings=settings),
                on_log=heard.line,
                on_fault=heard.faults.append,
            ) as driver,
        ):
            yield driver

    return place


class Wire:
    """The other end of a connection, by hand: one message at a time."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    async def send(self, message: object) -> None:
        """Send a JSON-RPC message, or text and bytes as they are."""
        if isinstance(message, dict):
            message = json.dumps({"jsonrpc": "2.0", **message})
        assert isinstance(message, str | bytes)
        await self.transport.send(message)

    async def frame(self, stream: int, data: bytes, channel: int = 0) -> None:
        await self.transport.send(stream_frame(stream, channel, data))

    async def receive(self) -> Any:
        """Return the next message, text decoded."""
        message = await self.transport.receive()
        return json.loads(message) if isinstance(message, str) else message

    async def expect(self, method: str) -> Any:
        """Return the next message, which must be of this method."""
        message = await self.receive()
        assert message.get("method") == method, message
        return message

    async def answer(self, request: Any, result: object) -> None:
        await self.send({"id": request["id"], "result": result})

    async def ask(self, number: int, method: str, **params: object) -> Any:
        """Ask and return the answer, which must be the next message with an id."""
        await self.send({"id": number, "method": method, "params": params})
        while True:
            message = await self.receive()
            if isinstance(message, dict) and message.get("id") == number:
                return message

    async def welcome(self, **extra: object) -> None:
        """Answer a host's greeting."""
        request = await self.expect("initialize")
        await self.answer(request, {"protocol": "1.0", "name": "hand", **extra})

    async def open_session(self, *capabilities: str) -> int:
        """Answer a host that opens a session, and return its number."""
        request = await self.expect("session.open")
        device = request["params"]["device"]
        await self.answer(request, {"session": 5, "device": device, "capabilities": capabilities})
        return 5


Script = Callable[[Wire], Awaitable[None]]


@pytest.fixture
def by_hand(heard: Heard) -> Callable[[Script], AbstractAsyncContextManager[RemoteDriver]]:
    """A host with a driver that follows a script from after the greeting on."""

    @asynccontextmanager
    async def place(script: Script) -> AsyncIterator[RemoteDriver]:
        here, there = memory_transports()

        async def play() -> None:
            wire = Wire(there)
            await wire.welcome()
            await script(wire)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(play)
            failure: Exception | None = None
            try:
                async with connect_driver(here, Initialize(host="bench-1"), on_fault=heard.faults.append) as driver:
                    yield driver
            except Exception as error:
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    return place


@pytest.fixture
def wire_to_toy(toy: ModuleType) -> Callable[[], AbstractAsyncContextManager[Wire]]:
    """A host by hand, with the small driver on the other side."""

    @asynccontextmanager
    async def place() -> AsyncIterator[Wire]:
        here, there = memory_transports()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_driver, toy.ToyDriver, toy.ToyDriver, there)
            yield Wire(here)
            await here.aclose()

    return place
