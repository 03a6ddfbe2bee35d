"""Connections with programs in a guest, both ways."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import pytest
import trio

from anvild.sdk import AnvilError, CapabilityMissing, Unavailable, WrongState
from anvild.sdk.agent import (
    AgentClient,
    AgentConnection,
    AgentSession,
    accept_connection,
    listen_for_connections,
    open_connection,
)

BLOCK = os.urandom(65536)
BLOCKS = 64
UNDER_WAY = 64 * 2**20

Served = tuple[AgentConnection, trio.SocketStream]


async def free_port(agent: AgentClient) -> int:
    """Have the guest listen on a port that nobody else has, below those that the kernel gives to clients."""
    while True:
        port = random.randint(20000, 32000)
        with suppress(WrongState):  # it is taken
            await listen_for_connections(agent, port)
            return port


async def connect(port: int) -> trio.SocketStream:
    """Connect as a program of the guest does."""
    return await trio.open_tcp_stream("127.0.0.1", port)


@asynccontextmanager
async def accepted(agent: AgentClient) -> AsyncIterator[Served]:
    """A connection that a program has opened to the host: the host's end, and the program's."""
    port = await free_port(agent)
    async with await connect(port) as program, await accept_connection(agent, port) as host:
        yield host, program


@asynccontextmanager
async def opened(agent: AgentClient) -> AsyncIterator[Served]:
    """A connection that the host has opened to a program: the host's end, and the program's."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    async with listener, await open_connection(agent, port) as host, await listener.accept() as program:
        yield host, program


both_ways = pytest.mark.parametrize("joined", [accepted, opened], ids=["to the host", "from the host"])
Joined = Callable[[AgentClient], AbstractAsyncContextManager[Served]]


async def everything(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([chunk async for chunk in stream])


async def send_for_ever(stream: trio.abc.SendStream, sent: list[int] | None = None) -> None:
    while True:
        await stream.send_all(BLOCK)
        if sent is not None:
            sent[0] += len(BLOCK)


@both_ways
async def test_much_flows_both_ways_at_once_and_each_way_ends_by_itself(session: AgentSession, joined: Joined) -> None:
    digests: dict[str, str] = {}

    async def send(stream: trio.abc.HalfCloseableStream) -> None:
        for _ in range(BLOCKS):
            await stream.send_all(BLOCK)
        await stream.send_eof()

    async def receive(name: str, stream: trio.abc.ReceiveStream) -> None:
        found = hashlib.sha256()
        async for chunk in stream:
            found.update(chunk)
        digests[name] = found.hexdigest()

    async with joined(session.agent) as (host, program), trio.open_nursery() as nursery:
        for name, stream in (("host", host), ("program", program)):
            nursery.start_soon(send, stream)
            nursery.start_soon(receive, name, stream)
    assert digests == dict.fromkeys(("host", "program"), hashlib.sha256(BLOCK * BLOCKS).hexdigest())


@both_ways
async def test_a_way_that_has_ended_leaves_the_other(session: AgentSession, joined: Joined) -> None:
    async with joined(session.agent) as (host, program):
        await program.send_all(b"question")
        await program.send_eof()
        assert await everything(host) == b"question"
        await host.send_all(b"answer")
        await host.send_eof()
        assert await everything(program) == b"answer"
    async with joined(session.agent) as (host, program):
        await host.send_eof()
        assert await everything(program) == b""
        await program.send_all(b"late")
        await program.send_eof()
        assert await host.receive_some(2) + await everything(host) == b"late"


@both_ways
async def test_a_reader_that_stands_still_stops_the_writer(session: AgentSession, joined: Joined) -> None:
    """What is under way is bounded by the window and the kernel's own buffers, and nothing else is held up."""
    async with joined(session.agent) as (host, program):
        for writer in (host, program):
            sent = [0]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_for_ever, writer, sent)
                before = -1
                while before < sent[0] < UNDER_WAY:
                    before = sent[0]
                    for _ in range(20):
                        await session.agent.ping()
                nursery.cancel_scope.cancel()
            assert sent[0] < UNDER_WAY


