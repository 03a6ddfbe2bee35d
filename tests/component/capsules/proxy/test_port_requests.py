"""Requests to ports of capsules, with a web server in a namespace sandbox."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
import trio

from anvild.capsules.ids import to_wire
from anvild.core.ids import new_id
from tests.component.capsules.proxy.conftest import PORT, Site

LARGE = 8 * 2**20


def headers_of(told: dict[str, Any]) -> dict[str, str]:
    """The headers that the guest has seen, each at most once."""
    names = [name for name, _ in told["headers"]]
    assert len(names) == len(set(names)), names
    return dict(told["headers"])


async def test_a_request_goes_through_as_it_is(site: Site) -> None:
    asked = {
        "User-Agent": "mine",
        "Connection": "keep-alive, X-Hop",
        "X-Hop": "no",
        "TE": "trailers",
        "Cookie": "own=1; wrenn_sid=secret; wrenn_csrf=secret; other=2",
        "Authorization": "Bearer of-the-guest",
        "X-Forwarded-For": "203.0.113.7",
        "X-Forwarded-Host": "elsewhere",
        "X-Request-Id": "request-0001",
        "Origin": f"http://{site.host()}",
    }
    answer = await site.ask("POST", "/Echo//a%2Fb/?q=1&q=%20", content=b"data", headers=asked)
    assert (answer.status_code, answer.headers["x-own"]) == (200, "yes")
    told = answer.json()
    assert (told["method"], told["path"], told["size"]) == ("POST", "/Echo//a%2Fb/?q=1&q=%20", 4)
    headers = headers_of(told)
    for name in ("x-api-key", "x-hop", "te"):
        assert name not in headers
    assert headers["host"] == f"localhost:{PORT}"
    assert headers["connection"] == "close"
    assert headers["cookie"] == "own=1; other=2"
    assert headers["authorization"] == "Bearer of-the-guest"
    assert headers["x-forwarded-for"] == "203.0.113.7, 127.0.0.1"
    assert headers["x-forwarded-host"] == site.host()
    assert headers["x-forwarded-proto"] == "http"
    assert headers["x-request-id"] == answer.headers["x-request-id"] == "request-0001"
    assert headers["origin"] == f"http://localhost:{PORT}"
    assert headers["user-agent"] == "mine"
    for name in ("date", "x-request-id", "content-length"):
        assert len(answer.headers.get_list(name)) == 1


async def test_methods_and_their_answers(site: Site) -> None:
    for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"):
        answer = await site.ask(method, "/")
        assert answer.status_code == 200, (method, answer.text)
        if method == "HEAD":
            assert (answer.content, int(answer.headers["content-length"]) > 0) == (b"", True)
        else:
            assert (answer.json()["method"], answer.json()["size"]) == (method, 0)
    # what would be the daemon's own path elsewhere
    for path in ("/healthz", "/metrics", "/v1/capsules", "/api/v1/runs"):
        assert (await site.ask("GET", path)).json()["path"] == path


async def test_bodies_are_of_any_size(site: Site) -> None:
    data = os.urandom(LARGE)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, LARGE, 100_000):
            yield data[start : start + 100_000]

    for body in (data, pieces()):
        told = (await site.ask("POST", "/echo", content=body)).json()
        assert (told["size"], told["sha256"]) == (LARGE, hashlib.sha256(data).hexdigest())
    answer = await site.ask("GET", f"/large/{LARGE}")
    assert (len(answer.content), answer.headers["transfer-encoding"]) == (LARGE, "chunked")


async def test_what_is_said_is_passed_on_at_once(site: Site) -> None:
    with trio.fail_after(60):
        async with site.api.client.stream("GET", "/events", headers=site.headers()) as events:
            assert events.headers["content-type"] == "text/event-stream"
            lines = events.aiter_lines()
            for word in ("one", "two"):
                assert (await site.ask("POST", "/say", content=word.encode())).status_code == 204
                assert (await anext(lines), await anext(lines)) == (f"data: {word}", "")
            await site.ask("POST", "/say")
            assert [line async for line in lines] == []


async def test_both_directions_flow_at_the_same_time(site: Site) -> None:
    heard = trio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"first"
        await heard.wait()
        yield b"second"

    async with await trio.open_tcp_stream("127.0.0.1", int(site.lab.wing.url.rsplit(":", 1)[1])) as stream:
        head = "".join(f"{name}: {value}\r\n" for name, value in site.headers().items())
        await stream.send_all(f"POST /upper HTTP/1.1\r\n{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        shown = b""
        with trio.fail_after(60):
            for word in (b"first", b"second"):
                await stream.send_all(b"%x\r\n%s\r\n" % (len(word), word))
                while word.upper() not in shown:
                    shown += await stream.receive_some()
            await stream.send_all(b"0\r\n\r\n")
            while not shown.endswith(b"0\r\n\r\n"):
                shown += await stream.receive_some()
    assert shown.startswith(b"HTTP/1.1 200")


async def test_redirects_within_the_guest_lead_through_the_proxy(site: Site) -> None:
    rest = site.host().partition("-")[2]
    for location, becomes in (
        ("/elsewhere/", "/elsewhere/"),
        ("../up?x=1", "../up?x=1"),
        ("http://localhost:8000/a?b#c", f"http://8000-{rest}/a?b#c"),
        ("http://127.0.0.1:9000", f"http://9000-{rest}"),
        ("http://[::1]:8000/", f"http://8000-{rest}/"),
        ("//localhost:8000/a", f"//8000-{rest}/a"),
        ("http://0.0.0.0/", f"http://80-{rest}/"),
        ("https://example.org/a", "https://example.org/a"),
        ("http://[broken/", "http://[broken/"),
        ("http://localhost:port/", "http://localhost:port/"),
    ):
        answer = await site.ask("GET", "/redirect/" + base64.urlsafe_b64encode(location.encode()).decode())
        assert (answer.status_code, answer.headers["location"]) == (302, becomes)


async def test_cookies_are_for_one_place_alone(site: Site) -> None:
    answer = await site.ask("GET", "/cookies")
    assert answer.headers.get_list("set-cookie") == ["mine=1; Path=/; HttpOnly"]
    assert "x-hop" not in answer.headers


async def test_a_server_that_misbehaves(site: Site) -> None:
    answer = await site.ask("POST", "/refuse", content=bytes(LARGE))
    assert (answer.status_code, answer.text) == (413, "too much")
    for path, told in (("/nothing", "without an answer"), ("/garbage", "does not speak HTTP")):
        answer = await site.ask("GET", path)
        assert (answer.status_code, answer.headers["content-type"]) == (502, "text/plain; charset=utf-8")
        assert told in answer.text
    with pytest.raises(httpx2.RemoteProtocolError):
        await site.ask("GET", "/short")
    assert (await site.ask("GET", "/")).status_code == 200


async def test_what_cannot_be_reached(site: Site) -> None:
    own = site.capsule

    async def refused(status: int, told: str, host: str, **headers: str) -> None:
        given = {"Host": f"{host}.localhost", "X-API-Key": site.lab.wing.first.api_key, **headers}
        answer = await site.api.client.get("/", headers=given)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "text/plain; charset=utf-8")
        assert told in answer.text

    await refused(400, "no port", f"0-{own}")
    await refused(400, "no port", f"65536-{own}")
    await refused(400, "no id", "80-cl-nothing")
    await refused(404, "no such capsule", f"80-{to_wire('cl', new_id())}")
    await refused(502, "no answer", f"8001-{own}")
    await refused(401, "credential", f"{PORT}-{own}", **{"X-API-Key": "wrn_" + "0" * 32})
    # names of another form are the daemon's own
    for host in ("localhost", f"x-{own}.localhost", f"80-{own}", f"80-{own}.localhost.example.org", "evil-localhost"):
        answer = await site.api.client.get("/healthz", headers={"Host": host})
        assert answer.json() == {"status": "alive"}
    upper = {"Host": site.host().upper().replace("LOCALHOST", "LocalHost"), "X-API-Key": site.lab.wing.first.api_key}
    assert (await site.api.client.get("/", headers=upper)).status_code == 200
    await site.api("DELETE", "/v1/capsules/{id}", 202, values={"id": own})
    await refused(409, "needs one that is running", f"{PORT}-{own}")


async def test_only_the_team_is_let_in(site: Site) -> None:
    host = {"Host": site.host()}
    client = site.api.client
    for headers, status in (
        ({}, 401),
        ({"Authorization": f"Bearer {site.lab.wing.first.api_key}"}, 200),
        ({"Authorization": f"Bearer {site.lab.wing.first.live_key}"}, 200),
        ({"Authorization": "Bearer of-the-guest"}, 401),
    ):
        answer = await client.get("/", headers={**host, **headers})
        assert answer.status_code == status, answer.text
        if status == 200:
            assert "authorization" not in headers_of(answer.json())
    stranger = await site.lab.stranger()
    person = await site.lab.signed_in()
    cookies = person.cookie_headers("GET")
    assert (await client.get("/", headers={**host, **stranger.cookie_headers("GET")})).status_code == 404
    own, other = f"http://{site.host()}", f"http://{site.host(8001)}"
    for method, headers, status in (
        ("GET", {}, 200),
        ("POST", {}, 403),
        ("POST", person.cookie_headers("POST"), 200),
        ("POST", {"Origin": own}, 200),
        ("GET", {"Origin": other}, 403),
        ("GET", {"Origin": "null"}, 403),
        ("POST", {"Origin": other, **person.cookie_headers("POST")}, 403),
    ):
        answer = await client.request(method, "/", headers={**host, **cookies, **headers})
        assert answer.status_code == status, (method, headers, answer.text)
        if status == 200:
            assert "cookie" not in headers_of(answer.json())


async def test_a_request_counts_as_use(site: Site) -> None:
    async def last_use() -> str:
        shown = await site.api("GET", "/v1/capsules/{id}", 200, values={"id": site.capsule})
        return str(shown["last_active_at"])

    before = await last_use()
    await site.ask("GET", "/")
    assert await last_use() > before


async def test_a_client_that_goes_away_leaves_nothing(site: Site) -> None:
    connections = "awk '$2 ~ /:1F40$/ && $4 == \"01\"' /proc/net/tcp | wc -l"
    async with site.api.client.stream("GET", "/events", headers=site.headers()) as events:
        assert events.status_code == 200
        assert await site.shell(connections) == "1\n"
    await site.shell(f"until test $({connections}) = 0; do sleep 0.02; done")
