"""The monitor's protocol, against a QEMU that the test plays."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from anvild.sdk import DeadlineExceeded, DeviceLost, DriverFault
from anvild.sdk.sockets import connect_unix
from anvild_microvm.qmp import Qmp, QmpError

GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 22}}, "capabilities": []}}


class Peer:
    """The other end: what QEMU would say."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.pending = b""

    async def say(self, *messages: object) -> None:
        await self.stream.send_all(b"".join(json.dumps(message).encode() + b"\r\n" for message in messages))

    async def hear(self) -> dict[str, object]:
        while b"\n" not in self.pending:
            chunk = await self.stream.receive_some()
            assert chunk, "the client has gone"
            self.pending += chunk
        line, _, self.pending = self.pending.partition(b"\n")
        heard: dict[str, object] = json.loads(line)
        return heard


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Qmp, Peer, Callable[[], None]]]:
    ours, theirs = trio.socket.socketpair()
    qmp, peer = Qmp(trio.SocketStream(ours)), Peer(trio.SocketStream(theirs))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(negotiate, peer)
        await nursery.start(qmp.run)
        yield qmp, peer, nursery.cancel_scope.cancel
        nursery.cancel_scope.cancel()
    theirs.close()


async def negotiate(peer: Peer) -> None:
    await peer.say(GREETING)
    heard = await peer.hear()
    assert heard["execute"] == "qmp_capabilities"
    await peer.say({"return": {}, "id": heard["id"]})


async def test_answers_find_their_commands_in_any_order(pair: tuple[Qmp, Peer, object]) -> None:
    qmp, peer, _ = pair
    answers: dict[str, object] = {}

    async def ask(command: str) -> None:
        answers[command] = await qmp.query(dict[str, int], command, some_name=1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, "first")
        one = await peer.hear()
        nursery.start_soon(ask, "second")
        two = await peer.hear()
        assert one["arguments"] == {"some-name": 1}
        await peer.say({"return": {"n": 2}, "id": two["id"]}, {"return": {"n": 1}, "id": one["id"]})
    assert answers == {"first": {"n": 1}, "second": {"n": 2}}


async def test_a_refusal_is_an_error_with_its_words(pair: tuple[Qmp, Peer, object]) -> None:
    qmp, peer, _ = pair
    async with trio.open_nursery() as nursery:

        async def refuse() -> None:
            heard = await peer.hear()
            await peer.say({"error": {"class": "GenericError", "desc": "no such device"}, "id": heard["id"]})

        nursery.start_soon(refuse)
        with pytest.raises(QmpError, match="QEMU refused stop: no such device"):
            await qmp.execute("stop")


async def test_an_answer_of_another_form_is_a_fault(pair: tuple[Qmp, Peer, object]) -> None:
    qmp, peer, _ = pair
    async with trio.open_nursery() as nursery:

        async def answer() -> None:
            heard = await peer.hear()
            await peer.say({"return": ["nothing"], "id": heard["id"]})

        nursery.start_soon(answer)
        with pytest.raises(DriverFault, match="unknown form"):
            await qmp.query(dict[str, int], "query-status")


async def test_a_listener_gets_its_events_and_the_end(pair: tuple[Qmp, Peer, object]) -> None:
    qmp, peer, _ = pair
    heard = []
    with qmp.listen("STOP", "RESUME") as events:
        await peer.say(*({"event": name, "data": {"n": n}} for n, name in enumerate(("STOP", "OTHER", "RESUME"))))
        await peer.stream.aclose()
        async for event in events:
            heard.append((event.event, event.data["n"]))
    assert heard == [("STOP", 0), ("RESUME", 2)]


async def test_whoever_waits_hears_of_the_end(pair: tuple[Qmp, Peer, object]) -> None:
    qmp, peer, _ = pair
    async with trio.open_nursery() as nursery:

        async def leave() -> None:
            await peer.hear()
            await peer.stream.aclose()

        nursery.start_soon(leave)
        with pytest.raises(DeviceLost, match="went away during query-status"):
            await qmp.execute("query-status")
    with pytest.raises(DeviceLost, match="has ended"):
        await qmp.execute("query-status")


async def test_garbage_ends_the_connection(pair: tuple[Qmp, Peer, object]) -> None:
    qmp, peer, _ = pair
    async with trio.open_nursery() as nursery:

        async def babble() -> None:
            await peer.hear()
            await peer.stream.send_all(b'{"return": nonsense}\n')

        nursery.start_soon(babble)
        with pytest.raises(DeviceLost):
            await qmp.execute("stop")


async def test_a_silent_qemu_meets_the_deadline(
    pair: tuple[Qmp, Peer, object], autojump_clock: trio.testing.MockClock
) -> None:
    qmp, peer, _ = pair
    with pytest.raises(DeadlineExceeded, match="did not answer stop within 7 s"):
        await qmp.execute("stop", deadline=7)
    late = await peer.hear()
    await peer.say({"return": {}, "id": late["id"]})  # nobody waits for it any more
    async with trio.open_nursery() as nursery:

        async def answer() -> None:
            heard = await peer.hear()
            await peer.say({"return": {}, "id": heard["id"]})

        nursery.start_soon(answer)
        await qmp.execute("cont")


async def test_a_descriptor_goes_along(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 80) / "monitor.sock"  # longer than an address can hold
    path.parent.mkdir()
    folder = os.open(path.parent, os.O_PATH)
    listener = trio.socket.socket(socket.AF_UNIX)
    await listener.bind(f"/proc/self/fd/{folder}/{path.name}")
    os.close(folder)
    listener.listen()
    qmp = Qmp(await connect_unix(path))
    accepted, _ = await listener.accept()
    peer = Peer(trio.SocketStream(accepted))
    content = tmp_path / "content"
    content.write_bytes(b"state")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(negotiate, peer)
        await nursery.start(qmp.run)

        async def take() -> None:
            data, ancillary, *_ = await accepted.recvmsg(4096, socket.CMSG_SPACE(4))
            ((_, _, raw),) = ancillary
            descriptor = int.from_bytes(raw, "little")
            assert os.pread(descriptor, 10, 0) == b"state"
            os.close(descriptor)
            await peer.say({"return": {}, "id": json.loads(data)["id"]})

        nursery.start_soon(take)
        with content.open("rb") as file:
            await qmp.execute("getfd", fd=file.fileno(), fdname="state")
        nursery.cancel_scope.cancel()
    accepted.close()
    listener.close()