@both_ways
async def test_a_connection_that_the_host_closes_is_over_for_the_program(session: AgentSession, joined: Joined) -> None:
    async with joined(session.agent) as (host, program):
        await host.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await host.receive_some()
        with pytest.raises(trio.ClosedResourceError):
            await host.send_all(b"x")
        assert await everything(program) == b""


@both_ways
async def test_what_is_sent_to_a_program_that_has_gone_breaks(session: AgentSession, joined: Joined) -> None:
    async with joined(session.agent) as (host, program):
        await program.aclose()
        assert await everything(host) == b""
        with pytest.raises(trio.BrokenResourceError):
            await send_for_ever(host)


async def test_nothing_listens(session: AgentSession) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    with pytest.raises(Unavailable, match=f"cannot connect to port {port}.*refused"):
        await open_connection(session.agent, port)


async def test_a_program_may_listen_on_the_newer_loopback_alone(session: AgentSession) -> None:
    try:
        (listener,) = await trio.open_tcp_listeners(0, host="::1")
    except OSError as error:
        pytest.skip(f"this machine has no IPv6 loopback: {error}")
    port = listener.socket.getsockname()[1]
    async with listener, await open_connection(session.agent, port) as host, await listener.accept() as program:
        await host.send_all(b"here")
        await host.send_eof()
        assert await everything(program) == b"here"


@pytest.mark.parametrize(
    ("verb", "port"), [("connect", 0), ("connect", -1), ("listen", 70000), ("listen", "80"), ("accept", 1)]
)
async def test_ports_that_cannot_be(session: AgentSession, verb: str, port: object) -> None:
    with pytest.raises(AnvilError):
        await session.agent.call(verb, port=port)  # type: ignore[arg-type]
    await session.agent.ping()


async def test_connections_are_taken_in_the_order_in_which_they_come(session: AgentSession) -> None:
    port = await free_port(session.agent)
    programs = []
    for number in range(8):
        programs.append(await connect(port))
        await programs[-1].send_all(b"%d" % number)
    for number, program in enumerate(programs):
        async with await accept_connection(session.agent, port) as host:
            assert await host.receive_some() == b"%d" % number
        await program.aclose()


async def test_who_gives_up_waiting_takes_no_connection(session: AgentSession) -> None:
    port = await free_port(session.agent)
    with trio.move_on_after(0.01) as scope:
        await accept_connection(session.agent, port)
    assert scope.cancelled_caught
    await session.agent.ping()
    async with await connect(port) as program, await accept_connection(session.agent, port) as host:
        await host.send_all(b"here")
        assert await program.receive_some() == b"here"


async def test_a_port_outlives_its_host_and_who_connects_meanwhile_waits(guest: Any) -> None:
    async with guest.session() as first:
        port = await free_port(first.agent)
        old = await connect(port)
        host = await accept_connection(first.agent, port)
    with pytest.raises(trio.BrokenResourceError):
        await host.receive_some()
    assert await old.receive_some() == b""
    await old.aclose()
    async with await connect(port) as program:
        await program.send_all(b"early")
        async with guest.session() as second, await accept_connection(second.agent, port) as host:
            assert await host.receive_some() == b"early"


async def test_an_agent_that_is_too_old_says_so(session: AgentSession) -> None:
    with pytest.raises(CapabilityMissing):
        await session.agent.call("teleport")


async def test_what_a_program_has_said_before_it_broke_off_is_heard(session: AgentSession) -> None:
    async with opened(session.agent) as (host, program), trio.open_nursery() as nursery:

        async def say() -> None:
            with suppress(trio.BrokenResourceError):
                while True:
                    await host.send_all(BLOCK)

        nursery.start_soon(say)
        await trio.lowlevel.wait_readable(program.socket)
        await program.send_all(b"no more, please")
        await program.aclose()  # with what it has not read, which resets the connection
        heard = b""
        with suppress(trio.BrokenResourceError):
            async for data in host:
                heard += data
        nursery.cancel_scope.cancel()
    assert heard == b"no more, please"
