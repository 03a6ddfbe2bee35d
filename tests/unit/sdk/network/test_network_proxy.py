"""The proxy: what programs say to it, however wrong, and what it answers."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import cast

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from anvild.sdk import AnvilError, DeadlineExceeded, PermissionDenied, Unavailable
from anvild.sdk.network import socks, splice
from anvild.sdk.network.http import HEAD_LIMIT, HEAD_SECONDS
from anvild.sdk.network.proxy import FIRST_SECONDS, serve_program

Stream = trio.abc.HalfCloseableStream
Serve = Callable[[Stream], Awaitable[None]]


class World:
    """What lies behind the proxy: a server, as a function of its end of a connection, or an error."""

    def __init__(self, serve: Serve | AnvilError) -> None:
        self.asked: list[tuple[str, int]] = []
        self._serve = serve
        self._nursery: trio.Nursery

    async def __call__(self, host: str, port: int) -> trio.SocketStream:
        self.asked.append((host, port))
        await trio.lowlevel.checkpoint()
        if isinstance(self._serve, AnvilError):
            raise self._serve
        ours, theirs = trio.testing.memory_stream_pair()
        self._nursery.start_soon(self._run, self._serve, theirs)
        return cast(trio.SocketStream, ours)

    async def _run(self, serve: Serve, stream: Stream) -> None:
        try:
            async with stream:
                await serve(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Stream]:
        """A program's end of a connection to the proxy."""
        program, served = trio.testing.memory_stream_pair()

        async def serve() -> None:
            async with served:
                await serve_program(served, self)

        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(serve)
            async with program:
                yield program

    async def tell(self, *said: bytes) -> bytes:
        """Say something, and return all that is answered."""
        async with self.client() as program:
            for part in said:
                await program.send_all(part)
            await program.send_eof()
            return b"".join([chunk async for chunk in program])


def answering(answer: bytes, seen: list[bytes] | None = None, ends: bytes = b"\r\n\r\n") -> Serve:
    """A server that reads until it has seen ``ends``, answers and closes."""

    async def serve(stream: Stream) -> None:
        said = b""
        while ends not in said:
            more = await stream.receive_some()
            if not more:
                break
            said += more
        if seen is not None:
            seen.append(said)
        await stream.send_all(answer)

    return serve


async def echo(stream: Stream) -> None:
    async for chunk in stream:
        await stream.send_all(chunk)
    await stream.send_eof()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET http://a.example/x?y=%20#part HTTP/1.1\r\nHost: other.example\r\n"


async def test_a_request_for_a_whole_url() -> None:
    seen: list[bytes] = []
    world = World(answering(OK, seen))
    headers = (
        b"X-Mixed-Case: Kept\r\nProxy-Connection: keep-alive\r\nConnection: x-own\r\nX-Own: 1\r\nCookie: a=b\r\n\r\n"
    )
    answer = await world.tell(GET + headers)
    assert answer == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    assert world.asked == [("a.example", 80)]
    (request,) = seen
    assert request.startswith(b"GET /x?y=%20 HTTP/1.1\r\nHost: a.example\r\n")
    assert b"X-Mixed-Case: Kept\r\n" in request
    assert b"Cookie: a=b\r\n" in request
    assert b"Connection: close\r\n" in request
    for left_out in (b"other.example", b"Proxy", b"X-Own"):
        assert left_out not in request


@pytest.mark.parametrize(
    ("url", "asked", "line"),
    [
        ("http://a.example", ("a.example", 80), "GET / HTTP/1.1\r\nHost: a.example\r\n"),
        ("HTTP://A.example?q", ("a.example", 80), "GET /?q HTTP/1.1\r\nHost: A.example\r\n"),
        ("http://u:p@a.example:8080/", ("a.example", 8080), "GET / HTTP/1.1\r\nHost: a.example:8080\r\n"),
        ("http://[::1]:81/x", ("::1", 81), "GET /x HTTP/1.1\r\nHost: [::1]:81\r\n"),
        ("http://2130706433/", ("2130706433", 80), "GET / HTTP/1.1\r\nHost: 2130706433\r\n"),
    ],
)
async def test_urls(url: str, asked: tuple[str, int], line: str) -> None:
    seen: list[bytes] = []
    world = World(answering(OK, seen))
    assert await world.tell(f"GET {url} HTTP/1.1\r\nHost: x\r\n\r\n".encode()) == OK
    assert world.asked == [asked]
    assert seen[0].startswith(line.encode())


