"""The host's end of the connection to a guest agent: many verbs on one byte stream.

The guest is not trusted: what it sends is checked, and what it may make the host hold is bounded by the credit that the
host has given. A guest that breaks the rules breaks its connection (DriverFault), nothing else.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import TypeVar

import msgspec
import trio

from ..errors import (
    AnvilError,
    DeviceLost,
    DriverFault,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
    WrongState,
    error_from_code,
)
from .protocol import (
    FRAME_COST,
    HEADER,
    MAGIC,
    NONCE_SIZE,
    PAYLOAD_LIMIT,
    REQUEST_LIMIT,
    VERSION,
    WINDOW,
    Close,
    Kind,
    Message,
    Packed,
    frame,
    pack,
    pieces,
    unpack,
    unpack_message,
)

T = TypeVar("T")

RECEIVE_SIZE = 262144
SEND_SIZE = 262144
OUT_LIMIT = 524288
COLLECT_LIMIT = 64 * 2**20
FLUSH_SECONDS = 1.0


class GuestInfo(msgspec.Struct, frozen=True):
    """What the guest says of itself when a connection begins."""

    version: int
    pid: int
    host: str
    kernel: str
    machine: str
    tags: list[str]


def checked(value: object, expected: type[T]) -> T:
    """Return a guest's value as the type that it must have. Raises DriverFault."""
    try:
        return msgspec.convert(value, expected)
    except msgspec.ValidationError as error:
        raise DriverFault(f"the guest agent sent a wrong answer: {error}") from None


