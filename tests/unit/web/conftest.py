"""A client that calls an ASGI application in place, and stand-ins for the rooms below the web."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

import msgspec
import pytest
import trio

from anvild.core.errors import Unauthenticated
from anvild.core.identity import Credentials, Identity, Limits, Principal
from anvild.sdk import Services
from anvild.web.stopping import Stopping

MEMBER = Principal(kind="api_key", id="k1", team_id="t1", role="member", name="ci")
OWNER = Principal(kind="user", id="u1", team_id="t1", role="owner", name="ann")


class Known(Identity):
    """Knows credentials by their text."""

    def __init__(self) -> None:
        self.principals = {"member": MEMBER, "owner": OWNER}
        self.asked: list[Credentials] = []

    async def authenticate(self, credentials: Credentials) -> Principal | None:
        self.asked.append(credentials)
        text = credentials.api_key or credentials.session or (credentials.authorization or "").removeprefix("Bearer ")
        if not text:
            return None
        try:
            return self.principals[text]
        except KeyError:
            raise Unauthenticated("the credential is not good") from None


class Reply(msgspec.Struct):
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    pieces: list[bytes]

    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        return next((value.decode() for key, value in self.headers if key == name.encode()), None)


class Client:
    """Calls an ASGI application."""

    def __init__(self, app: Callable[..., Any]) -> None:
        self.app = app
        self.stopping = Stopping()

    def scope(self, method: str, target: str, headers: Mapping[str, str]) -> dict[str, Any]:
        path, _, query = target.partition("?")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.1"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 4000),
            "server": ("127.0.0.1", 80),
            "state": {"stopping": self.stopping, "request_id": "request-1"},
            "extensions": {},
        }

    async def __call__(
        self,
        method: str,
        target: str,
        *,
        body: bytes | object = b"",
        headers: Mapping[str, str] | None = None,
        key: str | None = "owner",
    ) -> Reply:
        sent = dict(headers or {})
        if key is not None:
            sent.setdefault("x-api-key", key)
        if not isinstance(body, bytes):
            body = msgspec.json.encode(body)
            sent.setdefault("content-type", "application/json")
        incoming = [{"type": "http.request", "body": body, "more_body": False}]
        reply = Reply(0, [], b"", [])

        async def receive() -> Any:
            if not incoming:
                await trio.sleep_forever()
            return incoming.pop()

        async def send(message: Any) -> None:
            await trio.lowlevel.checkpoint()
            if message["type"] == "http.response.start":
                reply.status, reply.headers = message["status"], list(message["headers"])
            else:
                reply.body += message.get("body", b"")
                reply.pieces.append(message.get("body", b""))

        await self.app(self.scope(method, target, sent), receive, send)
        return reply


@pytest.fixture
def identity() -> Known:
    return Known()


@pytest.fixture
async def services(identity: Known) -> Services:
    services = Services()
    services.add(Identity, identity)
    services.add(Limits, Limits({"default": "1000/minute", "tight": "2/minute"}))
    return services


@pytest.fixture
def client() -> type[Client]:
    return Client
