"""An HTTP proxy: ``CONNECT``, and requests for whole ``http`` URLs, one after the other on a connection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import h11
import trio

from ..errors import AnvilError, DeadlineExceeded, InvalidArgument, PermissionDenied, Unavailable
from .splice import BROKEN, CHUNK, Pulse, part, splice
from .way import Client, Way

__all__ = ["serve_http"]

HEAD_LIMIT = 32768
HEAD_SECONDS = 60.0
HTTP_PORT = 80
LONGEST_PORT = 5
SHOWN = 200
CONNECT = b"CONNECT"
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"

BAD_REQUEST, FORBIDDEN, BAD_GATEWAY, GATEWAY_TIMEOUT = 400, 403, 502, 504
_STATUS: tuple[tuple[type[AnvilError], int], ...] = (
    (PermissionDenied, FORBIDDEN),
    (InvalidArgument, BAD_REQUEST),
    (DeadlineExceeded, GATEWAY_TIMEOUT),
)

_REASONS = {
    BAD_REQUEST: b"Bad Request",
    FORBIDDEN: b"Forbidden",
    BAD_GATEWAY: b"Bad Gateway",
    GATEWAY_TIMEOUT: b"Gateway Timeout",
}

_FOR_ONE_STEP = frozenset(
    (b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"upgrade")
)
"""Headers that are for the next machine alone."""

Said = h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]
Hear = Callable[[], Awaitable[Said]]


async def serve_http(client: Client, first: bytes, way: Way) -> None:
    """Serve one connection that begins with the bytes ``first``."""
    await _Conversation(client, first, way).run()


class _Conversation:
    """One connection of a program."""

    def __init__(self, client: Client, first: bytes, way: Way) -> None:
        self._client = client
        self._way = way
        self._here = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT)
        self._here.receive_data(first)

    async def run(self) -> None:
        try:
            while await self._next_request():
                self._here.start_next_cycle()
        except h11.ProtocolError as error:
            await self._refuse(BAD_REQUEST, f"this is no HTTP request: {error}")
        except AnvilError as error:
            status = next((status for kind, status in _STATUS if isinstance(error, kind)), BAD_GATEWAY)
            await self._refuse(status, error.message)

    async def _next_request(self) -> bool:
        """Serve one request; say whether another one may follow."""
        with trio.move_on_after(HEAD_SECONDS) as patience:
            request = await self._hear()
        if patience.cancelled_caught or not isinstance(request, h11.Request):
            return False
        target = request.target.decode("ascii", "replace")
        if request.method == CONNECT:
            await self._tunnel(target)
            return False
        host, port, named, path = _split(target)
        async with await self._way(host, port) as stream:
            return await _Exchange(self._client, self._here, stream, self._hear).run(request, named, path)

    async def _hear(self) -> Said:
        """Return what the program says next."""
        while True:
            event = self._here.next_event()
            if event is not h11.NEED_DATA:
                return event
            self._here.receive_data(bytes(await self._client.receive_some(CHUNK)))

    async def _tunnel(self, target: str) -> None:
        host, port = _authority(target)
        if not isinstance(await self._hear(), h11.EndOfMessage):
            raise InvalidArgument("a CONNECT has no body")
        async with await self._way(host, port) as stream:
            await self._client.send_all(ESTABLISHED)
            early, _ = self._here.trailing_data
            if early:
                await stream.send_all(early)
            await splice(self._client, stream)

    async def _refuse(self, status: int, sentence: str) -> None:
        if self._here.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return  # an answer has begun: all that is left is to break it off
        body = f"{sentence}\n".encode()
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
        answer = h11.Response(status_code=status, headers=[*headers, ("Connection", "close")], reason=_REASONS[status])
        parts = [self._here.send(event) for event in (answer, h11.Data(data=body), h11.EndOfMessage())]
        await self._client.send_all(b"".join(part for part in parts if part))
        await part(self._client)


class _Exchange:
    """One request on its way to its server, and the answer on its way back."""

    def __init__(self, client: Client, here: h11.Connection, stream: trio.SocketStream, hear: Hear) -> None:
        self._client = client
        self._here = here
        self._stream = stream
        self._hear = hear
        self._there = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_LIMIT)
        self._pulse = Pulse()

    async def run(self, request: h11.Request, host: str, path: str) -> bool:
        """Carry request and answer; say whether the program may send another request.

        Raises Unavailable when the server answers nothing that could be told.
        """
        headers = [(b"Host", host.encode()), *_passed_on(request, b"host"), (b"Connection", b"close")]
        passed_on = h11.Request(method=request.method, target=path, headers=headers)
        await self._stream.send_all(self._there.send(passed_on) or b"")
        trouble: str | None = "the server did not answer"
        with self._pulse.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send_body)
                trouble = await self._return_answer()
                nursery.cancel_scope.cancel()
        if trouble and self._here.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            raise Unavailable(f"{host}: {trouble}")
        return self._here.our_state is h11.DONE and self._here.their_state is h11.DONE

    async def _send_body(self) -> None:
        """Send the request's body, as far as the server takes it: it may have answered before."""
        try:
            while not isinstance(event := await self._hear(), h11.EndOfMessage):
                if not isinstance(event, h11.Data):
                    return
                await self._stream.send_all(self._there.send(h11.Data(data=event.data)) or b"")
                self._pulse.beat()
            await self._stream.send_all(self._there.send(h11.EndOfMessage()) or b"")
        except h11.ProtocolError:
            self._pulse.scope.cancel()  # what it says is no body
        except BROKEN:
            return

    async def _return_answer(self) -> str | None:
        """Send the server's answer back to the program; return what went wrong."""
        try:
            while True:
                while (event := self._there.next_event()) is h11.NEED_DATA:
                    self._there.receive_data(await self._stream.receive_some(CHUNK))
                    self._pulse.beat()
                if isinstance(event, h11.Response | h11.InformationalResponse):
                    event = type(event)(status_code=event.status_code, headers=_passed_on(event), reason=event.reason)
                elif not isinstance(event, h11.Data | h11.EndOfMessage):
                    return "the server ended the connection"
                await self._client.send_all(self._here.send(event) or b"")
                self._pulse.beat()
                if isinstance(event, h11.EndOfMessage):
                    return None
        except h11.ProtocolError as error:
            return f"the server's answer is no HTTP: {error}"
        except BROKEN:
            return "the connection broke"


