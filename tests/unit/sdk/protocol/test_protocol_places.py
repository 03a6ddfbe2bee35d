"""The same driver in process, over memory and in a child process: the same results, and the same errors."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

import pytest
import trio

from anvild.sdk import (
    AnvilError,
    Command,
    DeviceLost,
    DeviceRequest,
    Driver,
    DriverFault,
    Exec,
    Files,
    InvalidArgument,
    Lease,
    Mend,
    Provision,
    Remedy,
    Screen,
    Sighting,
    Suspend,
    TerminalSize,
    Unavailable,
    run,
)

CHUNK = bytes(range(256)) * 400


async def outcome(call: Awaitable[Any]) -> Any:
    """What came of a call, in a form that can be compared. A defect of a driver is a DriverFault to its host."""
    try:
        result = await call
    except AnvilError as error:
        return error.code, error.message, error.details
    except Exception as error:
        if isinstance(error, ExceptionGroup):  # the daemon looks into groups of one
            return error.exceptions[0].code, str(error.exceptions[0]), error.exceptions[0].details  # type: ignore[attr-defined]
        return "driver_fault", f"{type(error).__name__}: {error}"
    return list(result) if isinstance(result, list | tuple) else result


async def chunks(count: int, then: Exception | None = None) -> AsyncGenerator[bytes, None]:
    for _ in range(count):
        yield CHUNK
    if then is not None:
        raise then


async def whole(stream: trio.abc.ReceiveStream) -> bytes:
    async with stream:
        return b"".join([bytes(data) async for data in stream])


async def exercise(driver: Driver, toy: ModuleType, lease: Lease) -> dict[str, Any]:
    """Everything that a driver can do, and everything that can go wrong with it."""
    seen: dict[str, Any] = {}
    driver_: Any = driver

    async def see(name: str, call: Awaitable[Any]) -> None:
        assert name not in seen
        seen[name] = await outcome(call)

    await see("start", driver.start())
    await see("describe", driver.describe())
    await see("recover", driver.recover("handle-toy-0"))
    await see("recover lost", driver.recover("handle-x"))
    await see("clean", driver.clean(toy.fact("toy-0")))
    await see("create", driver_.create(DeviceRequest(template="tin", name="T", identity="made", labels={"a": "b"})))
    await see("create nothing", driver_.create(DeviceRequest(template="gold", name="T", identity="made")))
    await see("templates", driver_.templates())
    await see("remedies", driver_.remedies("toy-0"))
    await see("mend", driver_.mend("toy-0", Remedy.RECONNECT))
    lines: list[str] = []

    async def line(text: str) -> None:
        lines.append(text)

    await see("build", driver_.build_image("tin", line, rebuild=True))
    seen["lines"] = list(lines)
    seen["isinstance"] = [isinstance(driver, kind) for kind in (Provision, Mend, Suspend)]

    async def opening() -> None:
        async with driver.open(toy.fact("gone"), lease):
            raise AssertionError("it opened")

    await see("open a lost device", opening())

    async with driver.open(toy.fact("toy-0"), lease) as session:
        seen["device"] = session.device
        files, programs, toys = session.require(Files), session.require(Exec), session.require(toy.Blink)
        try:
            session.require(Screen)
        except AnvilError as error:
            seen["undeclared"] = (error.code, error.message)

        async def write(path: str, source: AsyncGenerator[bytes, None], **options: Any) -> int:
            async with aclosing(source):
                return await files.write(path, source, **options)

        await see("write", write("/big", chunks(7), mode=0o600))
        await see("read", whole(await files.read("/big")))
        await see("read nothing", files.read("/nothing"))
        await see("list", files.list("/"))
        await see("list many", files.list("/many", depth=500))
        await see("an odd name", files.stat(toy.ODD_NAME))
        await see("an odd name that is not there", files.stat("/\udcff"))
        await see("mkdir", files.mkdir("/d", user="root"))
        await see("remove", files.remove("/big"))
        await see("write to a directory", write("/", chunks(3)))
        await see("write until it is full", write("/full", chunks(50)))
        await see("write from a broken source", write("/b", chunks(2, KeyError("mine"))))
        await see("write from a lost source", write("/b", chunks(2, DeviceLost("another device", other=1))))
        await see("what is left", files.list("/"))
        await see("an error in a stream", whole(await files.read("/endless-2")))
        await see("processes", programs.processes())
        await see("kill", programs.kill(3))
        await see("attach", programs.attach("tag", replay=True))
        await see("no program", programs.start(Command(argv=("rm",))))
        await see("echo", run(programs, Command(argv=("echo", "a", "b", "c"))))
        await see("cat", run(programs, Command(argv=("cat",)), stdin=CHUNK))
        await see("flood", run(programs, Command(argv=("flood", "3000000")), limit=1000))
        await see("crash", run(programs, Command(argv=("crash",))))
        async with await programs.start(Command(argv=("sleep",), tag="t")) as process:
            seen["process"] = (process.pid, process.tag)
            await see("send", process.send(b"data"))
            await see("resize", process.resize(TerminalSize(columns=100)))
            await see("signal", process.signal(15))
            await see("wait", process.wait())
            await see("wait again", process.wait())
        async with await programs.start(Command(argv=("cat",), stdin=True)) as process:
            await see("close", process.close_stdin())
            await see("send to what is closed", process.send(b"data"))
        async with await programs.start(Command(argv=("sleep",), terminal=TerminalSize())) as process:
            await see("resize a terminal", process.resize(TerminalSize(columns=132)))
            await process.signal(0)
        await see("sample", session.sample())  # type: ignore[attr-defined]
        await see("reverse", session.reverse_port(0, 5))  # type: ignore[attr-defined]
        await see("no port", session.connect_port(1))  # type: ignore[attr-defined]
        async with await session.connect_port(2) as broken:  # type: ignore[attr-defined]
            with pytest.raises(trio.BrokenResourceError, match="it was reset"):
                await broken.receive_some()
        async with await session.connect_port(80) as stream:  # type: ignore[attr-defined]
            await stream.send_all(CHUNK)
            answered = b""
            while len(answered) < len(CHUNK):
                answered += await stream.receive_some()
            seen["port"] = answered
        since = datetime(2026, 1, 1, 12, tzinfo=UTC)
        await see("reports", session.crash_reports(since=since))  # type: ignore[attr-defined]
        await see("blink", toys.blink(2))
        await see("blink blue", toys.blink(1, colour="blue", pause=0.5))
        for how in ("bug", "group", "lose"):
            await see(how, toys.fail(how))
        numbers: list[int] = []

        async def number(value: int) -> None:
            numbers.append(value)
            if value == 70:
                raise InvalidArgument("enough", at=value)
            if value == 80:
                raise LookupError("a bug of the host")

        await see("count", toys.count(60, number))
        await see("count too far", toys.count(75, number))
        seen["numbers"] = list(numbers)

    async def vanishing() -> None:
        async with driver.open(toy.fact("toy-0"), lease) as session:
            await session.require(toy.Blink).fail("vanish")
            await trio.sleep_forever()

    await see("a session that ends by itself", vanishing())
    seen["sightings"] = sightings = []

    async def report(sighting: Sighting) -> None:
        sightings.append(sighting)
        if len(sightings) == 1:
            raise InvalidArgument("this one lies")
        if len(sightings) == len(driver_devices):
            scope.cancel()

    driver_devices = ["toy-0", "toy-1", "toy-2", "made"]
    with trio.CancelScope() as scope:
        await driver.watch(report)
    await see("destroy", driver_.destroy("made"))
    await see("stop", driver.stop())
    return seen


@pytest.mark.parametrize("place", ["over_memory", "over_stdio"])
async def test_a_driver_elsewhere_behaves_as_one_that_is_here(
    place: str, in_process: Any, toy: ModuleType, lease: Lease, heard: Any, request: pytest.FixtureRequest
) -> None:
    elsewhere = request.getfixturevalue(place)
    async with in_process(devices=3) as driver:
        expected = await exercise(driver, toy, lease)
    async with elsewhere(devices=3) as driver:
        found = await exercise(driver, toy, lease)
        await trio.testing.wait_all_tasks_blocked()
        left = driver.statistics()
    what, message, details = found.pop("bug")
    assert (what, expected.pop("bug")) == ("driver_fault", ("driver_fault", "ZeroDivisionError: a bug in a verb"))
    assert message == "the driver 'toy' failed in blink.fail with ZeroDivisionError: a bug in a verb"
    assert details == {"driver": "toy"}
    assert found == expected
    assert (left.sessions, left.requests, left.abandoned, left.buffered, left.unsent) == (0, 0, 0, 0, 0)
    assert left.streams == 1  # the channel of its log
    assert [line.event for line in heard.lines] == ["toy_started", "driver_fault"]
    assert "ZeroDivisionError" in heard.lines[1].values["traceback"]


@pytest.mark.parametrize("place", ["in_process", "over_memory"])
async def test_errors_of_life(place: str, toy: ModuleType, request: pytest.FixtureRequest) -> None:
    make: Callable[..., Any] = request.getfixturevalue(place)

    async def report(sighting: Sighting) -> None: ...

    async with make(fail="start") as driver:
        assert await outcome(driver.start()) == ("unavailable", "there is no ground to work on", {})
    async with make(fail="watch") as driver:
        assert await outcome(driver.watch(report)) == ("unavailable", "the bus has gone", {})
    async with make(fail="return") as driver:
        assert await outcome(driver.watch(report)) is None


async def test_a_driver_that_cannot_be_made(over_memory: Any) -> None:
    with pytest.raises(DriverFault, match="ZeroDivisionError: a bug in the constructor"):
        async with over_memory(fail="init"):
            raise AssertionError("it was made")
    with pytest.raises(InvalidArgument, match="Expected `int`, got `str`"):
        async with over_memory(devices="many"):
            raise AssertionError("it was made")


async def test_a_child_that_dies_is_gone(over_stdio: Any, toy: ModuleType, lease: Lease, start_child: Any) -> None:
    async with over_stdio() as driver:
        reason: list[AnvilError] = []
        async with driver.open(toy.fact("toy-0"), lease) as session, trio.open_nursery() as nursery:

            async def hang() -> None:
                try:
                    await session.require(toy.Blink).fail("hang")
                except AnvilError as error:
                    reason.append(error)

            async def report(sighting: Sighting) -> None: ...

            async def watch() -> None:
                try:
                    await driver.watch(report)
                except AnvilError as error:
                    reason.append(error)

            nursery.start_soon(hang)
            nursery.start_soon(watch)
            process = await session.require(Exec).start(Command(argv=("sleep",)))
            stream = await session.require(Files).read("/endless-100")
            assert await stream.receive_some()
            driver._peer._transport._send.close()  # type: ignore[attr-defined]  # its standard input ends
        assert await driver.wait_closed()
        assert [type(error) for error in reason] == [Unavailable, Unavailable]
        assert "the driver 'toy' is gone" in reason[0].message
        with pytest.raises(Unavailable):
            await whole(stream)
        with pytest.raises(Unavailable):
            await process.wait()
        await process.aclose()
        with pytest.raises(Unavailable):
            await driver.ping()
        assert driver.statistics().requests == 0