class AgentStream:
    """The host's end of one verb in progress. Made by :meth:`AgentClient.stream`."""

    def __init__(self, client: AgentClient, sid: int) -> None:
        self._client = client
        self._sid = sid
        self._inbox: deque[tuple[Kind, bytes]] = deque()
        self._allowance = WINDOW
        self._owed = 0
        self._credit = WINDOW
        self._answer: Message | None = None
        self._end: Message | None = None
        self._error: AnvilError | None = None
        self._closed = False
        self._no_more = False
        self.input_closed = False
        self.changed = trio.lowlevel.ParkingLot()

    @property
    def ended(self) -> bool:
        """True when the verb has ended in the guest, or the connection has."""
        return self._end is not None or self._error is not None

    async def answer(self) -> Message:
        """Return the verb's first answer. Raises what the verb raised."""
        while self._answer is None and not self.ended:
            await self.changed.park()
        if self._answer is None:
            await self.end()
            raise DriverFault("the guest agent ended a verb without an answer")
        return self._answer

    async def end(self) -> Message:
        """Return the verb's result when it has ended. Raises what the verb raised."""
        while not self.ended:
            await self.changed.park()
        if self._end is None:
            assert self._error is not None
            raise type(self._error)(self._error.message)
        if "error" in self._end:
            raise error_from_code(str(self._end["error"]), str(self._end.get("message")))
        return self._end

    async def receive(self) -> tuple[Kind, bytes] | None:
        """Return the next chunk, or None at the end of them. Giving it away acknowledges the one before."""
        self.acknowledge(at_once=not self._inbox)
        while not self._inbox:
            if self.ended:
                await self.end()
                return None
            if self._no_more:
                await trio.lowlevel.checkpoint()
                return None
            await self.changed.park()
        kind, data = self._inbox.popleft()
        self._owed += len(data) + FRAME_COST
        return kind, data

    def acknowledge(self, *, at_once: bool) -> None:
        """Give the guest credit for what was taken, in large notes or ``at_once``."""
        if self._owed >= WINDOW // 4 or (at_once and self._owed):
            self._allowance += self._owed
            self._client.post(Kind.CREDIT, self._sid, struct.pack("<I", self._owed))
            self._owed = 0

    async def send(self, data: bytes) -> None:
        """Send data with back-pressure. Raises what the verb raised, and WrongState when it has ended."""
        for piece in pieces(data):
            cost = len(piece) + FRAME_COST
            while not self.ended and self._credit < cost:
                await self.changed.park()
            await self._client.room()
            if self.ended:
                await self.end()
                raise WrongState("the verb has ended and takes no more data")
            self._credit -= cost
            self._client.post(Kind.DATA, self._sid, piece)

    def send_eof(self) -> None:
        self._client.post(Kind.EOF, self._sid)

    def control(self, message: Packed) -> None:
        if not self.ended:
            self._client.post(Kind.CONTROL, self._sid, pack(message))

    def close(self, how: Close) -> None:
        """Let go of the stream. Closing twice is fine."""
        if not self._closed:
            self._closed = True
            self.acknowledge(at_once=True)
            self._client.post(Kind.CLOSE, self._sid, bytes([how]))
            self._client.forget(self._sid)
            self.break_with(WrongState("the stream has been closed"))

    # called by the client's reader

    def take(self, kind: Kind, payload: bytes) -> None:
        """Take a frame from the guest. Raises DriverFault when it breaks the rules."""
        if self._end is not None:
            raise DriverFault("the guest agent sent more after the end of a verb")
        if kind in (Kind.DATA, Kind.EXTRA):
            if self._no_more:
                raise DriverFault("the guest agent sent data after the end of them")
            self._allowance -= len(payload) + FRAME_COST
            if self._allowance < 0:
                raise DriverFault("the guest agent sent more than it had credit for")
            self._inbox.append((kind, payload))
        elif kind is Kind.CREDIT:
            if len(payload) != 4:
                raise DriverFault("the guest agent gave a malformed credit")
            self._credit += struct.unpack("<I", payload)[0]
            if self._credit > WINDOW:
                raise DriverFault("the guest agent gave more credit than was spent")
        elif kind is Kind.ANSWER:
            if self._answer is not None:
                raise DriverFault("the guest agent answered a verb twice")
            self._answer = unpack_message(payload)
        elif kind is Kind.EOF:
            self._no_more = True
        elif kind is Kind.END:
            self._end = unpack_message(payload)
        elif kind is Kind.CONTROL:
            if unpack_message(payload).get("stdin") == "closed":
                self.input_closed = True
        else:
            raise DriverFault(f"the guest agent sent a frame of the kind {kind.name}")
        self.changed.unpark_all()

    def break_with(self, error: AnvilError) -> None:
        if not self.ended:
            self._error = error
        self.changed.unpark_all()


