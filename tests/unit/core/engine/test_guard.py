"""The guard before a session, driven with a session that misbehaves."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from anvild.core.engine.guard import Fences, Guard, guarded
from anvild.sdk import (
    Capability,
    CapabilityMissing,
    Command,
    DeadlineExceeded,
    DeviceFact,
    DeviceStatus,
    DriverFault,
    Exec,
    Measure,
    NotFound,
    Output,
    Ports,
    Process,
    ProcessInfo,
    Sample,
    Session,
    StaleLease,
    Stream,
    verb,
)

FACT = DeviceFact(
    identity="d1", platform="fake", name="Device 1", status=DeviceStatus.READY, capabilities=("exec", "shake")
)


class Shake(Capability):
    """A capability of a stranger's."""

    capability = "shake"

    @verb(deadline=1)
    async def shake(self, times: int) -> int:
        raise NotImplementedError


class Steps(Process):
    pid = 7
    tag = None

    def __init__(self) -> None:
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[Output]:
        for letter in b"abc":
            yield Output(stream=Stream.STDOUT, data=bytes([letter]))

    async def wait(self) -> Any:
        raise KeyError("a bug")

    async def send(self, data: bytes) -> None: ...

    async def close_stdin(self) -> None: ...

    async def signal(self, number: int) -> None: ...

    async def resize(self, size: Any) -> None: ...

    async def aclose(self) -> None:
        self.closed = True


class Rough(Session, Exec, Measure, Shake):
    device = FACT

    def __init__(self) -> None:
        self.process = Steps()

    async def start(self, command: Command) -> Process:
        if command.argv[0] == "group":
            async with trio.open_nursery():
                raise NotFound("in a nursery")
        if command.argv[0] == "hang":
            await trio.sleep(math.inf)
        return self.process

    async def attach(self, tag: str, *, replay: bool = False) -> Process:
        raise NotFound(f"no {tag}")

    async def processes(self) -> Sequence[ProcessInfo]:
        raise ValueError("a bug")

    async def kill(self, pid: int, number: int = 9) -> None: ...

    async def sample(self) -> Sample:
        raise AssertionError("the driver must not be called")

    async def shake(self, times: int) -> int:
        await trio.sleep(times)
        return times


class Bench:
    def __init__(self) -> None:
        self.faults: list[str] = []
        self.fences = Fences()
        self.fences.set("id-1", 3)
        self.rough = Rough()
        guard = Guard(device="Device 1", device_id="id-1", fence=3, fences=self.fences, fault=self.fault)
        self.session = guarded(self.rough, guard, frozenset(FACT.capabilities))

    def fault(self, what: str, error: BaseException) -> DriverFault:
        self.faults.append(what)
        return DriverFault(f"{what}: {error!r}")


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_only_what_is_declared_is_there(bench: Bench) -> None:
    assert isinstance(bench.session, Exec)
    assert not isinstance(bench.session, Measure)
    with pytest.raises(CapabilityMissing):
        bench.session.require(Measure)
    assert bench.session.require(Shake) is bench.session
    assert bench.session.device == FACT


async def test_errors_of_the_interface_pass_and_others_are_faults(bench: Bench) -> None:
    session = bench.session.require(Exec)
    with pytest.raises(NotFound, match="no x"):
        await session.attach("x")
    with pytest.raises(NotFound, match="in a nursery"):
        await session.start(Command(argv=("group",)))
    assert bench.faults == []
    with pytest.raises(DriverFault, match=r"exec\.processes: ValueError"):
        await session.processes()
    process = await session.start(Command(argv=("x",)))
    with pytest.raises(DriverFault):
        await process.wait()
    assert bench.faults == ["exec.processes", "process.wait"]


async def test_a_verb_ends_at_its_deadline_and_by_cancellation(bench: Bench, autojump_clock: MockClock) -> None:
    with pytest.raises(DeadlineExceeded, match=r"exec\.start did not end within 30 s"):
        await bench.session.require(Exec).start(Command(argv=("hang",)))
    assert trio.current_time() == pytest.approx(30)
    assert await bench.session.require(Shake).shake(0) == 0
    with pytest.raises(DeadlineExceeded):
        await bench.session.require(Shake).shake(2)
    with trio.move_on_after(1) as scope:
        await bench.session.require(Exec).start(Command(argv=("hang",)))
    assert scope.cancelled_caught
    assert bench.faults == []


async def test_an_ended_lease_stops_everything_that_it_gave(bench: Bench) -> None:
    session = bench.session.require(Exec)
    process = await session.start(Command(argv=("x",)))
    output = aiter(process)
    assert [(await anext(output)).data, (await anext(output)).data] == [b"a", b"b"]
    bench.fences.set("id-1", 4)
    with pytest.raises(StaleLease):
        await anext(output)
    for call in (session.processes, process.wait, process.close_stdin):
        with pytest.raises(StaleLease):
            await call()
    await process.aclose()
    assert bench.rough.process.closed
    bench.fences.end("id-1", 3)
    assert bench.fences.holds("id-1", 4)


async def test_output_comes_through_to_its_end(bench: Bench) -> None:
    async with await bench.session.require(Exec).start(Command(argv=("x",))) as process:
        assert [chunk.data async for chunk in process] == [b"a", b"b", b"c"]
        assert (process.pid, process.tag) == (7, None)
    assert bench.faults == []


async def test_a_connection_goes_both_ways_until_the_lease_ends() -> None:
    """What a verb returns as a stream both ways keeps its sending half, and ends with the lease."""
    ours, theirs = trio.testing.memory_stream_pair()
    abandoned, gone = trio.testing.memory_stream_pair()
    await gone.aclose()
    fences = Fences()
    fences.set("id-1", 3)

    class Connected(Rough, Ports):
        async def connect_port(self, port: int) -> trio.abc.Stream:
            return ours if port == 80 else abandoned

    faults: list[str] = []

    def fault(what: str, error: BaseException) -> DriverFault:
        faults.append(what)
        return DriverFault(f"{what}: {error!r}")

    guard = Guard(device="Device 1", device_id="id-1", fence=3, fences=fences, fault=fault)
    connected = guarded(Connected(), guard, ["ports"]).require(Ports)
    stream = await connected.connect_port(80)
    await stream.send_all(b"to the device")
    assert await theirs.receive_some() == b"to the device"
    await theirs.send_all(b"from it")
    assert await stream.receive_some() == b"from it"
    assert isinstance(stream, trio.abc.HalfCloseableStream)
    await stream.send_eof()
    assert await theirs.receive_some() == b""
    broken = await connected.connect_port(81)
    with pytest.raises(trio.BrokenResourceError):  # which is no fault of the driver
        await broken.send_all(b"to nobody")
    await abandoned.aclose()
    with pytest.raises(trio.ClosedResourceError):  # nor is it that the driver has ended it
        await broken.receive_some()
    fences.end("id-1", 3)
    with pytest.raises(StaleLease):
        await stream.receive_some()
    await stream.aclose()
    assert faults == []