async def test_requests_one_after_the_other_each_to_a_server_of_its_own() -> None:
    world = World(answering(OK))
    again = b"GET http://b.example/ HTTP/1.1\r\nHost: b\r\n\r\n"
    assert await world.tell(GET + b"\r\n" + again + again) == OK * 3
    assert world.asked == [("a.example", 80), ("b.example", 80), ("b.example", 80)]


async def test_bodies_go_through_in_both_forms() -> None:
    seen: list[bytes] = []
    head = b"POST http://a.example/ HTTP/1.1\r\nHost: a\r\n"
    world = World(answering(OK, seen, ends=b"the end"))
    await world.tell(head + b"Content-Length: 12\r\n\r\nhere ", b"the end")
    assert seen.pop().endswith(b"\r\n\r\nhere the end")
    world = World(answering(OK, seen, ends=b"0\r\n\r\n"))
    await world.tell(head + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhere ", b"\r\n7\r\nthe end\r\n0\r\n\r\n")
    assert seen.pop().endswith(b"5\r\nhere \r\n7\r\nthe end\r\n0\r\n\r\n")


async def test_a_server_may_answer_before_it_has_the_body() -> None:
    world = World(answering(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n"))
    async with world.client() as program:
        await program.send_all(b"POST http://a.example/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nbegins")
        said = b"".join([chunk async for chunk in program])
    assert said.startswith(b"HTTP/1.1 413 Too Large")


async def test_answers_without_a_length_and_to_old_programs() -> None:
    world = World(answering(b"HTTP/1.1 200 OK\r\n\r\nuntil the end"))
    assert (await world.tell(GET + b"\r\n")).endswith(b"d\r\nuntil the end\r\n0\r\n\r\n")
    chunked = World(answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"))
    old = await chunked.tell(b"GET http://a.example/ HTTP/1.0\r\n\r\n")
    assert old.endswith(b"\r\n\r\nabc"), "HTTP/1.0 knows no chunks"


async def test_a_continue_reaches_the_program() -> None:
    continued = b"HTTP/1.1 100 Continue\r\n\r\n"
    world = World(answering(continued + OK))
    head = b"PUT http://a.example/ HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    async with world.client() as program:
        await program.send_all(head)
        answer = b""
        while not answer.endswith(b"ok"):
            answer += await program.receive_some()
    assert answer.startswith(b"HTTP/1.1 100 ")


CONNECT = b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n"
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


async def test_a_tunnel() -> None:
    world = World(echo)
    data = os.urandom(300_000)
    assert await world.tell(CONNECT + data[:100], data[100:]) == ESTABLISHED + data
    assert world.asked == [("a.example", 443)]
    assert await World(echo).tell(b"CONNECT [::1]:443 HTTP/1.1\r\nHost: x\r\n\r\nx") == ESTABLISHED + b"x"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (PermissionDenied("a.example:443 is not on the allow-list"), b"403 Forbidden"),
        (Unavailable("a.example:443: nothing listens there"), b"502 Bad Gateway"),
        (DeadlineExceeded("a.example:443 did not answer"), b"504 Gateway Timeout"),
    ],
)
@pytest.mark.parametrize("said", [CONNECT, GET + b"\r\n", GET + b"Content-Length: 5\r\n\r\nhello"])
async def test_refusals_say_why(error: AnvilError, status: bytes, said: bytes) -> None:
    answer = await World(error).tell(said)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + status)
    assert body.decode() == f"{error.message}\n"


@pytest.mark.parametrize(
    "said",
    [
        b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET https://a.example/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET ftp://a.example/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://a:x/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://a:99999/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://[::1/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT a.example HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT :443 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT a:1234567 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        b"GET http://a.example/ HTTP/1.1\r\n\r\n",
        b"GET http://a.example/ HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\r\n",
        b"GET http://a.example/" + b"x" * HEAD_LIMIT,
        b"GET http://a.example/ HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * HEAD_LIMIT,
    ],
)
async def test_what_is_no_request(said: bytes) -> None:
    world = World(answering(OK))
    answer = await world.tell(said)
    assert world.asked == []
    assert answer.startswith(b"HTTP/1.1 400 Bad Request") or answer == b""


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"])
async def test_servers_that_do_not_answer_in_http(answer: bytes) -> None:
    assert (await World(answering(answer)).tell(GET + b"\r\n")).startswith(b"HTTP/1.1 502 Bad Gateway")


async def test_an_answer_that_is_broken_off_is_broken_off_here() -> None:
    answer = await World(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")).tell(GET + b"\r\n")
    assert answer.endswith(b"\r\n\r\nhalf")


# ----- SOCKS

HELLO = b"\5\1\0"
BY_NAME = b"\5\1\0\3\x09a.example\x01\xbb"


async def test_socks_by_name_and_address() -> None:
    world = World(echo)
    granted = b"\5\0" + b"\5\0\0\1" + bytes(6)
    assert await world.tell(HELLO + BY_NAME + b"early", b"late") == granted + b"earlylate"
    assert await world.tell(HELLO, b"\5\1\0\1\x7f\0\0\1\0\x50") == granted
    assert await world.tell(b"\5\2\2\0", b"\5\1\0\4" + bytes(15) + b"\1\0\x50", b"x") == granted + b"x"
    assert world.asked == [("a.example", 443), ("127.0.0.1", 80), ("::1", 80)]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PermissionDenied("no"), socks.NOT_ALLOWED),
        (Unavailable("no", reason=errno.ECONNREFUSED), socks.REFUSED),
        (Unavailable("no", reason=errno.ENETUNREACH), socks.NO_NETWORK),
        (Unavailable("no", reason="other"), socks.NO_HOST),
        (DeadlineExceeded("no"), socks.NO_HOST),
    ],
)
async def test_socks_refusals(error: AnvilError, code: int) -> None:
    assert await World(error).tell(HELLO + BY_NAME) == b"\5\0\5" + bytes([code]) + b"\0\1" + bytes(6)


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (b"\5\1\2", b"\5\xff"),
        (b"\5\0", b"\5\xff"),
        (HELLO + b"\5\2\0\1\1\2\3\4\0\x50", b"\5\0\5\7\0\1" + bytes(6)),
        (HELLO + b"\5\3\0\1\1\2\3\4\0\x50", b"\5\0\5\7\0\1" + bytes(6)),
        (HELLO + b"\5\1\0\2", b"\5\0\5\x08\0\1" + bytes(6)),
        (HELLO + b"\4\1\0\1", b"\5\0\5\1\0\1" + bytes(6)),
        (HELLO + b"\5\1\0\3\xff", b"\5\0"),
        (b"\5", b""),
    ],
)
async def test_what_is_no_socks(said: bytes, answer: bytes) -> None:
    world = World(echo)
    assert await world.tell(said) == answer
    assert world.asked == []


