"""The way out: to public addresses and allowed ones, to the address that was judged, and nowhere by redirect."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Sequence
from ipaddress import ip_network

import pytest
import trio

from anvild.core.notify.outbound import BODY, GuardedOutbound, permitted
from anvild.sdk import AnvilError, InvalidArgument, PermissionDenied, Reply, Unavailable
from tests.support.receiver import Receiver, Said, receiver

LOOPBACK = [ip_network("127.0.0.0/8")]
PUBLIC = "93.184.215.14"


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.9.10",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "100.100.100.200",
        "169.254.169.254",
        "168.63.129.16",
        "192.0.0.192",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "fd00:ec2::254",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
        "2002:a00:1::1",
        "not an address",
    ],
)
def test_what_is_not_public_is_not_permitted(address: str) -> None:
    assert not permitted(address)


@pytest.mark.parametrize("address", [PUBLIC, "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_what_is_public_is(address: str) -> None:
    assert permitted(address)


def test_the_operator_allows_networks() -> None:
    allow = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "fd00::1"):
        assert permitted(address, allow)
    for address in ("127.0.0.1", "192.168.0.1", "fe80::1", "169.254.169.254", "fd00:ec2::254"):
        assert not permitted(address, allow)


@pytest.fixture
async def there() -> AsyncIterator[Receiver]:
    async with receiver() as found:
        yield found


def named(*addresses: str) -> tuple[GuardedOutbound, list[tuple[str, int]]]:
    """A way out on which every name has these addresses, and what was asked for."""
    asked: list[tuple[str, int]] = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        asked.append((host, port))
        return addresses

    return GuardedOutbound(LOOPBACK, resolve=resolve), asked


async def test_a_request_arrives_and_its_answer_comes_back(there: Receiver) -> None:
    there.answer = Said(201, b"made", {"x-kind": "thing"})
    reply = await GuardedOutbound(LOOPBACK).request(
        "PUT", f"{there.url}/a%20b?c=d", headers={"X-One": "1", "User-Agent": "mine"}, content=b"body"
    )
    assert (reply.status, reply.body, reply.headers["x-kind"]) == (201, b"made", "thing")
    (got,) = there.got
    assert (got.method, got.path, got.query, got.body) == ("PUT", "/a b", {"c": "d"}, b"body")
    assert (got.headers["x-one"], got.headers["user-agent"]) == ("1", "mine")
    assert got.headers["host"] == there.url.removeprefix("http://")


async def test_the_name_is_kept_and_the_judged_address_is_used(there: Receiver) -> None:
    """Were the name resolved a second time, it would have no address at all."""
    outbound, asked = named("10.9.8.7", "127.0.0.1")
    port = int(there.url.rpartition(":")[2])
    await outbound.request("GET", f"http://receiver.invalid:{port}/")
    assert asked == [("receiver.invalid", port)]
    assert there.got[0].headers["host"] == f"receiver.invalid:{port}"


async def test_nothing_is_sent_to_where_channels_may_not_go(there: Receiver) -> None:
    with pytest.raises(PermissionDenied, match=r"127\.0\.0\.1, which is no public address.*notify\.allow"):
        await GuardedOutbound().request("GET", there.url)
    with pytest.raises(PermissionDenied):
        await GuardedOutbound().request("GET", there.url.replace("127.0.0.1", "localhost"))
    for odd in ("2130706433", "0x7f000001", "017700000001", "127.1", "[::ffff:127.0.0.1]", "[::1]"):
        with pytest.raises((PermissionDenied, Unavailable, InvalidArgument)):
            await GuardedOutbound().request("GET", there.url.replace("127.0.0.1", odd))
    assert there.got == []


async def test_a_redirect_is_an_answer(there: Receiver) -> None:
    there.answer = Said(307, b"", {"location": f"{there.url}/elsewhere"})
    reply = await GuardedOutbound(LOOPBACK).request("POST", f"{there.url}/here")
    assert reply.status == 307
    assert [got.path for got in there.got] == ["/here"]


async def test_a_long_answer_is_cut(there: Receiver) -> None:
    there.answer = Said(200, b"x" * (4 * BODY))
    reply = await GuardedOutbound(LOOPBACK).request("GET", there.url)
    assert len(reply.body) == BODY


async def test_the_next_address_is_tried(there: Receiver) -> None:
    port = int(there.url.rpartition(":")[2])
    outbound, _ = named("127.0.0.2", "127.0.0.1")  # nobody listens at the first
    assert (await outbound.request("GET", f"http://receiver.invalid:{port}/")).status == 200


async def test_what_cannot_be_reached_is_told_without_the_url(there: Receiver) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but not listening: refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/token-in-path"
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1 cannot be reached") as caught:
            await GuardedOutbound(LOOPBACK).request("GET", url)
    assert "token-in-path" not in str(caught.value)

    async def nowhere(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(-2, "Name or service not known")

    with pytest.raises(Unavailable, match="has no address"):
        await GuardedOutbound(resolve=nowhere).request("GET", "https://receiver.invalid/token-in-path")


async def test_an_answer_that_is_no_http_is_told() -> None:
    async def speak(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"220 mail.example.org\r\n")

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(_serve, speak)
        port = listener.socket.getsockname()[1]
        with pytest.raises(Unavailable, match="cannot be spoken to"):
            await GuardedOutbound(LOOPBACK).request("GET", f"http://127.0.0.1:{port}/")
        with pytest.raises(Unavailable):
            await GuardedOutbound(LOOPBACK).request("GET", f"https://127.0.0.1:{port}/")
        nursery.cancel_scope.cancel()


async def _serve(handler: object, task_status: trio.TaskStatus[list[trio.SocketListener]]) -> None:
    await trio.serve_tcp(handler, 0, host="127.0.0.1", task_status=task_status)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/path",
        "example.org",
        "ftp://example.org",
        "file:///etc/passwd",
        "http://",
        "http:///x",
        "http://user@example.org/",
        "http://example.org:0/",
        "http://example.org:99999/",
        "http://example.org/\r\nX-Other: 1",
        "http://exämple.org/",
        "http://[::1/",
    ],
)
async def test_what_is_no_http_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgument):
        await GuardedOutbound(LOOPBACK).request("GET", url)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, None) for status in (200, 204, 299)),
        *((status, Unavailable) for status in (301, 401, 404, 429, 500)),
        *((status, InvalidArgument) for status in (400, 410, 413, 422)),
    ],
)
def test_what_an_answer_means(status: int, kind: type[AnvilError] | None) -> None:
    reply = Reply(status=status, body=b"so it is")
    if kind is None:
        assert reply.check().startswith(str(status))
    else:
        with pytest.raises(kind, match=f"answered {status} .*so it is"):
            reply.check()


def test_an_answer_is_told_in_one_short_line() -> None:
    assert Reply(status=404, body=b" no\n\tsuch\x00\x1b[31m thing ").line == "404 Not Found: no such[31m thing"
    assert Reply(status=299).line == "299"
    assert len(Reply(status=500, body=b"x" * 5000).line) < 250
    assert Reply(status=500, body=b"\xff\xfe").line.startswith("500 Internal Server Error")


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("17", 17.0, 17.0),
        ("1.5", 1.5, 1.5),
        ("0", 0.0, 0.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0, 0.0),
        ("Wed, 21 Oct 2235 07:28:00 GMT", 1e9, 1e12),
    ],
)
def test_when_to_come_back(text: str, least: float, most: float) -> None:
    found = Reply(status=429, headers={"retry-after": text}).retry_after
    assert found is not None
    assert least <= found <= most


@pytest.mark.parametrize("text", ["", "soon", "-5", "1.2.3", "²", "Wed, 99 Oct 2015 07:28:00 GMT"])
def test_what_is_no_time_to_come_back_is_none(text: str) -> None:
    assert Reply(status=429, headers={"retry-after": text}).retry_after is None
