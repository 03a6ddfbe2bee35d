"""Which headers go on with a request, and which come back with its answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

__all__ = ["Headers", "Route", "text_of"]

Headers = list[tuple[bytes, bytes]]

HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Headers that are about one connection, and not about what is asked or answered."""

REPLACED = frozenset({b"expect", b"forwarded", b"host", b"x-forwarded-host", b"x-forwarded-proto", b"x-request-id"})
"""Headers of a request that the forwarding side answers or says by itself."""

OUR_OWN = frozenset({b"date", b"x-request-id"})
"""Headers that every answer of the daemon has anyway."""


def _unchanged(headers: Headers) -> Headers:
    return headers


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """How requests go on to a server, and its answers come back.

    ``host`` is what the server is told it is called, ``scheme`` how the client spoke to the daemon. ``onward`` and
    ``back`` change the headers of requests and answers, whose names are in lower case; ``used`` is called whenever
    something goes through.
    """

    host: str
    scheme: str
    onward: Callable[[Headers], Headers] = _unchanged
    back: Callable[[Headers], Headers] = _unchanged
    used: Callable[[], None] = lambda: None

    def request_headers(self, scope: Mapping[str, Any]) -> Headers:
        """Return the headers of a request as the server gets them, without those of its body's form."""
        given: Headers = list(scope["headers"])
        client = scope.get("client")
        before = text_of(given, b"x-forwarded-for")
        chain = [*([before] if before else []), *([client[0].encode("ascii")] if client else [])]
        more = {
            b"x-forwarded-for": b", ".join(chain),
            b"x-forwarded-host": text_of(given, b"host"),
            b"x-forwarded-proto": self.scheme.encode("ascii"),
            b"x-request-id": scope["state"].get("request_id", "").encode("ascii"),
        }
        kept = _without(given, HOP | REPLACED | {b"x-forwarded-for"})
        host = [(b"host", self.host.encode("ascii"))]
        return host + self.onward(kept) + [(name, value) for name, value in more.items() if value]

    def answer_headers(self, given: Iterable[tuple[bytes, bytes]]) -> Headers:
        """Return the headers of an answer as the client gets them."""
        return self.back(_without(list(given), HOP | OUR_OWN))


def text_of(headers: Headers, name: bytes) -> bytes:
    """Return the value of a header, of a repeated one all values; empty where it is missing."""
    return b", ".join(value for key, value in headers if key == name)


def _without(headers: Headers, names: frozenset[bytes]) -> Headers:
    """Leave headers out: these, and those that Connection names."""
    named = {token.strip().lower() for token in text_of(headers, b"connection").split(b",")}
    return [(name, value) for name, value in headers if name not in names and name not in named]
