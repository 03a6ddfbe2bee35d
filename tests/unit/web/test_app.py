"""The root of the port."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from anvild.sdk import Mount, Services
from anvild.web.app import Dispatcher, root_app
from anvild.web.metrics import Metrics, Readiness


def mount(prefix: str) -> Mount:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"].endswith("/bug"):
            raise ZeroDivisionError("secret text")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"].endswith("/late-bug"):
            raise ZeroDivisionError
        await send({"type": "http.response.body", "body": prefix.encode()})

    return Mount(name=f"wing at {prefix}", prefix=prefix, app=app)


@pytest.mark.parametrize(
    ("path", "prefix"),
    [
        ("/api/v1/runs", "/api/v1"),
        ("/api/v1", "/api/v1"),
        ("/api/v1/", "/api/v1"),
        ("/api/v10/runs", "/api"),
        ("/api", "/api"),
        ("/apis", None),
        ("/", None),
        ("*", None),
    ],
)
def test_the_longest_prefix_of_whole_segments_wins(path: str, prefix: str | None) -> None:
    found = Dispatcher([mount("/api"), mount("/api/v1")]).find(path)
    assert (found.prefix if found else None) == prefix


def test_a_mount_at_the_root_takes_the_rest_and_two_at_one_place_are_refused() -> None:
    dispatcher = Dispatcher([mount("/"), mount("/v1")])
    assert [dispatcher.find(path).prefix for path in ("/v1/x", "/x", "/")] == ["/v1", "/", "/"]  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="both mounted at"):
        Dispatcher([mount("/a"), mount("/a/")])


def test_a_mount_at_hosts_of_its_own_is_asked_first() -> None:
    own = Mount(name="own", prefix="/", app=mount("/").app, host=lambda name: name.endswith(".example.org"))
    dispatcher = Dispatcher([mount("/"), own])
    for host, found in (
        (b"a.Example.ORG", own),
        (b"a.example.org:8470", own),
        (b"example.org", None),
        (b"[::1]:80", None),
        (b"\xff", None),
    ):
        assert dispatcher.at_host([(b"accept", b"*/*"), (b"host", host)]) is found
    assert dispatcher.at_host([]) is None
    assert dispatcher.find("/").name == "wing at /"  # type: ignore[union-attr]


class Numbers(msgspec.Struct):
    queued: int = 3
    url: str = "no number"


@pytest.fixture
def rooms() -> Services:
    services = Services()
    services.add(Metrics, Metrics())
    services.add(Readiness, Readiness())
    return services


@pytest.fixture
def call(rooms: Services, client: type) -> Any:
    return client(root_app([mount("/api")], rooms))


async def test_health_and_readiness(call: Any, rooms: Services) -> None:
    assert (await call("GET", "/healthz")).json() == {"status": "alive"}
    ready = await call("GET", "/readyz")
    assert (ready.status, ready.json()) == (200, {"ready": True, "reasons": {}})
    rooms.get(Readiness).add("store", lambda: "the disk is full")
    rooms.get(Readiness).add("engine", lambda: None)
    reply = await call("GET", "/readyz")
    assert (reply.status, reply.json()["reasons"]) == (503, {"store": "the disk is full"})
    assert (await call("POST", "/healthz")).status == 405


async def test_metrics(call: Any, rooms: Services) -> None:
    rooms.get(Metrics).watch("engine", Numbers)
    await call("GET", "/api/x")
    text = (await call("GET", "/metrics")).body.decode()
    assert 'anvild_http_requests_total{operation="none",status="200"} 1.0' in text
    assert "anvild_http_request_seconds_bucket" in text
    assert "anvild_engine_queued 3.0" in text
    assert "anvild_loop_lag_seconds" in text


async def test_requests_have_an_id(call: Any) -> None:
    first = (await call("GET", "/api/x")).header("x-request-id")
    assert first
    assert len(first) == 36
    assert (await call("GET", "/x", headers={"x-request-id": "from-a-proxy"})).header("x-request-id") == "from-a-proxy"
    assert (await call("GET", "/x", headers={"x-request-id": "<script>"})).header("x-request-id") != "<script>"


async def test_what_is_nowhere_and_what_fails(call: Any) -> None:
    reply = await call("GET", "/nowhere")
    assert (reply.status, reply.json()["error"]["code"]) == (404, "not_found")
    bug = await call("GET", "/api/bug")
    assert bug.status == 500
    assert bug.header("x-request-id") in bug.json()["error"]["message"]
    assert b"secret" not in bug.body
    with pytest.raises(ZeroDivisionError):
        await call("GET", "/api/late-bug")