def _passed_on(
    message: h11.Request | h11.Response | h11.InformationalResponse, *without: bytes
) -> list[tuple[bytes, bytes]]:
    """Return the headers that are for the other end, with their names as they were written."""
    named = {
        word.strip().lower() for name, value in message.headers if name == b"connection" for word in value.split(b",")
    }
    left_out = _FOR_ONE_STEP | named | set(without)
    return [(name, value) for name, value in message.headers.raw_items() if name.lower() not in left_out]


def _split(target: str) -> tuple[str, int, str, str]:
    """Return host, port, the host as it is named in the URL, and the path of a request for a whole URL."""
    if target.startswith("/"):
        raise InvalidArgument("this is a proxy: it takes requests for whole URLs, and CONNECT")
    scheme, found, _ = target.partition("://")
    if not found or scheme.lower() != "http":
        raise InvalidArgument(f"this proxy takes http URLs, and CONNECT for all else; not {target[:SHOWN]!r}")
    try:
        split = urlsplit(target)
        host, port = split.hostname, split.port
    except ValueError as error:
        raise InvalidArgument(f"{target[:SHOWN]!r} is no URL: {error}") from None
    if not host:
        raise InvalidArgument(f"{target[:SHOWN]!r} names no host")
    rest = target[len(scheme) + len("://") + len(split.netloc) :].partition("#")[0]
    path = rest if rest.startswith("/") else f"/{rest}"
    return host, HTTP_PORT if port is None else port, split.netloc.rpartition("@")[2], path


def _authority(target: str) -> tuple[str, int]:
    """Return host and port of what a CONNECT asks for."""
    host, colon, port = target.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit() and 0 < len(port) <= LONGEST_PORT):
        raise InvalidArgument(f"CONNECT takes HOST:PORT, not {target[:SHOWN]!r}")
    return host, int(port)
