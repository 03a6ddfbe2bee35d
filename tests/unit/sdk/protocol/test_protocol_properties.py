"""What holds for all messages, all credits and all interleavings."""

from __future__ import annotations

import json
from contextlib import suppress
from types import ModuleType
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from anvild.sdk import DeadlineExceeded, Lease
from anvild.sdk.protocol import Initialize, connect_driver, memory_transports, serve_driver
from anvild.sdk.protocol.codec import Malformed, decode_envelope, encode
from anvild.sdk.protocol.frames import MAX_MESSAGE, Deframer, FramingLost, envelope, stream_frame, unpack_frame
from anvild.sdk.protocol.peer import Peer
from anvild.sdk.protocol.streams import Inlet, Outlet

messages = st.one_of(st.text(st.characters(exclude_categories=["Cs"])), st.binary())
SMALL = settings(max_examples=60, deadline=None)


@SMALL
@given(st.lists(messages), st.lists(st.integers(1, 50), min_size=1))
def test_messages_come_out_as_they_went_in_however_they_are_cut(sent: list[str | bytes], cuts: list[int]) -> None:
    wire = b"".join(map(envelope, sent))
    deframer = Deframer(MAX_MESSAGE)
    received: list[str | bytes] = []
    at = turn = 0
    while at < len(wire):
        size = cuts[turn % len(cuts)]
        deframer.feed(wire[at : at + size])
        at, turn = at + size, turn + 1
        while (message := deframer.take()) is not None:
            received.append(message)
    assert received == sent
    assert not deframer.inside


@SMALL
@given(st.integers(101, 2**32 - 1), st.sampled_from([0, 1]))
def test_a_message_that_is_too_long_is_not_even_read(length: int, kind: int) -> None:
    deframer = Deframer(100)
    deframer.feed(length.to_bytes(4, "big") + bytes([kind]))
    with pytest.raises(FramingLost, match="100 are allowed"):
        deframer.take()


@SMALL
@given(st.binary(min_size=5).filter(lambda data: data[4] > 1))
def test_what_is_no_message_is_found_out(data: bytes) -> None:
    deframer = Deframer(MAX_MESSAGE)
    deframer.feed(data)
    with pytest.raises(FramingLost, match="something else"):
        deframer.take()


@SMALL
@given(st.integers(1, 2**32 - 1), st.integers(0, 255), st.binary())
def test_frames(stream: int, channel: int, data: bytes) -> None:
    assert unpack_frame(stream_frame(stream, channel, data)) == (stream, channel, data)


@SMALL
@given(st.binary(max_size=4))
def test_short_frames(data: bytes) -> None:
    assert unpack_frame(data) is None


@SMALL
@given(st.one_of(st.text(), st.recursive(st.none() | st.text(), lambda inner: st.lists(inner) | st.tuples(inner))))
def test_a_text_that_is_no_message_is_malformed_and_nothing_worse(value: object) -> None:
    text = value if isinstance(value, str) else json.dumps(value)
    with pytest.raises(Malformed):
        decode_envelope(text)


@SMALL
@given(st.text(st.characters()))
def test_any_text_that_python_can_hold_crosses(text: str) -> None:
    message = decode_envelope(encode({"id": 1, "result": text}))
    result = message.result
    assert (result if isinstance(result, str) else json.loads(bytes(result))) == text  # type: ignore[arg-type]


@SMALL
@given(
    st.lists(st.binary(min_size=1, max_size=200_000), max_size=8),
    st.lists(st.integers(1, 100_000), min_size=1, max_size=5),
    st.sampled_from([1, 1000, 65536, 262144]),
)
def test_a_stream_arrives_whole_and_within_its_credit(chunks: list[bytes], reads: list[int], window: int) -> None:
    async def main() -> None:
        here, there = memory_transports()
        sender = Peer(here, first_id=2, other="the host", on_request=lambda *_: None)
        receiver = Peer(there, first_id=1, other="the driver", on_request=lambda *_: None)
        outlet: Outlet = sender.new_outlet(window)
        inlet: Inlet = receiver.their_inlet(outlet.stream, window)
        received = b""

        async def send() -> None:
            for chunk in chunks:
                await outlet.send(chunk)
            outlet.end()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender.run)
            nursery.start_soon(receiver.run)
            nursery.start_soon(send)
            turn = 0
            # A sender that was given less than a quarter of a window is given more only when that was taken.
            while len(received) < min(sum(map(len, chunks)), window if window < 65536 else 2**40):
                data = await inlet.receive(reads[turn % len(reads)])
                assert data is not None
                received += data[1]
                turn += 1
            nursery.cancel_scope.cancel()
        assert b"".join(chunks).startswith(received)
        assert receiver.counts.peak_buffered <= window
        assert receiver.counts.faults == sender.counts.faults == 0
        assert receiver.counts.buffered == 0 or not received

    trio.run(main)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["fail", "hang", "slow", "count", "read", "write", "start", "session"]),
            st.sampled_from([0.0, 0.1, 0.5, 0.6, 1.0, 6.0]),
            st.integers(0, 3),
        ),
        max_size=8,
    )
)
def test_no_interleaving_of_cancellations_and_answers_leaves_anything(toy: ModuleType, work: list[Any]) -> None:
    async def one(driver: Any, session: Any, what: str, patience: float, size: int) -> None:
        with trio.move_on_after(patience):
            match what:
                case "count":

                    async def report(number: int) -> None:
                        await trio.sleep(0.05 * size)

                    await session.count(30, report)
                case "read":
                    async with await session.read(f"/endless-{size + 1}") as stream:
                        for _ in range(size):
                            await stream.receive_some(1000)
                            await trio.sleep(0.2)
                case "write":
                    await session.write("/x", _source(size))
                case "start":
                    async with await session.start(toy.Command(argv=("flood", "1000000"))) as process:
                        async for _ in process:
                            await trio.sleep(0.1 * size)
                case "session":
                    async with driver.open(toy.fact("toy-0"), LEASE) as another:
                        await another.fail("hang" if size else "fine")
                case _:
                    await session.fail(what)

    async def main() -> None:
        here, there = memory_transports()
        made: list[Any] = []

        def make(context: Any) -> Any:
            made.append(toy.ToyDriver(context))
            return made[0]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_driver, make, toy.ToyDriver, there)
            async with connect_driver(here, Initialize(host="h")) as driver:
                async with driver.open(toy.fact("toy-0"), LEASE) as session, trio.open_nursery() as working:
                    for each in work:
                        working.start_soon(_quietly, one, driver, session, *each)
                await trio.sleep(1)
                left = driver.statistics()
                assert (left.sessions, left.requests, left.abandoned, left.streams) == (0, 0, 0, 0)
                assert (left.buffered, left.unsent, left.faults) == (0, 0, 0)
                assert made[0].open_sessions == 0
                tasks = nursery.child_tasks
                assert len(tasks) == 1

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


LEASE = Lease(lease_id="l", fence=1, holder="h")


async def _source(size: int) -> Any:
    for _ in range(4):
        yield bytes(200_000)
        await trio.sleep(0.1 * size)


async def _quietly(function: Any, *args: Any) -> None:
    """A verb of this driver that hangs is ended by its own deadline."""
    with suppress(DeadlineExceeded):
        await function(*args)
