"""The names that lead to ports of capsules, ``{port}-{capsule}.{domain}``, and what must not pass through them.

A guest is told that it is called ``localhost:PORT``, as programs that listen on a port of their own expect. It never
sees a credential of the daemon, and can set no cookie for anybody else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec

from anvild.core.errors import InvalidRequest
from anvild.core.identity.secret_texts import is_api_key
from anvild.sdk import NotFound

from .ids import from_wire

__all__ = ["Names", "Place", "is_secret"]

Headers = list[tuple[bytes, bytes]]

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1", "0.0.0.0"})  # noqa: S104  # as a guest names itself
COOKIE_PREFIXES = ("wrenn_", "anvil_", "sb-access-token")
"""How the cookies of all interfaces of the daemon begin."""


class Place(msgspec.Struct, frozen=True):
    """A port of a capsule: ``shown`` is how the interface shows the capsule, ``capsule_id`` the daemon's id of it."""

    port: int
    capsule_id: str
    shown: str

    @property
    def inner(self) -> str:
        """The Host that the guest is asked for."""
        return f"localhost:{self.port}"


class Names:
    """The names below one domain."""

    def __init__(self, domain: str) -> None:
        self._form = re.compile(rf"([0-9]+)-(cl-[^.]*)\.{re.escape(domain)}")

    def __contains__(self, host: str) -> bool:
        return self._form.fullmatch(host) is not None

    def place(self, host: str) -> Place:
        """Return what a name leads to. Raises InvalidRequest for a port or an id that there cannot be."""
        found = self._form.fullmatch(host)
        assert found is not None
        digits, shown = found.groups()
        if len(digits) > 5 or not 0 < int(digits) < 65536:
            raise InvalidRequest(f"{digits} is no port")
        try:
            return Place(int(digits), from_wire("cl", shown), shown)
        except NotFound:
            raise InvalidRequest(f"{shown} is no id of a capsule") from None


class Passage(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of headers on their way to a place and back. ``host`` is the Host that the client asked for, with
    its port, and ``scheme`` how it spoke."""

    place: Place
    host: str
    scheme: str

    def onward(self, headers: Headers) -> Headers:
        """Return the headers of a request without the daemon's credentials, and with the guest's own origin for
        its own pages."""
        kept = [(name, value) for name, value in headers if not is_secret(name, value)]
        return [pair for name, value in kept for pair in self._onward(name, value)]

    def _onward(self, name: bytes, value: bytes) -> Headers:
        if name == b"cookie":
            value = b"; ".join(_foreign_cookies(value))
            return [(name, value)] if value else []
        if name == b"origin" and self.is_own(value.decode("latin-1")):
            return [(name, f"http://{self.place.inner}".encode())]
        return [(name, value)]

    def is_own(self, origin: str) -> bool:
        """Say whether an origin is that of the pages of this place."""
        try:
            return urlsplit(origin).netloc.lower() == self.host.lower()
        except ValueError:
            return False

    def back(self, headers: Headers) -> Headers:
        """Return the headers of an answer: redirects within the guest lead through the proxy, and cookies are for this
        place alone."""
        found: Headers = []
        for name, value in headers:
            if name == b"location":
                found.append((name, self._outside(value.decode("latin-1")).encode("latin-1")))
            elif name != b"set-cookie":
                found.append((name, value))
            elif not value.strip().startswith(_OURS):
                found.append((name, _for_one_host(value)))
        return found

    def _outside(self, location: str) -> str:
        """Return where a client must go for what the guest calls this."""
        try:
            parts = urlsplit(location)
            port = parts.port or {"http": 80, "ws": 80, "https": 443, "wss": 443}.get(parts.scheme, self.place.port)
        except ValueError:
            return location
        if not parts.netloc or parts.hostname not in LOCAL_NAMES:
            return location
        _, _, rest = self.host.partition("-")
        return parts._replace(scheme=parts.scheme and self.scheme, netloc=f"{port}-{rest}").geturl()


_OURS = tuple(prefix.encode() for prefix in COOKIE_PREFIXES)


def is_secret(name: bytes, value: bytes) -> bool:
    """Say whether a header of a request holds nothing but a credential of the daemon."""
    if name in (b"x-api-key", b"x-host-token"):
        return True
    scheme, _, text = value.strip().partition(b" ")
    return name == b"authorization" and scheme.lower() == b"bearer" and is_api_key(text.strip().decode("latin-1"))


def _foreign_cookies(value: bytes) -> Sequence[bytes]:
    cookies = [cookie.strip() for cookie in value.split(b";")]
    return [cookie for cookie in cookies if cookie and not cookie.startswith(_OURS)]


def _for_one_host(cookie: bytes) -> bytes:
    first, *attributes = cookie.split(b";")
    kept = [each for each in attributes if each.partition(b"=")[0].strip().lower() != b"domain"]
    return b";".join([first, *kept])
