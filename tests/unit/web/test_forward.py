"""Forwarding over a stream in memory: what a real server and client do not do on demand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.utilities import generate_accept_token

from anvild.core.errors import InvalidRequest
from anvild.sdk import StaleLease
from anvild.web.body import ClientGone
from anvild.web.exchange import SlowBody
from anvild.web.forward import NoAnswer, Route, forward_request, forward_socket

ROUTE = Route(host="localhost:80", scheme="http")
FINE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def scope(**more: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "raw_path": b"/a",
        "query_string": b"",
        "headers": [(b"host", b"outside")],
        "client": ("192.0.2.1", 1),
        "state": {},
        **more,
    }


class Client:
    """The client's side: it says these messages, and then is silent; what it is sent is kept."""

    def __init__(self, *messages: dict[str, Any] | Exception) -> None:
        self._messages = list(messages)
        self.sent: list[dict[str, Any]] = []

    async def receive(self) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        if not self._messages:
            await trio.sleep_forever()
        message = self._messages.pop(0)
        if isinstance(message, Exception):
            raise message
        return message

    async def send(self, message: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        self.sent.append(message)

    @property
    def shown(self) -> tuple[int, bytes, bool]:
        """The status, the body so far, and whether it is whole."""
        start, *pieces = self.sent
        assert start["type"] == "http.response.start"
        return start["status"], b"".join(piece["body"] for piece in pieces), not pieces[-1]["more_body"]


def part(body: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


async def forwarded(client: Client, answer: bytes, *, after: bytes = b"", **more: Any) -> bytes:
    """Forward a request to a server that says this when it has heard ``after`` last. Returns what it has heard."""
    ours, theirs = trio.testing.memory_stream_pair()
    heard = b""

    async def serve() -> None:
        nonlocal heard
        said = False
        async for data in theirs:
            heard += data
            if heard.endswith(after) and not said:
                said = True
                await theirs.send_all(answer)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        async with ours:
            await forward_request(scope(**more), client.receive, client.send, ours, ROUTE)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    return heard


@pytest.mark.parametrize(
    ("headers", "version", "messages", "form"),
    [
        ([], "1.1", [], b""),
        ([(b"content-length", b"4")], "1.1", [part(b"da", True), part(b"ta")], b"content-length: 4\r\n"),
        ([(b"transfer-encoding", b"chunked")], "1.1", [part(b"data")], b"transfer-encoding: chunked\r\n"),
        ([], "2", [part(b"")], b""),
        ([], "2", [part(b"data", True), part(b"")], b"transfer-encoding: chunked\r\n"),
        ([(b"content-length", b"4")], "2", [part(b"data")], b"content-length: 4\r\n"),
    ],
)
async def test_the_form_of_a_body(
    headers: Sequence[tuple[bytes, bytes]], version: str, messages: Sequence[Any], form: bytes
) -> None:
    client = Client(*messages)
    given = [*scope()["headers"], *headers]
    body = b"data" if form.startswith(b"content") else b"4\r\ndata\r\n0\r\n\r\n" if form else b""
    heard = await forwarded(client, FINE, after=b"\r\n\r\n" + body, headers=given, http_version=version)
    head, _, rest = heard.partition(b"\r\n\r\n")
    lines = [line for line in head.lower().split(b"\r\n") if line.startswith((b"content-", b"transfer-"))]
    assert b"".join(line + b"\r\n" for line in lines) == form
    assert rest == body
    assert client.shown == (200, b"ok", True)


async def test_what_comes_before_the_answer_is_not_passed_on() -> None:
    client = Client()
    await forwarded(client, b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + FINE)
    assert client.shown == (200, b"ok", True)


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([part(b"too long")], InvalidRequest),
        ([part(b"da", True), SlowBody()], SlowBody),
        ([part(b"da", True), {"type": "http.disconnect"}], ClientGone),
    ],
)
async def test_a_body_that_does_not_come(messages: Sequence[Any], error: type[Exception]) -> None:
    client = Client(*messages)
    with pytest.RaisesGroup(error, flatten_subgroups=True):
        await forwarded(client, b"", headers=[*scope()["headers"], (b"content-length", b"4")])
    assert client.sent == []