# ----- limits

SLOW = [b"", b"\5", b"\5\1", HELLO + b"\5\1", b"G", b"GET http://a.example/ HTTP/1.1\r\n", CONNECT[:-2]]


@pytest.mark.parametrize("said", SLOW)
async def test_a_program_that_does_not_go_on_is_left(said: bytes, autojump_clock: trio.testing.MockClock) -> None:
    async with World(echo).client() as program:
        if said:
            await program.send_all(said)
        async for _ in program:
            pass
    assert trio.current_time() <= FIRST_SECONDS + HEAD_SECONDS + splice.PART_SECONDS


async def test_a_tunnel_on_which_nothing_moves_is_closed(autojump_clock: trio.testing.MockClock) -> None:
    async def silent(stream: Stream) -> None:
        await stream.send_all(b"hello")
        await stream.receive_some()

    async with World(silent).client() as program:
        await program.send_all(CONNECT)
        begun = trio.current_time()
        assert b"".join([chunk async for chunk in program]) == ESTABLISHED + b"hello"
    assert splice.IDLE_SECONDS <= trio.current_time() - begun <= splice.IDLE_SECONDS + 1


async def test_a_tunnel_on_which_something_moves_now_and_then_stays(autojump_clock: trio.testing.MockClock) -> None:
    async with World(echo).client() as program:
        await program.send_all(CONNECT)
        assert await program.receive_some() == ESTABLISHED
        for _ in range(10):
            await trio.sleep(splice.IDLE_SECONDS * 0.9)
            await program.send_all(b"x")
            assert await program.receive_some() == b"x"


