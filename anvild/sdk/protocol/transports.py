"""Transports: how whole messages get from one side to the other, in order."""

from __future__ import annotations

from abc import ABC, abstractmethod

import trio

from .frames import MAX_MESSAGE, Deframer, FramingLost, envelope

__all__ = ["StdioTransport", "Transport", "TransportClosed", "memory_transports"]

RECEIVE_SIZE = 262144


class TransportClosed(Exception):
    """The connection has ended. ``reason`` is a sentence for a person."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Transport(ABC):
    """Carries whole messages in order, both ways at the same time. One task sends and one receives at a time."""

    @abstractmethod
    async def send(self, message: str | bytes) -> None:
        """Send a text or a binary message. Raises TransportClosed. Cancelling it may end the connection."""

    @abstractmethod
    async def receive(self) -> str | bytes:
        """Return the next message. Raises TransportClosed with the reason at the end."""

    @abstractmethod
    async def aclose(self) -> None:
        """End the connection. Closing twice is fine."""


class StdioTransport(Transport):
    """A connection over two byte streams, such as the pipes of a child process.

    A message longer than ``max_message`` bytes, or anything that is no message, ends the connection.
    """

    def __init__(
        self, send: trio.abc.SendStream, receive: trio.abc.ReceiveStream, *, max_message: int = MAX_MESSAGE
    ) -> None:
        self._send = send
        self._receive = receive
        self._deframer = Deframer(max_message)
        self._unsendable: str | None = None
        self._over: str | None = None

    async def send(self, message: str | bytes) -> None:
        if self._unsendable is not None:
            raise TransportClosed(self._unsendable)
        self._unsendable = "a message was cut short"
        try:
            await self._send.send_all(envelope(message))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._unsendable = self._over or "the other side does not read any more"
            raise TransportClosed(self._unsendable) from None
        self._unsendable = None

    async def receive(self) -> str | bytes:
        while True:
            try:
                message = self._deframer.take()
            except FramingLost as error:
                raise TransportClosed(self._end(f"the connection is out of step: {error}")) from None
            if message is not None:
                return message
            if self._over is not None:
                raise TransportClosed(self._over)
            try:
                data = await self._receive.receive_some(RECEIVE_SIZE)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise TransportClosed(self._end("the connection broke")) from None
            if not data:
                where = " in the middle of a message" if self._deframer.inside else ""
                raise TransportClosed(self._end(f"the other side closed the connection{where}"))
            self._deframer.feed(data)

    async def aclose(self) -> None:
        self._end("the connection was closed on this side")
        try:
            await self._send.aclose()
        finally:
            await self._receive.aclose()

    def _end(self, reason: str) -> str:
        if self._over is None:
            self._over = reason
        return self._over


def memory_transports() -> tuple[Transport, Transport]:
    """Return two ends of a connection within one process."""
    there, here = trio.open_memory_channel[str | bytes](1)
    back_there, back_here = trio.open_memory_channel[str | bytes](1)
    return _MemoryTransport(there, back_here), _MemoryTransport(back_there, here)


class _MemoryTransport(Transport):
    def __init__(
        self, send: trio.MemorySendChannel[str | bytes], receive: trio.MemoryReceiveChannel[str | bytes]
    ) -> None:
        self._send = send
        self._receive = receive

    async def send(self, message: str | bytes) -> None:
        try:
            await self._send.send(message)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise TransportClosed("the other side does not read any more") from None

    async def receive(self) -> str | bytes:
        try:
            return await self._receive.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            raise TransportClosed("the other side closed the connection") from None

    async def aclose(self) -> None:
        self._send.close()
        self._receive.close()
        await trio.lowlevel.checkpoint()