async def test_silence_has_an_end(autojump_clock: trio.testing.MockClock) -> None:
    client = Client()
    with pytest.RaisesGroup(NoAnswer, flatten_subgroups=True):
        await forwarded(client, b"")
    assert client.sent == []
    assert trio.current_time() >= 900
    await forwarded(client, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
    assert client.shown == (200, b"half", False)


class Revoked(trio.abc.Stream):
    """A stream to a device whose lease ends after so many bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        data, self._data = self._data, b""
        if not data:
            raise StaleLease("the lease has ended")
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def test_a_right_that_ends() -> None:
    client = Client()
    with pytest.raises(NoAnswer, match="the lease has ended"):
        await forward_request(scope(), client.receive, client.send, Revoked(b""), ROUTE)
    assert client.sent == []
    await forward_request(scope(), client.receive, client.send, Revoked(FINE[:-1]), ROUTE)
    assert client.shown == (200, b"o", False)


def socket_scope(**more: Any) -> dict[str, Any]:
    return scope(type="websocket", subprotocols=[], **more)


async def test_a_handshake_without_an_answer(autojump_clock: trio.testing.MockClock) -> None:
    ours, _ = trio.testing.memory_stream_pair()
    client = Client({"type": "websocket.connect"})
    with pytest.raises(NoAnswer, match="within 60 s"):
        await forward_socket(socket_scope(), client.receive, client.send, ours, ROUTE)
    assert client.sent == []
    with pytest.raises(NoAnswer, match="the lease has ended"):
        await forward_socket(socket_scope(), client.receive, client.send, Revoked(b""), ROUTE)


class Said(trio.abc.Stream):
    """A server that says these pieces, whatever it is asked, and goes; a ``polite`` one takes a WebSocket first."""

    def __init__(self, pieces: Sequence[bytes], *, polite: bool = False) -> None:
        self._pieces = [piece for piece in pieces if piece]
        self._polite = polite

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        return self._pieces.pop(0) if self._pieces else b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        key = re.search(rb"sec-websocket-key: (\S+)", bytes(data), re.IGNORECASE)
        if self._polite and key is not None:
            token = generate_accept_token(key[1])
            upgrade = b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
            self._pieces.insert(0, upgrade + token + b"\r\n\r\n")

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


ANSWERS = st.lists(
    st.sampled_from(
        [
            b"HTTP/1.1 ",
            b"200 OK\r\n",
            b"101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
            b"100 Continue\r\n\r\n",
            b"999 x\r\n",
            b"Content-Length: 3\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Connection: close, x\r\n",
            b"Location: http://[\r\n",
            b"\r\n",
            b"3\r\nabc\r\n",
            b"0\r\n\r\n",
            b"\x81\x01a",
            b"\x88\x02\x03\xe8",
            b"\xc1\x7f\xff",
        ]
    )
    | st.binary(max_size=20),
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(ANSWERS, st.sampled_from([b"GET", b"HEAD", b"POST"]))
def test_a_server_may_say_what_it_likes(pieces: list[bytes], method: bytes) -> None:
    async def both() -> None:
        client = Client()
        try:
            await forward_request(scope(method=method), client.receive, client.send, Said(pieces), ROUTE)
        except NoAnswer:
            assert client.sent == []
        else:
            assert client.sent[0]["type"] == "http.response.start"
        key = (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ==")
        client = Client({"type": "websocket.connect"})
        asked = socket_scope(headers=[*scope()["headers"], key])
        try:
            await forward_socket(asked, client.receive, client.send, Said(pieces), ROUTE)
        except NoAnswer:
            assert client.sent == []
        else:
            assert client.sent[0]["type"] in ("websocket.accept", "websocket.http.response.start")

    trio.run(both)


FRAMES = st.lists(
    st.sampled_from(
        [
            b"\x81\x01a",
            b"\x01\x01a",
            b"\x80\x00",
            b"\x82\x02\xff\xff",
            b"\x81\x02\xff\xff",
            b"\x89\x01?",
            b"\x88\x00",
            b"\x88\x02\x03\xe8",
            b"\x88\x02\x03\xed",
            b"\x82\x7f" + bytes(4) + b"\xff" * 4,
        ]
    )
    | st.binary(max_size=20),
    max_size=8,
)


@settings(max_examples=300, deadline=None)
@given(FRAMES, st.sampled_from([1000, 1005, 1006, 4000, None]))
def test_a_socket_may_say_what_it_likes(pieces: list[bytes], code: int | None) -> None:
    async def carried() -> None:
        leaves = [{"type": "websocket.disconnect", "code": code}] if code else []
        client = Client({"type": "websocket.connect"}, {"type": "websocket.receive", "text": "?"}, *leaves)
        await forward_socket(socket_scope(), client.receive, client.send, Said(pieces, polite=True), ROUTE)
        first, *rest = client.sent
        assert first["type"] == "websocket.accept"
        assert all(message["type"] == "websocket.send" for message in rest[:-1])
        if rest and rest[-1]["type"] == "websocket.close":
            assert rest[-1]["code"] not in (1005, 1006, 1015)
        else:
            assert code is not None

    trio.run(carried)