async def test_an_answer_that_does_not_come_is_waited_for_only_so_long(autojump_clock: trio.testing.MockClock) -> None:
    async def silent(stream: Stream) -> None:
        await trio.sleep(10 * splice.IDLE_SECONDS)

    world = World(silent)
    async with world.client() as program:
        await program.send_all(GET + b"\r\n")
        answer = b"".join([chunk async for chunk in program])
        assert answer.startswith(b"HTTP/1.1 502 Bad Gateway")
        assert trio.current_time() <= splice.IDLE_SECONDS + 2 * splice.PART_SECONDS
        world._nursery.cancel_scope.cancel()


@pytest.mark.parametrize("ends", [True, False], ids=["the program", "the server"])
async def test_each_way_of_a_tunnel_ends_by_itself(ends: bool) -> None:
    async def server(stream: Stream) -> None:
        if ends:
            said = b"".join([chunk async for chunk in stream])
            await stream.send_all(b"heard " + said)
        else:
            await stream.send_eof()
            said = b"".join([chunk async for chunk in stream])
            assert said == b"late"

    async with World(server).client() as program:
        await program.send_all(CONNECT)
        assert await program.receive_some() == ESTABLISHED
        if not ends:
            assert await program.receive_some() == b""
        await program.send_all(b"late")
        await program.send_eof()
        if ends:
            assert b"".join([chunk async for chunk in program]) == b"heard late"


async def test_what_a_reader_does_not_take_stops_the_writer_behind_the_proxy() -> None:
    """Over real sockets, whose buffers are bounded: the proxy itself holds one chunk."""
    sent = 0

    async def pour(stream: Stream) -> None:
        nonlocal sent
        while True:
            await stream.send_all(bytes(65536))
            sent += 65536

    world = World(pour)
    ours, theirs = socket.socketpair()
    program, served = (trio.SocketStream(trio.socket.from_stdlib_socket(each)) for each in (ours, theirs))

    async def way(host: str, port: int) -> trio.SocketStream:
        here, there = socket.socketpair()
        nursery.start_soon(world._run, pour, trio.SocketStream(trio.socket.from_stdlib_socket(there)))
        return trio.SocketStream(trio.socket.from_stdlib_socket(here))

    async with trio.open_nursery() as nursery, program, served:
        nursery.start_soon(serve_program, served, way)
        await program.send_all(CONNECT)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert 0 < sent < 16 * 2**20
        nursery.cancel_scope.cancel()


# ----- programs that lie

PIECES = st.sampled_from(
    [
        *(HELLO, BY_NAME, b"\5\1\0\1", b"\5\xff", bytes(7), b"\r\n", b"\r\n\r\n", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n"),
        *(b"GET ", b"POST ", b"CONNECT ", b"http://", b"a.example", b"[::1]", b":80", b":", b"@", b"/", b"?", b"#"),
        *(b"Host: a\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n"),
        *(b"Connection: upgrade, x\r\n", b"Upgrade: websocket\r\n", b"5\r\nhello\r\n", b"0\r\n\r\n", b"hello"),
        *(GET, CONNECT, b"\0", b"\xff" * 30, b"x" * 5000, OK, b"HTTP/1.1 101 Switching\r\n\r\n"),
    ]
)
SAID = st.lists(st.one_of(PIECES, st.binary(max_size=40)), max_size=12)


def check_lies(serve: Serve | AnvilError, said: Sequence[bytes]) -> None:
    async def tell() -> tuple[bytes, World]:
        world = World(serve)
        return await world.tell(*(part for part in said if part)), world

    answer, world = trio.run(tell, clock=trio.testing.MockClock(autojump_threshold=0))
    assert answer == b"" or answer.startswith((b"\5", b"HTTP/1.1 "))
    assert all(0 <= port <= 99999 and isinstance(host, str) for host, port in world.asked)


@given(SAID)
@settings(max_examples=150, deadline=None)
def test_whatever_a_program_says_ends_in_order(said: list[bytes]) -> None:
    check_lies(PermissionDenied("no"), said)


@given(SAID, SAID)
@settings(max_examples=150, deadline=None)
def test_whatever_a_program_and_a_server_say_ends_in_order(said: list[bytes], answered: list[bytes]) -> None:
    check_lies(answering(b"".join(answered)), said)


@given(SAID)
@settings(max_examples=75, deadline=None)
def test_whatever_goes_through_a_tunnel_comes_out(said: list[bytes]) -> None:
    data = b"".join(said)
    assert trio.run(World(echo).tell, CONNECT + data) == ESTABLISHED + data
    assert trio.run(World(echo).tell, HELLO + BY_NAME + data)[12:] == data
