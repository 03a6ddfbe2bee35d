"""Broken channels, hosts that vanish, guests that lie: each end goes on or gives up in order, and never grows."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import termios
import tty
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from anvild.sdk import AnvilError, Command, DeviceFact, DeviceLost, DeviceStatus, DriverFault, Unavailable, run
from anvild.sdk.agent import AgentSession, connect_agent
from anvild.sdk.agent.protocol import MAGIC, NONCE_SIZE, WINDOW, Kind, frame, pack

DEVICE = DeviceFact(identity="liar", platform="linux", name="liar", status=DeviceStatus.READY)
INFO = {"version": 1, "pid": 1, "host": "h", "kernel": "k", "machine": "m", "tags": []}
HELLO = MAGIC + b"n" * NONCE_SIZE
CONTROL_CHARACTERS = 6  # their place in the attributes of a terminal


def serving(program: Path, number: int) -> subprocess.Popen[bytes]:
    """Start a guest on an open channel."""
    return subprocess.Popen([sys.executable, "-I", "-S", str(program), "fd", str(number)], pass_fds=[number])


class Pipe:
    """A guest on one channel that outlives its hosts, as a virtio port does."""

    def __init__(self, program: Path) -> None:
        self.host, inner = socket.socketpair()
        self.process = serving(program, inner.fileno())
        inner.close()

    def stream(self) -> trio.SocketStream:
        return trio.SocketStream(trio.socket.from_stdlib_socket(self.host.dup()))

    def memory(self) -> int:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("the agent has ended")

    def close(self) -> None:
        self.host.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture
def pipe(agent_file: Path) -> Iterator[Pipe]:
    running = Pipe(agent_file)
    yield running
    running.close()


@pytest.fixture(scope="module")
def lasting_pipe(agent_file: Path) -> Iterator[Pipe]:
    running = Pipe(agent_file)
    yield running
    running.close()


async def answers(pipe: Pipe) -> None:
    """A new host comes at once and is served."""
    stream = Unclosed(pipe.stream())
    async with connect_agent(stream, deadline=10) as agent:
        assert (await run(AgentSession(DEVICE, agent), Command(argv=("echo", "here")))).stdout == b"here\n"


class Unclosed(trio.abc.Stream):
    """A stream whose end the other side does not see."""

    def __init__(self, inner: trio.SocketStream) -> None:
        self.inner = inner

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.inner.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.inner.receive_some(max_bytes)

    async def aclose(self) -> None:
        self.inner.socket.close()
        await trio.lowlevel.checkpoint()


LONG = frame(Kind.DATA, 5, b"x" * 60000)
EXEC = frame(Kind.OPEN, 1, pack({"verb": "exec", "argv": ["yes"]}))
LEFTOVERS = {
    "nothing": b"",
    "half a greeting": HELLO[:20],
    "a greeting": HELLO,
    "half a header": HELLO + LONG[:4],
    "half a frame": HELLO + LONG[:30000],
    "half a request": HELLO + frame(Kind.PART, 1, b"x" * 500),
    "a frame that is too long": HELLO + struct.pack("<BII", 3, 2**31, 1),
    "a flood from the guest": HELLO + EXEC,
    "noise": bytes(range(256)) * 300,
}


@pytest.mark.parametrize("leftover", LEFTOVERS.values(), ids=LEFTOVERS)
async def test_a_host_that_vanishes_anywhere_is_followed_by_the_next(pipe: Pipe, leftover: bytes) -> None:
    first = pipe.stream()
    await first.send_all(leftover)
    if leftover.endswith(EXEC):
        received = b""
        while b"y\ny\n" not in received:
            received += await first.receive_some()
    first.socket.close()
    await answers(pipe)


frames = st.builds(
    lambda kind, sid, payload: struct.pack("<BII", kind, len(payload), sid) + payload,
    st.integers(0, 12),
    st.integers(0, 4),
    st.binary(max_size=40)
    | st.dictionaries(
        st.sampled_from(["verb", "argv", "path", "depth", "pid", "signal", "size", "tag", "mode", "terminal", "env"]),
        st.sampled_from(["exec", "attach", "list", "stat", "read", "identity", "kill", "/proc/self", "", -1, 0])
        | st.lists(st.sampled_from(["true", "\0", 1]), max_size=3)
        | st.none(),
        max_size=4,
    ).map(pack),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(frames | st.binary(max_size=30), max_size=12))
async def test_the_guest_bears_anything(lasting_pipe: Pipe, sent: list[bytes]) -> None:
    first = lasting_pipe.stream()
    await first.send_all(HELLO + b"".join(sent))
    first.socket.close()
    await answers(lasting_pipe)
    assert lasting_pipe.process.poll() is None


async def test_a_host_that_does_not_read_costs_the_guest_little(pipe: Pipe) -> None:
    first = pipe.stream()
    await first.send_all(HELLO)
    before = pipe.memory()
    with trio.move_on_after(0.5):
        for sid in range(1, 1_000_000):
            await first.send_all(frame(Kind.OPEN, sid, pack({"verb": "stat", "path": "/" * 4000})))
    first.socket.close()
    assert pipe.memory() - before < 32 * 2**20


async def called(stream: trio.abc.ReceiveStream) -> None:
    """Return when the guest has asked for a greeting."""
    received = b""
    with trio.fail_after(60):
        while not received.endswith(MAGIC + bytes(NONCE_SIZE)):
            received += await stream.receive_some()


async def test_a_greeting_that_a_port_hands_out_too_early_is_asked_for_again(agent_file: Path) -> None:
    """A virtio port gives what a new host sends and then still says that no host is there; so does a raw terminal
    that need not wait for its next byte."""
    host, port = os.openpty()
    tty.setraw(port)
    early = termios.tcgetattr(port)
    early[CONTROL_CHARACTERS][termios.VMIN] = 0
    termios.tcsetattr(port, termios.TCSANOW, early)
    process = serving(agent_file, port)
    try:
        async with trio.lowlevel.FdStream(host) as stream:
            await called(stream)
            await stream.send_all(HELLO)
            await called(stream)
            early[CONTROL_CHARACTERS][termios.VMIN] = 1
            termios.tcsetattr(port, termios.TCSANOW, early)
            async with connect_agent(stream, deadline=10) as agent:
                assert agent.info.tags == []
    finally:
        process.kill()
        process.wait()
        os.close(port)


async def test_silence_is_unavailable(autojump_clock: trio.testing.MockClock) -> None:
    host, _guest = trio.testing.memory_stream_pair()
    with pytest.raises(Unavailable):
        async with connect_agent(host, deadline=5):
            raise AssertionError


async def test_the_host_greets_again_when_the_guest_calls_out() -> None:
    host, guest = trio.testing.memory_stream_pair()

    async def late() -> None:
        greeting = await guest.receive_some()
        await guest.send_all(b"left over" + MAGIC + bytes(NONCE_SIZE))
        assert await guest.receive_some() == greeting
        await guest.send_all(greeting + greeting[:0] + frame(Kind.INFO, 0, pack(INFO)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(late)
        async with connect_agent(host, deadline=5) as agent:
            assert agent.info.kernel == "k"


async def test_another_version_is_refused_in_words() -> None:
    host, guest = trio.testing.memory_stream_pair()

    async def other() -> None:
        await guest.send_all(await guest.receive_some() + frame(Kind.INFO, 0, pack({**INFO, "version": 2})))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        with pytest.raises(DriverFault, match="build the image anew"):
            async with connect_agent(host, deadline=5):
                raise AssertionError


async def lied_to(
    reply: bytes, use: Callable[[AgentSession], Awaitable[object]], *, closes: bool = True
) -> AnvilError | None:
    """Use a session whose guest sends ``reply`` to the first verb and then ``closes``; return the error."""
    host, guest = trio.testing.memory_stream_pair()

    async def lie() -> None:
        await guest.send_all(await guest.receive_some() + frame(Kind.INFO, 0, pack(INFO)))
        await guest.receive_some()
        await guest.send_all(reply)
        if closes:
            await guest.aclose()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lie)
            try:
                async with connect_agent(host, deadline=5) as agent:
                    await use(AgentSession(DEVICE, agent))
            except AnvilError as error:
                return error
    return None


async def use_stat(session: AgentSession) -> object:
    return await session.stat("/")


async def use_exec(session: AgentSession) -> object:
    return await run(session, Command(argv=("true",)), stdin=b"x" * WINDOW)


async def use_without_reading(session: AgentSession) -> object:
    process = await session.start(Command(argv=("true",)))
    await session.agent.ping()
    return process


async def use_read(session: AgentSession) -> object:
    async with await session.read("/x") as file:
        return [chunk async for chunk in file]


async def use_write(session: AgentSession) -> object:
    async def source() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield b"x" * 65536

    return await session.write("/x", source())


USES = [use_stat, use_exec, use_read, use_write]
STARTED = frame(Kind.ANSWER, 1, pack({"pid": 7}))
LIES = {
    "no frame": b"\xff" * 20,
    "a kind of the host": frame(Kind.OPEN, 1, b""),
    "a huge frame": struct.pack("<BII", 3, 2**30, 1),
    "more than the credit": STARTED + frame(Kind.DATA, 1, b"x" * 65536) * 5,
    "many empty frames": STARTED + frame(Kind.DATA, 1) * (WINDOW // 64 + 1),
    "credit that was not spent": STARTED + frame(Kind.CREDIT, 1, struct.pack("<I", 1)),
    "odd credit": STARTED + frame(Kind.CREDIT, 1, b"x"),
    "two answers": STARTED + STARTED,
    "an answer of the wrong type": frame(Kind.ANSWER, 1, pack({"pid": "seven"})),
    "an answer that is no message": frame(Kind.ANSWER, 1, pack([1])),
}
WRONG_ENDS = {
    "an end of the wrong type": STARTED + frame(Kind.END, 1, pack({"code": "x"})),
    "an end with nothing": STARTED + frame(Kind.END, 1, pack({})),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
async def test_a_lie_is_a_fault_of_the_driver(lie: bytes) -> None:
    assert isinstance(await lied_to(lie, use_without_reading, closes=False), DriverFault)


@pytest.mark.parametrize("lie", WRONG_ENDS.values(), ids=WRONG_ENDS)
async def test_a_wrong_end_is_a_fault_of_the_driver(lie: bytes) -> None:
    assert isinstance(await lied_to(lie, use_exec, closes=False), DriverFault)


async def test_a_lie_ends_verbs_that_wait_for_room() -> None:
    assert isinstance(await lied_to(frame(Kind.ANSWER, 1, pack({})), use_write), DeviceLost)


@settings(max_examples=80, deadline=None)
@given(st.lists(frames | st.binary(max_size=30), max_size=8), st.sampled_from(USES))
async def test_the_host_raises_the_errors_of_the_interface_and_no_others(sent: list[bytes], use: Any) -> None:
    await lied_to(b"".join(sent), use)
