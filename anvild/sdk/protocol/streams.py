"""Streams: bytes and items that flow one way beside the requests, each within the credit that its receiver gave.

An *inlet* is the receiving end, an *outlet* the sending end. What an inlet holds is bounded by the credit that it has
given, so a reader that stands still holds up its own stream and nothing else.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import msgspec
import trio

from ..errors import AnvilError, DriverFault
from .codec import Malformed, decode, encode
from .frames import FRAME_LIMIT, ITEM_WINDOW, WINDOW
from .messages import Credit, Drop, End, ErrorObject
from .wire_errors import error_to_wire, rebuilt

__all__ = ["Dropped", "Inlet", "ItemInlet", "ItemOutlet", "Link", "Outlet"]

MERGE_LIMIT = 16384
MAX_CREDIT = 2**40


class Dropped(Exception):
    """The receiver of a stream wants nothing more of it."""


class Link(Protocol):
    """What a stream needs of the connection that it belongs to."""

    other: str

    def notify(self, method: str, params: object) -> None: ...

    def post_frame(self, stream: int, channel: int, data: memoryview) -> None: ...

    async def room(self) -> None: ...

    def held(self, amount: int) -> None: ...

    def forget_inlet(self, stream: int) -> None: ...

    def forget_outlet(self, stream: int) -> None: ...

    def breach(self, message: str) -> DriverFault: ...


def _nothing() -> None: ...


class _Receiver:
    """What both kinds of inlets share: how they end."""

    def __init__(self, link: Link, stream: int) -> None:
        self.stream = stream
        self._link = link
        self._changed = trio.lowlevel.ParkingLot()
        self._ended = False
        self._error: Callable[[], Exception] | None = None

    def end(self, error: Callable[[], Exception] | None = None) -> None:
        """Nothing more comes; what is held can still be taken, and then ``error`` is raised. Called by the reader."""
        if not self._ended:
            self._ended = True
            self._error = error
            self._link.forget_inlet(self.stream)
            self._changed.unpark_all()

    def drop(self) -> None:
        """Want nothing more. Dropping twice, or after the end, is fine."""
        if not self._ended:
            self._link.notify("drop", Drop(self.stream))
            self.end()
        self._empty()

    def _empty(self) -> None:
        """Forget what is held."""
        raise NotImplementedError

    def _break(self, message: str) -> None:
        """The sender broke a rule: its stream ends with a DriverFault, and the connection goes on."""
        self._link.breach(message)
        self._link.notify("drop", Drop(self.stream))
        self.end(lambda: DriverFault(message))


class Inlet(_Receiver):
    """The receiving end of a byte stream. With ``window`` 0 its sender waits until :meth:`open`."""

    def __init__(self, link: Link, stream: int, window: int = WINDOW) -> None:
        super().__init__(link, stream)
        self._chunks: deque[tuple[int, bytes | bytearray]] = deque()
        self._allowance = window
        self._owed = 0
        self._opened = window > 0
        self._discarding = False

    def open(self) -> None:
        """Let the sender of a stream without credit begin. Opening twice is fine."""
        if not self._opened and not self._ended:
            self._opened = True
            self._allowance = WINDOW
            self._link.notify("credit", Credit(self.stream, WINDOW))

    def feed(self, channel: int, data: bytes) -> None:
        """Take a frame. Called by the reader."""
        if not data:
            self._break(f"{self._link.other} sent an empty frame on stream {self.stream}")
            return
        if len(data) > self._allowance:
            self._break(f"{self._link.other} sent more on stream {self.stream} than it had credit for")
            return
        self._allowance -= len(data)
        self._link.held(len(data))
        if self._discarding:
            self._repay(len(data))
            return
        if self._chunks and self._chunks[-1][0] == channel and len(self._chunks[-1][1]) + len(data) <= MERGE_LIMIT:
            merged = bytearray(self._chunks[-1][1])
            merged += data
            self._chunks[-1] = (channel, merged)
        else:
            self._chunks.append((channel, data))
        self._changed.unpark_all()

    async def receive(self, max_bytes: float = math.inf) -> tuple[int, bytes] | None:
        """Return the next chunk with its channel, or None at the end. Raises what ended the stream.

        Cancelling it loses nothing.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._chunks:
            if self._ended:
                if self._error is not None:
                    raise self._error()
                return None
            await self._changed.park()
        channel, data = self._chunks.popleft()
        if len(data) > max_bytes:
            size = int(max_bytes)
            self._chunks.appendleft((channel, data[size:]))
            data = data[:size]
        self._repay(len(data))
        return channel, bytes(data)

    def set_discarding(self, discarding: bool) -> None:
        """Throw away what is held and what comes, so that the sender can go on; or no more."""
        self._discarding = discarding
        if discarding:
            self._repay(self._clear())

    def _repay(self, amount: int) -> None:
        self._link.held(-amount)
        self._owed += amount
        if self._owed >= WINDOW // 4 and not self._ended:
            self._link.notify("credit", Credit(self.stream, self._owed))
            self._allowance += self._owed
            self._owed = 0

    def _empty(self) -> None:
        self._link.held(-self._clear())

    def _clear(self) -> int:
        amount = sum(len(data) for _, data in self._chunks)
        self._chunks.clear()
        return amount


