"""One end of a connection: requests both ways, their cancellation, and the streams beside them.

The reader never waits for anybody: what it hands on is bounded by credit or by the number of requests. Everybody else
waits for room before adding to what is still to be sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import trio

from ..errors import DeadlineExceeded, DriverFault, InvalidArgument, ResourceExhausted, Unavailable
from .codec import Malformed, decode, decode_envelope, encode
from .frames import MAX_MESSAGE, stream_frame, unpack_frame
from .messages import Answer, Cancel, Credit, Drop, End, Envelope, ErrorObject, Failure, Notification, Progress, Request
from .outbox import Outbox, Traffic
from .pace import STRETCH, Pace
from .pending import Pending
from .statistics import Statistics
from .streams import Dropped, Inlet, ItemInlet, ItemOutlet, Outlet
from .transports import Transport, TransportClosed
from .wire_errors import RequestCancelled, error_from_wire, rebuilt

__all__ = ["CANCEL_SECONDS", "Peer"]

T = TypeVar("T")

CANCEL_SECONDS = 2.0
"""How long the answer to a cancelled request is waited for. Cancellation must end a verb within one second."""

CLOSE_SECONDS = 5.0

LAST_WORDS_SECONDS = 1.0

BACKLOG = 4 * MAX_MESSAGE
"""How many bytes may wait to be sent, with what cannot wait for room, before the other side counts as gone."""

BREACHES = 100
"""How many breaches of the protocol end the connection."""

ABANDONED = 1000
"""How many requests may be left that were cancelled and never answered."""


class _RawProgress(msgspec.Struct):
    """:class:`Progress` with its item still encoded."""

    channel: int
    value: msgspec.Raw


_CREDIT = msgspec.json.Decoder(Credit)
_END = msgspec.json.Decoder(End)
_DROP = msgspec.json.Decoder(Drop)
_CANCEL = msgspec.json.Decoder(Cancel)
_PROGRESS = msgspec.json.Decoder(_RawProgress)
_PLAIN_PROGRESS = msgspec.json.Decoder(Progress)


class Peer:
    """One end of a connection.

    ``first_id`` is 1 for a host and 2 for a driver; ``other`` names the other side in messages. ``on_request`` and
    ``on_notification`` are called by the reader and must not block; ``on_cancel`` is told the id of a request that the
    other side does not need any more. ``on_fault`` hears of every breach of the protocol.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        first_id: int,
        other: str,
        on_request: Callable[[int | str, str, Any], None],
        on_cancel: Callable[[int | str], None] = lambda request: None,
        on_notification: Callable[[str, Any], None] = lambda method, params: None,
        on_fault: Callable[[DriverFault], None] = lambda fault: None,
        on_traffic: Traffic | None = None,
    ) -> None:
        self.other = other
        self.closed = trio.Event()
        self.reason: str | None = None
        self.counts = Statistics()
        self._transport = transport
        self._parity = first_id % 2
        self._next_request = first_id
        self._next_stream = first_id
        self._their_highest = 0
        self._on_request = on_request
        self._on_cancel = on_cancel
        self._on_notification = on_notification
        self._on_fault = on_fault
        self._on_traffic = on_traffic
        self._pending: dict[int, Pending[Any]] = {}
        self._inlets: dict[int, Inlet | ItemInlet] = {}
        self._outlets: dict[int, Outlet | ItemOutlet] = {}
        self._outbox = Outbox(transport, self.counts, on_traffic)
        self._abandoned = 0
        self._breaches = 0
        self._scope = trio.CancelScope()

    # ----- its life

    async def run(self) -> None:
        """Read and write until the connection ends. Cancelling it ends the connection."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    await self._read()
        finally:
            self.close("the connection was closed on this side")
            with trio.move_on_after(CLOSE_SECONDS, shield=True):
                await self._transport.aclose()

    def close(self, reason: str) -> None:
        """End the connection: everybody who waits for something of it gets Unavailable. Closing twice is fine."""
        if self.reason is not None:
            return
        self.reason = reason
        self._scope.cancel()
        for pending in self._pending.values():
            pending.error = self.gone()
            pending.settle()
        self._pending.clear()
        for inlet in list(self._inlets.values()):
            inlet.end(self.gone)
        for outlet in list(self._outlets.values()):
            outlet.stop(self.gone)
        self._outbox.clear()
        self.closed.set()

    def gone(self) -> Unavailable:
        """The error of everything that is asked of a connection that has ended."""
        return Unavailable(f"{self.other} is gone: {self.reason}")

    def statistics(self) -> Statistics:
        """Count what is open and what has been, at this moment."""
        return msgspec.structs.replace(
            self.counts,
            requests=len(self._pending) - self._abandoned,
            abandoned=self._abandoned,
            streams=len(self._inlets) + len(self._outlets),
            unsent=self._outbox.size,
        )

    def breach(self, message: str) -> DriverFault:
        """Count a breach of the protocol by the other side. Too many end the connection."""
        fault = DriverFault(message)
        self.tell(fault)
        self._breaches += 1
        if self._breaches >= BREACHES:
            self.close(f"it broke the protocol {BREACHES} times, last: {message}")
        return fault

    def tell(self, fault: DriverFault) -> None:
        """Count a fault of the other side, and tell of it."""
        self.counts.faults += 1
        self._on_fault(fault)

    # ----- requests

    async def request(
        self,
        method: str,
        params: object,
        decode: Callable[[Any], T],
        discard: Callable[[T], None] | None = None,
        *,
        on_sent: Callable[[], None] = lambda: None,
    ) -> T:
        """Ask the other side and return its decoded answer.

        ``decode`` is called by the reader with the raw result; ``discard`` with a value that nobody waits for any
        more; ``on_sent`` when the request has its place before all that is sent later.

        Cancelling the request cancels it on the other side, and its answer is waited for, for :data:`CANCEL_SECONDS`
        at most; when it has succeeded all the same, its value is returned. Raises the errors of the interface:
        Unavailable when the connection has ended, DriverFault for an answer of the wrong type.
        """
        await self._outbox.room()
        if self.reason is not None:
            raise self.gone()
        number, pending = self._send_request(method, params, decode, discard)
        on_sent()
        try:
            await pending.wait()
        except trio.Cancelled:
            if await self._withdrawn(number, pending):
                raise
        if pending.error is not None:
            error = pending.error
            if isinstance(error, RequestCancelled):
                raise self.breach(f"{self.other} cancelled {method!r} by itself") from None
            if isinstance(error, DriverFault):
                self.tell(error)
            raise error
        value: T = pending.value
        return value

    def request_unheard(self, method: str, params: object) -> None:
        """Ask for something whose answer nobody waits for."""
        if self.reason is None:
            self._send_request(method, params, lambda raw: None, None)

    def _send_request(
        self, method: str, params: object, decode: Callable[[Any], T], discard: Callable[[T], None] | None
    ) -> tuple[int, Pending[T]]:
        number = self._next_request
        try:
            text = encode(Request(number, method, params))
        except (TypeError, ValueError) as error:
            raise InvalidArgument(f"{method}: a parameter cannot be sent: {error}") from None
        if len(text) > MAX_MESSAGE:
            raise InvalidArgument(f"{method}: its parameters are longer than the {MAX_MESSAGE} bytes of a message")
        self._next_request += 2
        pending = Pending(method, decode, discard)
        self._pending[number] = pending
        self._post(text)
        return number, pending

    async def _withdrawn(self, number: int, pending: Pending[Any]) -> bool:
        """Cancel a request; return False when it has ended in another way than by that."""
        if self.reason is None:
            self.notify("cancel", Cancel(number))
        with trio.move_on_after(CANCEL_SECONDS, shield=True):
            await pending.wait()
        if not pending.done:
            pending.abandoned = True
            self._abandoned += 1
            self.tell(
                DriverFault(
                    f"{self.other} did not end {pending.method!r} within {CANCEL_SECONDS:g} s of its cancellation"
                )
            )
            if self._abandoned >= ABANDONED:
                self.close(f"it left {ABANDONED} cancelled requests unanswered")
            return True
        # A driver that ends a verb at its deadline may do so while the cancellation is under way.
        return isinstance(pending.error, RequestCancelled | DeadlineExceeded)

    def answer(self, request: int | str, result: object) -> None:
        """Answer a request of the other side.

        Raises TypeError or ValueError for what cannot be sent, and ResourceExhausted for what is too long.
        """
        text = encode(Answer(request, result))
        if len(text) > MAX_MESSAGE:
            raise ResourceExhausted(f"the answer has {len(text)} bytes, and a message may have {MAX_MESSAGE}")
        self._post(text)

    def refuse(self, request: int | str | None, error: ErrorObject) -> None:
        """Answer a request of the other side with an error."""
        self._post(encode(Failure(request, error)))

    def notify(self, method: str, params: object) -> None:
        """Send a notification."""
        if self.reason is None:
            self._post(encode(Notification(method, params)))

    # ----- streams

    def new_inlet(self, window: int) -> Inlet:
        """Make the receiving end of a new byte stream of this side's."""
        return self._keep_inlet(Inlet(self, self._allocate(), window))

    def new_item_inlet(self, decoder: msgspec.json.Decoder[Any]) -> ItemInlet:
        """Make the receiving end of a new channel of this side's."""
        inlet = ItemInlet(self, self._allocate(), decoder)
        self._inlets[inlet.stream] = inlet
        return inlet

    def new_outlet(self, credit: int) -> Outlet:
        """Make the sending end of a new byte stream of this side's."""
        return self._keep_outlet(Outlet(self, self._allocate(), credit))

    def their_inlet(self, stream: int, window: int) -> Inlet:
        """Make the receiving end of a stream that the other side has named. Raises Malformed."""
        self._check_theirs(stream)
        return self._keep_inlet(Inlet(self, stream, window))

    def their_outlet(self, stream: int) -> Outlet:
        """Make the sending end of a stream that the other side has named. Raises Malformed."""
        self._check_theirs(stream)
        return self._keep_outlet(Outlet(self, stream))

    def their_item_outlet(self, stream: int) -> ItemOutlet:
        """Make the sending end of a channel that the other side has named. Raises Malformed."""
        self._check_theirs(stream)
        outlet = ItemOutlet(self, stream)
        self._outlets[stream] = outlet
        return outlet

    def _keep_inlet(self, inlet: Inlet) -> Inlet:
        self._inlets[inlet.stream] = inlet
        return inlet

    def _keep_outlet(self, outlet: Outlet) -> Outlet:
        self._outlets[outlet.stream] = outlet
        return outlet

    def _allocate(self) -> int:
        stream = self._next_stream
        self._next_stream += 2
        return stream

    def _check_theirs(self, stream: int) -> None:
        if stream % 2 == self._parity:
            raise Malformed(f"the stream id {stream} is not of the kind that {self.other} gives out")
        if stream in self._inlets or stream in self._outlets:
            raise Malformed(f"the stream id {stream} is in use")
        self._their_highest = max(self._their_highest, stream)

    # ----- what streams need of it

    async def room(self) -> None:
        """Wait while too much is still to be sent."""
        await self._outbox.room()

    def post_frame(self, stream: int, channel: int, data: memoryview) -> None:
        """Send a piece of a stream."""
        self._post(stream_frame(stream, channel, data))

    def held(self, amount: int) -> None:
        """Count what inlets hold."""
        self.counts.buffered += amount
        self.counts.peak_buffered = max(self.counts.peak_buffered, self.counts.buffered)

    def forget_inlet(self, stream: int) -> None:
        """What comes for this stream from now on is dropped."""
        self._inlets.pop(stream, None)

    def forget_outlet(self, stream: int) -> None:
        """What the receiver says of this stream from now on is dropped."""
        self._outlets.pop(stream, None)

    # ----- writing and reading

    def _post(self, message: str | bytes) -> None:
        if self.reason is not None:
            return
        self._outbox.post(message)
        if self._outbox.size > BACKLOG:
            self.close("it does not read what is sent to it")

    async def _write(self) -> None:
        try:
            await self._outbox.write()
        except TransportClosed as closed:
            # The other side has mostly ended, and its last words, if any, tell more than that it does not read.
            await trio.sleep(LAST_WORDS_SECONDS)
            self.close(closed.reason)

    async def _read(self) -> None:
        counts = self.counts
        pace = Pace()
        stretch = 0
        try:
            while True:
                message = await self._transport.receive()
                counts.messages_received += 1
                counts.bytes_received += len(message)
                if self._on_traffic is not None:
                    self._on_traffic("received", message)
                if isinstance(message, str):
                    self._take_text(message)
                    await pace.keep()
                else:
                    self._take_frame(message)
                stretch += 1
                if stretch == STRETCH:
                    stretch = 0
                    await trio.lowlevel.checkpoint()
        except TransportClosed as closed:
            self.close(closed.reason)

    def _take_frame(self, message: bytes) -> None:
        frame = unpack_frame(message)
        if frame is None:
            self.breach(f"{self.other} sent a binary message of {len(message)} bytes, which is no frame")
            return
        stream, channel, data = frame
        inlet = self._inlets.get(stream)
        if isinstance(inlet, Inlet):
            inlet.feed(channel, data)
        else:
            self._stray("a frame", stream, inlet)

    def _take_text(self, text: str) -> None:
        try:
            message = decode_envelope(text)
        except Malformed as error:
            self._take_malformed(text, str(error))
            return
        if message.method is msgspec.UNSET:
            self._take_answer(message)
        elif message.id is msgspec.UNSET or message.id is None:
            self._take_notification(message.method, message.params)
        else:
            self._on_request(message.id, message.method, message.params)

    def _take_malformed(self, text: str, what: str) -> None:
        """Nobody can use this message; when it is the answer to a request of ours, its caller shall know."""
        fault = self.breach(f"{self.other} sent a message that is not of the protocol: {what}: {text[:80]!r}")
        try:
            known = msgspec.json.decode(text, type=_OnlyId)
        except (msgspec.MsgspecError, RecursionError):
            return
        pending = self._pending.pop(known.id, None) if known.method is msgspec.UNSET else None
        if pending is not None:
            self._settle(pending, error=DriverFault(fault.message))

    def _take_answer(self, message: Envelope) -> None:
        pending = self._pending.pop(message.id, None) if isinstance(message.id, int) else None
        if pending is None:
            what = f": {bytes(message.error)[:200]!r}" if isinstance(message.error, msgspec.Raw) else ""
            self.breach(f"{self.other} answered a request {message.id!r} that is not open{what}")
            return
        if message.error is not msgspec.UNSET and message.error != msgspec.Raw(b"null"):
            self._settle(pending, error=error_from_wire(message.error))
            return
        if message.result is msgspec.UNSET:
            self._settle(
                pending, error=DriverFault(f"{self.other} answered {pending.method!r} with neither result nor error")
            )
            return
        try:
            value = pending.decode(message.result)
        except Malformed as error:
            self._settle(pending, error=DriverFault(f"{self.other} answered {pending.method!r} wrongly: {error}"))
            return
        self._settle(pending, value)

    def _settle(self, pending: Pending[Any], value: object = None, *, error: Exception | None = None) -> None:
        pending.value = value
        pending.error = error
        if pending.abandoned:
            self._abandoned -= 1
            if error is None and pending.discard is not None:
                pending.discard(value)
        pending.settle()

    def _take_notification(self, method: str, params: Any) -> None:
        try:
            match method:
                case "progress":
                    progress = _progress(params)
                    inlet = self._inlets.get(progress.channel)
                    if isinstance(inlet, ItemInlet):
                        inlet.feed(progress.value)
                    else:
                        self._stray("an item", progress.channel, inlet)
                case "credit":
                    credit = decode(params, _CREDIT)
                    outlet = self._outlets.get(credit.stream)
                    if outlet is not None:
                        outlet.credit(credit.amount, credit.error)
                    else:
                        self._stray("credit", credit.stream, None)
                case "end":
                    end = decode(params, _END)
                    ended = self._inlets.get(end.stream)
                    if ended is None:
                        self._stray("an end", end.stream, None)
                    elif end.error is None:
                        ended.end()
                    else:
                        why = end.error
                        ended.end(lambda: rebuilt(why))
                case "drop":
                    drop = decode(params, _DROP)
                    dropped = self._outlets.get(drop.stream)
                    if dropped is not None:
                        dropped.stop(Dropped)
                    else:
                        self._stray("a drop", drop.stream, None)
                case "cancel":
                    self._on_cancel(decode(params, _CANCEL).id)
                case _:
                    self._on_notification(method, params)
        except Malformed as error:
            self.breach(f"{self.other} sent a malformed {method!r}: {error}")

    def _stray(self, what: str, stream: int, inlet: object) -> None:
        """Something came for a stream that is not open: late, which is no fault, or never opened."""
        mine = stream % 2 == self._parity
        if inlet is None and 0 < stream < (self._next_stream if mine else self._their_highest + 1):
            self.counts.dropped += 1
        else:
            self.breach(f"{self.other} sent {what} for {stream}, which is no stream of that kind")


def _progress(params: Any) -> Progress | _RawProgress:
    return decode(params, _PROGRESS) if isinstance(params, msgspec.Raw) else decode(params, _PLAIN_PROGRESS)


class _OnlyId(msgspec.Struct):
    id: int
    method: Any = msgspec.UNSET
