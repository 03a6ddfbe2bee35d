"""The guarded way out: HTTP requests to where users say, but to public addresses and those the operator allows alone.

A name is resolved first, its addresses are judged, and the connection is made to the very address that was judged: a
name that resolves differently a moment later changes nothing.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from urllib.parse import SplitResult, urlsplit

import httpcore2
import trio

from anvild.sdk import InvalidArgument, Outbound, PermissionDenied, Reply, Unavailable
from anvild.sdk.network.addresses import PERMITTABLE, Network, Reach, parse_address, reach_of

__all__ = ["GuardedOutbound", "Resolve", "permitted", "resolve"]


Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the addresses of a host, best first. Raises OSError."""

CONNECT_SECONDS = 4.0
"""How long one address of several may take to take a connection."""

BODY = 64 * 1024
USER_AGENT = "anvild"


async def resolve(host: str, port: int) -> Sequence[str]:
    """Return the addresses of a host, as the system's resolver sorts them."""
    found = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def permitted(address: str, allow: Iterable[Network] = ()) -> bool:
    """Whether a channel may reach an address: a public one, or one of this machine or a private network that is in
    ``allow``. Link-local addresses, metadata services and what is no single machine are never reached."""
    meant = parse_address(address)
    if meant is None:
        return False  # with a zone: link-local
    reach = reach_of(meant)
    return reach is Reach.PUBLIC or (reach in PERMITTABLE and any(meant in network for network in allow))


class _Guard(httpcore2.AsyncNetworkBackend):
    """Opens connections to the permitted addresses of a host."""

    def __init__(self, allow: Sequence[Network], resolve: Resolve) -> None:
        self._allow = allow
        self._resolve = resolve
        self._network = httpcore2.TrioBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to the first permitted address that answers. Raises PermissionDenied, Unavailable."""
        try:
            found = await self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise Unavailable(f"the host {host} has no address: {error}") from None
        chosen = [address for address in found if permitted(address, self._allow)]
        if not chosen:
            raise PermissionDenied(
                f"the host {host} is at {', '.join(found)}, which is no public address; the operator can allow its "
                "network in the setting notify.allow"
            )
        reason: Exception | None = None
        for address in chosen:
            try:
                return await self._network.connect_tcp(address, port, timeout=CONNECT_SECONDS)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                reason = error
        raise Unavailable(f"the host {host} cannot be reached: {_why(reason)}")


class GuardedOutbound(Outbound):
    """The daemon's way out. A connection serves one request.

    :param allow: networks that may be reached beside public addresses.
    :param trust: whose certificates count; None means those that the system trusts.
    """

    def __init__(
        self, allow: Sequence[Network] = (), *, resolve: Resolve = resolve, trust: ssl.SSLContext | None = None
    ) -> None:
        self._guard = _Guard(allow, resolve)
        self._trust = trust or httpcore2.default_ssl_context()

    async def request(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, content: bytes = b""
    ) -> Reply:
        target = _target(url)
        given = {name.lower(): value for name, value in (headers or {}).items()}
        sent = {"host": target.netloc, "user-agent": USER_AGENT, "content-length": str(len(content)), **given}
        pool = httpcore2.AsyncConnectionPool(ssl_context=self._trust, network_backend=self._guard)
        try:
            async with pool, pool.stream(method, target.geturl(), headers=list(sent.items()), content=content) as reply:
                body = b""
                async with aclosing(reply.aiter_stream()) as parts:
                    async for part in parts:
                        body += part
                        if len(body) >= BODY:
                            break
                names = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in reply.headers}
                return Reply(status=reply.status, headers=names, body=body[:BODY])
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException, OSError) as error:
            raise Unavailable(f"the host {target.hostname} cannot be spoken to: {_why(error)}") from None


def _target(url: str) -> SplitResult:
    """Take a URL apart. Raises InvalidArgument, without the URL, which may hold a secret."""
    try:
        target = urlsplit(url)
        port = target.port
    except ValueError:
        raise InvalidArgument("expected a URL") from None
    if target.scheme not in ("http", "https") or not target.hostname or not url.isascii() or not url.isprintable():
        raise InvalidArgument("expected a URL that begins with http:// or https:// and names a host")
    if target.username is not None or port == 0:
        raise InvalidArgument("expected a URL without a user's name and with a port that can be")
    return target


def _why(error: Exception | None) -> str:
    return str(error) or type(error).__name__