class AgentClient:
    """A connection to a guest agent. Made by :func:`connect_agent`; its verbs may be called concurrently."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._buffer = bytearray()
        self._streams: dict[int, AgentStream] = {}
        self._last_sid = 0
        self._out: deque[bytes] = deque()
        self._out_size = 0
        self._writer = trio.lowlevel.ParkingLot()
        self._written = trio.lowlevel.ParkingLot()
        self.error: AnvilError | None = None
        self.info: GuestInfo

    # verbs

    @contextlib.contextmanager
    def stream(self, verb: str, **request: Packed) -> Iterator[AgentStream]:
        """Begin a verb; whatever has not ended when the block is left is undone in the guest."""
        stream = self.open(verb, **request)
        try:
            yield stream
        finally:
            stream.close(Close.UNDO)

    def open(self, verb: str, **request: Packed) -> AgentStream:
        """Begin a verb; the caller closes the stream. Raises DeviceLost."""
        if self.error is not None:
            raise type(self.error)(self.error.message)
        packed = pack({"verb": verb, **request})
        if len(packed) > REQUEST_LIMIT:
            raise InvalidArgument(f"the request for {verb} has {len(packed)} bytes; at most {REQUEST_LIMIT} are taken")
        self._last_sid += 1
        stream = self._streams[self._last_sid] = AgentStream(self, self._last_sid)
        *parts, last = pieces(packed)
        for part in parts:
            self.post(Kind.PART, self._last_sid, part)
        self.post(Kind.OPEN, self._last_sid, last)
        return stream

    async def call(self, verb: str, **request: Packed) -> Message:
        """Do a verb that has no data. Raises what the verb raises, DeviceLost, DriverFault."""
        with self.stream(verb, **request) as stream:
            return await stream.end()

    async def collect(self, verb: str, item: type[T], **request: Packed) -> list[T]:
        """Do a verb whose data is a list of items; at most 64 MiB of them."""
        found: list[T] = []
        size = 0
        with self.stream(verb, **request) as stream:
            while (received := await stream.receive()) is not None:
                size += len(received[1])
                if size > COLLECT_LIMIT:
                    raise ResourceExhausted(f"the answer to {verb} is longer than {COLLECT_LIMIT >> 20} MiB")
                found += checked(unpack(received[1]), list[item])  # type: ignore[valid-type]
        return found

    async def ping(self) -> None:
        """Return when the guest has answered."""
        await self.call("ping")

    async def memory(self) -> dict[str, int]:
        """Return the guest's own view of its memory: the lines of ``/proc/meminfo`` in bytes."""
        return checked((await self.call("memory")).get("memory"), dict[str, int])

    async def identify(
        self,
        *,
        entropy: bytes | None = None,
        time: int | None = None,
        hostname: str | None = None,
        machine_id: str | None = None,
        boot_id: str | None = None,
        generation: int | None = None,
        environment: dict[str, str] | None = None,
        user: str | None = None,
    ) -> dict[str, str]:
        """Make the guest one of its own after a fork; None leaves a part alone. ``time`` is Unix nanoseconds.

        ``environment`` and ``user`` become the defaults of processes. Returns what failed, with the reasons.
        """
        request: dict[str, Packed] = {
            "entropy": entropy,
            "time": time,
            "hostname": hostname,
            "machine_id": machine_id,
            "boot_id": boot_id,
            "generation": generation,
            "environment": environment,
            "user": user,
        }
        answer = await self.call("identity", **{key: value for key, value in request.items() if value is not None})
        return checked(answer.get("failed"), dict[str, str])

    # frames

    def post(self, kind: Kind, sid: int, payload: bytes | memoryview = b"") -> None:
        """Queue a frame; nothing is sent when the connection is gone."""
        if self.error is None:
            self._out.append(frame(kind, sid, payload))
            self._out_size += HEADER.size + len(payload)
            self._writer.unpark_all()

    async def room(self) -> None:
        """Wait until more data may be queued."""
        await trio.lowlevel.checkpoint()
        while self._out_size > OUT_LIMIT and self.error is None:
            await self._written.park()

    def forget(self, sid: int) -> None:
        self._streams.pop(sid, None)

    def lose(self, error: AnvilError) -> None:
        """The connection is over: every verb in progress ends with ``error``."""
        if self.error is None:
            self.error = error
        self._out.clear()
        self._out_size = 0
        for stream in self._streams.values():
            stream.break_with(self.error)
        self._streams.clear()
        self._written.unpark_all()
        self._writer.unpark_all()

    async def greet(self) -> None:
        """Find the beginning of the conversation in what the channel still holds of an older one."""
        nonce = os.urandom(NONCE_SIZE)
        beacon = MAGIC + bytes(NONCE_SIZE)
        await self._stream.send_all(MAGIC + nonce)
        while True:
            chunk = await self._stream.receive_some(RECEIVE_SIZE)
            if not chunk:
                raise DeviceLost("the guest agent closed the connection before it was ready")
            self._buffer += chunk
            found = self._buffer.find(MAGIC + nonce)
            if found >= 0:
                del self._buffer[: found + len(MAGIC) + NONCE_SIZE]
                return
            if beacon in self._buffer:
                await self._stream.send_all(MAGIC + nonce)
            del self._buffer[: -len(beacon) + 1]

    async def introduce(self) -> None:
        """Read what the guest says of itself."""
        while (first := self._next_frame()) is None:
            chunk = await self._stream.receive_some(RECEIVE_SIZE)
            if not chunk:
                raise DeviceLost("the guest agent closed the connection before it was ready")
            self._buffer += chunk
        kind, _, payload = first
        if kind is not Kind.INFO:
            raise DriverFault("the guest agent did not introduce itself")
        self.info = checked(unpack_message(payload), GuestInfo)
        if self.info.version != VERSION:
            raise DriverFault(
                f"the guest agent speaks version {self.info.version} of its protocol, this daemon {VERSION}: "
                "build the image anew"
            )

    def _next_frame(self) -> tuple[Kind, int, bytes] | None:
        if len(self._buffer) < HEADER.size:
            return None
        number, length, sid = HEADER.unpack_from(self._buffer)
        if length > PAYLOAD_LIMIT or not Kind.DATA <= number <= Kind.INFO:
            raise DriverFault("the guest agent sent what is no frame")
        end = HEADER.size + length
        if len(self._buffer) < end:
            return None
        payload = bytes(memoryview(self._buffer)[HEADER.size : end])
        del self._buffer[:end]
        return Kind(number), sid, payload

    async def read_frames(self) -> None:
        """Hand what comes to its streams until the connection ends."""
        try:
            while True:
                while (received := self._next_frame()) is not None:
                    kind, sid, payload = received
                    stream = self._streams.get(sid)
                    if stream is not None:
                        stream.take(kind, payload)
                chunk = await self._stream.receive_some(RECEIVE_SIZE)
                if not chunk:
                    raise DeviceLost("the guest agent has closed the connection")
                self._buffer += chunk
        except AnvilError as error:
            self.lose(error)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.lose(DeviceLost(f"the connection to the guest agent broke: {error}"))

    async def write_frames(self) -> None:
        """Send what is queued until the connection ends. A frame is never cut by a caller's cancellation."""
        try:
            while self.error is None:
                while not self._out and self.error is None:
                    await self._writer.park()
                batch: list[bytes] = []
                size = 0
                while self._out and size < SEND_SIZE:
                    batch.append(self._out.popleft())
                    size += len(batch[-1])
                await self._stream.send_all(b"".join(batch))
                self._out_size = max(0, self._out_size - size)
                self._written.unpark_all()
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.lose(DeviceLost(f"the connection to the guest agent broke: {error}"))

    async def flush(self) -> None:
        """Wait until all that is queued has been handed to the channel, and what readers have taken is told."""
        for stream in self._streams.values():
            stream.acknowledge(at_once=True)
        while self._out_size and self.error is None:
            await self._written.park()


