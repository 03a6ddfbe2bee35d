"""Connections with programs in a guest, seen from the host."""

from __future__ import annotations

import trio

from ..errors import AnvilError, CapabilityMissing
from .client import AgentClient, AgentStream
from .protocol import Close, Kind, Packed

__all__ = ["AgentConnection", "accept_connection", "listen_for_connections", "open_connection"]


class AgentConnection(trio.abc.HalfCloseableStream):
    """A connection with a program in a guest, as a stream with back-pressure. A connection that the program, the
    guest or its agent has broken raises :exc:`trio.BrokenResourceError` with the reason."""

    def __init__(self, agent: AgentClient, stream: AgentStream) -> None:
        self._agent = agent
        self._stream = stream
        self._rest = b""
        self._closed = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._check()
        try:
            await self._stream.send(bytes(data))
        except AnvilError as error:
            self._check()
            raise trio.BrokenResourceError(error.message) from None

    async def wait_send_all_might_not_block(self) -> None:
        self._check()
        await self._agent.room()

    async def send_eof(self) -> None:
        self._check()
        await trio.lowlevel.checkpoint()
        if not self._stream.ended:
            self._stream.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        self._check()
        if not self._rest:
            try:
                received = await self._stream.receive()
            except AnvilError as error:
                self._check()
                raise trio.BrokenResourceError(error.message) from None
            if received is None:
                return b""
            if received[0] is not Kind.DATA:
                raise trio.BrokenResourceError("the guest agent sent what no connection carries")
            self._rest = received[1]
        taken, self._rest = self._rest[:max_bytes], self._rest[len(self._rest) if max_bytes is None else max_bytes :]
        return taken

    async def aclose(self) -> None:
        """Close both directions at once, whatever is under way in them."""
        self._closed = True
        self._stream.close(Close.UNDO)
        await trio.lowlevel.checkpoint()

    def _check(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("the connection has been closed here")


async def open_connection(agent: AgentClient, port: int) -> AgentConnection:
    """Connect to a program in the guest that listens on a port of the guest's loopback or of all its addresses.

    Raises Unavailable when nothing listens there, DeviceLost, CapabilityMissing when the agent is too old for it.
    """
    return await _begin(agent, "connect", port=port)


async def listen_for_connections(agent: AgentClient, port: int) -> None:
    """Let a port of the guest's loopback lead to the host, until the guest ends or becomes another one.

    Doing it again is fine; who connects while nobody accepts waits. Raises Unavailable or WrongState when the port
    cannot be had, DeviceLost, CapabilityMissing when the agent is too old for it.
    """
    try:
        await agent.call("listen", port=port)
    except CapabilityMissing:
        raise CapabilityMissing(
            "the agent in this device is an older one, which can let no port lead to the host: make its template anew"
        ) from None


async def accept_connection(agent: AgentClient, port: int) -> AgentConnection:
    """Return the next connection that a program in the guest opens to a port that leads to the host.

    Raises WrongState for another port, DeviceLost.
    """
    return await _begin(agent, "accept", port=port)


async def _begin(agent: AgentClient, verb: str, **request: Packed) -> AgentConnection:
    stream = agent.open(verb, **request)
    try:
        await stream.answer()
    except BaseException:
        stream.close(Close.UNDO)
        raise
    return AgentConnection(agent, stream)
