"""A provider of logins on loopback that speaks as GitHub does: it knows people, and gives out codes and tokens."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlencode

import msgspec
import trio

from anvild.web.server import ConnectionLimits, bind, serve, url_of

APP = {"client_id": "an-app", "client_secret": "its secret"}


@dataclass
class Provider:
    """The provider. ``person`` is who is sitting at the browser: they allow each login. While ``broken`` is set, its
    API answers 500."""

    url: str = ""
    person: dict[str, Any] = field(default_factory=dict)
    broken: bool = False
    asked: list[dict[str, str]] = field(default_factory=list)
    _codes: dict[str, dict[str, Any]] = field(default_factory=dict)
    _tokens: dict[str, dict[str, Any]] = field(default_factory=dict)

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        query = {name: values[0] for name, values in parse_qs((scope["query_string"] or body).decode()).items()}
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        status, found = self._answer(scope["method"], scope["path"], query, headers)
        head = [(b"content-type", b"application/json")]
        if status == 302:
            head.append((b"location", found.encode()))
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": msgspec.json.encode(found)})

    def _answer(self, method: str, path: str, query: dict[str, str], headers: dict[str, str]) -> tuple[int, Any]:
        match method, path:
            case "GET", "/login/oauth/authorize":
                self.asked.append(query)
                code = secrets.token_hex(8)
                self._codes[code] = self.person | {"redirect_uri": query["redirect_uri"]}
                return 302, f"{query['redirect_uri']}?{urlencode({'code': code, 'state': query['state']})}"
            case "POST", "/login/oauth/access_token":
                person = self._codes.pop(query["code"], None)
                good = {name: query[name] for name in APP} == APP
                if person is None or not good or person["redirect_uri"] != query["redirect_uri"]:
                    return 200, {"error": "bad_verification_code"}
                token = secrets.token_hex(8)
                self._tokens[token] = person
                return 200, {"access_token": token, "token_type": "bearer", "scope": "user:email"}
        person = self._tokens.get(headers.get("authorization", "").removeprefix("Bearer "))
        if self.broken or person is None:
            return (500 if self.broken else 401), {"message": "no"}
        if path == "/user":
            return 200, {name: person[name] for name in ("id", "login", "name")}
        return 200, [{"email": "old@example.org", "primary": False, "verified": True}, person["address"]]


def person(number: int, email: str, *, name: str | None = "Ann", verified: bool = True) -> dict[str, Any]:
    """Somebody with an account at the provider."""
    address = {"email": email, "primary": True, "verified": verified}
    return {"id": number, "login": f"login{number}", "name": name, "address": address}


@asynccontextmanager
async def provider() -> AsyncIterator[Provider]:
    """Run a provider on a free port while the block runs."""
    found, listeners, stop = Provider(), bind("127.0.0.1:0"), trio.Event()
    found.url = url_of(listeners[0])
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve, found, listeners, ConnectionLimits(), shutdown=stop))
        try:
            yield found
        finally:
            stop.set()