@contextlib.asynccontextmanager
async def connect_agent(stream: trio.abc.Stream, *, deadline: float = 30.0) -> AsyncIterator[AgentClient]:
    """Shake hands with the guest agent at the other end of ``stream`` and serve the connection within the block.

    It returns as soon as the guest calls out. Leaving the block closes the stream: the guest ends processes without a
    tag. Raises Unavailable when the guest does not answer within ``deadline`` seconds, DeviceLost, DriverFault.
    """
    client = AgentClient(stream)
    failure: BaseException | None = None
    try:
        with trio.move_on_after(deadline) as patience:
            await client.greet()
            await client.introduce()
        if patience.cancelled_caught:
            raise Unavailable(f"the guest agent did not answer within {deadline:g} s")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.read_frames)
            nursery.start_soon(client.write_frames)
            try:
                yield client
            except BaseException as error:  # the caller's own error passes as it is, not as a group
                failure = error
            with trio.move_on_after(FLUSH_SECONDS, shield=True):
                await client.flush()
            client.lose(DeviceLost("the session with the guest agent has been closed"))
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
        if error is failure:
            raise
        raise DeviceLost(f"the connection to the guest agent broke: {error}") from error
    finally:
        client.lose(DeviceLost("the session with the guest agent has been closed"))
        await trio.aclose_forcefully(stream)
