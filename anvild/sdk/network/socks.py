"""SOCKS5 (RFC 1928) as a device's programs speak it: connections by name or address, and nobody logs in."""

from __future__ import annotations

import errno
from ipaddress import IPv4Address, IPv6Address

import trio

from ..errors import AnvilError, InvalidArgument, PermissionDenied
from .splice import part, splice
from .way import Client, Way

__all__ = ["VERSION", "serve_socks"]

VERSION = 5
HEAD_SECONDS = 30.0
NO_PASSWORD, NO_METHOD = 0, 255
CONNECT = 1
IPV4, NAME, IPV6 = 1, 3, 4
GRANTED, FAILED, NOT_ALLOWED, NO_NETWORK, NO_HOST, REFUSED, NO_COMMAND, NO_ADDRESS = 0, 1, 2, 3, 4, 5, 7, 8

_CODES = {errno.ENETUNREACH: NO_NETWORK, errno.EHOSTUNREACH: NO_HOST, errno.ECONNREFUSED: REFUSED}


class _Reader:
    """What a client says, in pieces of known sizes."""

    def __init__(self, client: Client, rest: bytes) -> None:
        self.rest = rest
        self._client = client

    async def exactly(self, count: int) -> bytes:
        """Return so many bytes. Raises BrokenResourceError when the client ends before."""
        while len(self.rest) < count:
            more = await self._client.receive_some(count - len(self.rest))
            if not more:
                raise trio.BrokenResourceError("the program has ended the conversation")
            self.rest += more
        taken, self.rest = self.rest[:count], self.rest[count:]
        return taken


async def serve_socks(client: Client, first: bytes, way: Way) -> None:
    """Serve one connection that begins with the bytes ``first``."""
    reader = _Reader(client, first)
    with trio.move_on_after(HEAD_SECONDS) as patience:
        asked = await _hear(client, reader)
    if patience.cancelled_caught:
        return
    if isinstance(asked, bytes):
        await client.send_all(asked)
        await part(client)
        return
    try:
        stream = await way(*asked)
    except AnvilError as error:
        await client.send_all(_reply(_code(error)))
        await part(client)
        return
    async with stream:
        await client.send_all(_reply(GRANTED))
        if reader.rest:
            await stream.send_all(reader.rest)
        await splice(client, stream)


async def _hear(client: Client, reader: _Reader) -> tuple[str, int] | bytes:
    """Return the host and port that the client asks for, or what it is refused with."""
    _, count = await reader.exactly(2)
    if NO_PASSWORD not in await reader.exactly(count):
        return bytes([VERSION, NO_METHOD])
    await client.send_all(bytes([VERSION, NO_PASSWORD]))
    version, command, _, kind = await reader.exactly(4)
    if version != VERSION:
        return _reply(FAILED)
    if kind == IPV4:
        host = str(IPv4Address(await reader.exactly(4)))
    elif kind == IPV6:
        host = str(IPv6Address(await reader.exactly(16)))
    elif kind == NAME:
        (length,) = await reader.exactly(1)
        host = (await reader.exactly(length)).decode("ascii", "replace")
    else:
        return _reply(NO_ADDRESS)
    port = int.from_bytes(await reader.exactly(2), "big")
    return (host, port) if command == CONNECT else _reply(NO_COMMAND)


def _reply(code: int) -> bytes:
    return bytes([VERSION, code, 0, IPV4]) + bytes(6)


def _code(error: AnvilError) -> int:
    if isinstance(error, (PermissionDenied, InvalidArgument)):
        return NOT_ALLOWED
    reason = error.details.get("reason")
    return _CODES.get(reason, NO_HOST) if isinstance(reason, int) else NO_HOST