class Outlet:
    """The sending end of a byte stream. ``on_stop`` is called when nothing more can be sent."""

    def __init__(self, link: Link, stream: int, credit: int = WINDOW) -> None:
        self.stream = stream
        self._link = link
        self._credit = credit
        self._changed = trio.lowlevel.ParkingLot()
        self._over: Callable[[], Exception] | None = None
        self.on_stop: Callable[[], None] = _nothing

    async def send(self, data: bytes | bytearray | memoryview, channel: int = 0) -> None:
        """Send all of it, waiting for credit. Raises Dropped, and what ended the connection.

        When it is cancelled, a part may have been sent.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        with memoryview(data) as view:
            at = 0
            while at < len(view):
                await self.wait_credit()
                await self._link.room()
                if self._over is not None:
                    raise self._over()
                size = min(len(view) - at, self._credit, FRAME_LIMIT)
                self._credit -= size
                self._link.post_frame(self.stream, channel, view[at : at + size])
                at += size

    async def wait_credit(self) -> None:
        """Return when something may be sent. Raises Dropped, and what ended the connection."""
        while self._credit <= 0 and self._over is None:
            await self._changed.park()
        if self._over is not None:
            raise self._over()

    def end(self, error: AnvilError | None = None) -> None:
        """Tell the receiver that this was all, or that it failed. Ending twice, or after a drop, is fine."""
        if self._over is None:
            self._link.notify("end", End(self.stream, None if error is None else error_to_wire(error)))
            self.stop(Dropped)

    def stop(self, error: Callable[[], Exception]) -> None:
        """The receiver, or the connection, has gone. Called by the reader."""
        if self._over is None:
            self._over = error
            self._link.forget_outlet(self.stream)
            self._changed.unpark_all()
            self.on_stop()

    def credit(self, amount: int, error: ErrorObject | None) -> None:
        """The receiver allows more. Called by the reader."""
        self._credit = min(self._credit + amount, MAX_CREDIT)
        self._changed.unpark_all()


class ItemInlet(_Receiver):
    """The receiving end of a channel of items."""

    def __init__(self, link: Link, stream: int, decoder: msgspec.json.Decoder[Any]) -> None:
        super().__init__(link, stream)
        self._decoder = decoder
        self._items: deque[Any] = deque()
        self._allowance = ITEM_WINDOW

    def feed(self, raw: Any) -> None:
        """Take an item. Called by the reader."""
        if self._allowance == 0:
            self._break(f"{self._link.other} sent more items on channel {self.stream} than it had credit for")
            return
        self._allowance -= 1
        try:
            self._items.append(decode(raw, self._decoder))
        except Malformed as error:
            fault = self._link.breach(f"{self._link.other} sent a wrong item on channel {self.stream}: {error}")
            self.taken(fault)
            return
        self._changed.unpark_all()

    async def receive(self) -> Any:
        """Return the next item. Raises trio.EndOfChannel at the end. Who has dealt with it calls :meth:`taken`."""
        while not self._items:
            if self._ended:
                raise self._error() if self._error is not None else trio.EndOfChannel
            await self._changed.park()
        return self._items.popleft()

    def taken(self, error: AnvilError | None = None) -> None:
        """Confirm one item, or refuse it."""
        if not self._ended:
            self._allowance += 1
            self._link.notify("credit", Credit(self.stream, 1, None if error is None else error_to_wire(error)))

    def _empty(self) -> None:
        self._items.clear()


class _Confirmation:
    """Whether the receiver has taken an item, for the task that sent it."""

    __slots__ = ("done", "error", "event")

    def __init__(self) -> None:
        self.done = False
        self.error: Callable[[], Exception] | None = None
        self.event = trio.Event()

    def set(self, error: Callable[[], Exception] | None) -> None:
        self.done = True
        self.error = error
        self.event.set()


class ItemOutlet:
    """The sending end of a channel of items."""

    def __init__(self, link: Link, stream: int) -> None:
        self.stream = stream
        self._link = link
        self._credit = ITEM_WINDOW
        self._changed = trio.lowlevel.ParkingLot()
        self._waiting: deque[_Confirmation] = deque()
        self._over: Callable[[], Exception] | None = None

    async def send(self, value: object) -> None:
        """Send an item and return when the receiver has taken it.

        Raises what the receiver refused it with, Dropped, and what ended the connection. When it is cancelled, the
        item may have been sent.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        raw = msgspec.Raw(encode(value).encode())
        while self._over is None and self._credit <= 0:
            await self._changed.park()
        await self._link.room()
        if self._over is not None:
            raise self._over()
        confirmation = self._post(raw)
        await confirmation.event.wait()
        if confirmation.error is not None:
            raise confirmation.error()

    def send_nowait(self, value: object) -> bool:
        """Send an item and do not wait; return whether there was credit. Raises TypeError, ValueError."""
        if self._over is not None or self._credit <= 0:
            return False
        self._post(msgspec.Raw(encode(value).encode()))
        return True

    def _post(self, raw: msgspec.Raw) -> _Confirmation:
        self._credit -= 1
        confirmation = _Confirmation()
        self._waiting.append(confirmation)
        self._link.notify("progress", {"channel": self.stream, "value": raw})
        return confirmation

    def credit(self, amount: int, error: ErrorObject | None) -> None:
        """The receiver has taken as many items. Called by the reader."""
        self._credit = min(self._credit + amount, MAX_CREDIT)
        for left in range(min(amount, len(self._waiting)), 0, -1):
            refused = error if left == 1 else None
            self._waiting.popleft().set(None if refused is None else partial(rebuilt, refused))
        self._changed.unpark_all()

    def close(self) -> None:
        """Send nothing more. The receiver knows the end of a channel by the answer to its request."""
        self.stop(Dropped)

    def stop(self, error: Callable[[], Exception]) -> None:
        """The receiver, or the connection, has gone. Called by the reader."""
        if self._over is None:
            self._over = error
            self._link.forget_outlet(self.stream)
            while self._waiting:
                self._waiting.popleft().set(error)
            self._changed.unpark_all()
