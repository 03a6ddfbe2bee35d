"""Cancellation, deadlines, slow readers, and drivers that break the rules."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import pytest
import trio
import trio.testing

from anvild.sdk import (
    Command,
    DeadlineExceeded,
    DeviceLost,
    DriverFault,
    Exec,
    Exit,
    Files,
    InvalidArgument,
    Lease,
    Measure,
    Process,
    ResourceExhausted,
    Sample,
    Unavailable,
    WrongState,
)
from anvild.sdk.protocol import Initialize, connect_driver, memory_transports, serve_driver
from anvild.sdk.protocol.frames import ITEM_WINDOW, WINDOW
from anvild.sdk.protocol.methods import Scope, methods_of


@asynccontextmanager
async def session_of(driver: Any, toy: ModuleType, lease: Lease, device: str = "toy-0") -> Any:
    async with driver.open(toy.fact(device), lease) as session:
        yield session


async def drained(stream: trio.abc.ReceiveStream) -> tuple[int, Exception | None]:
    """How much came, and what ended it."""
    size = 0
    try:
        async for data in stream:
            size += len(data)
    except Exception as error:
        return size, error
    return size, None


# ----- cancellation and deadlines


async def test_cancelling_a_call_cancels_the_verb_and_waits_for_it(
    over_memory: Any, toy: ModuleType, lease: Lease, autojump_clock: trio.testing.MockClock
) -> None:
    async with over_memory() as driver, session_of(driver, toy, lease) as session:
        began = trio.current_time()
        with trio.move_on_after(3) as scope:
            await session.fail("hang")
        assert scope.cancelled_caught
        assert trio.current_time() - began == pytest.approx(3)
        with trio.move_on_after(0.1) as scope:
            assert await session.fail("slow") == 0  # it ended well all the same, half a second later
        assert not scope.cancelled_caught
        assert trio.current_time() - began == pytest.approx(3.5)
        assert driver.statistics().requests == 0
        assert driver.statistics().faults == 0


async def test_a_verb_that_ignores_its_cancellation_is_given_up(
    over_memory: Any, toy: ModuleType, lease: Lease, heard: Any, autojump_clock: trio.testing.MockClock
) -> None:
    async with over_memory() as driver, session_of(driver, toy, lease) as session:
        began = trio.current_time()
        with trio.move_on_after(1) as scope:
            await session.fail("deaf")
        assert scope.cancelled_caught
        assert trio.current_time() - began == pytest.approx(3)
        assert [str(fault) for fault in heard.faults] == [
            "the driver 'toy' did not end 'blink.fail' within 2 s of its cancellation"
        ]
        assert driver.statistics().abandoned == 1
        await trio.sleep(30)
        assert driver.statistics().abandoned == 0  # its answer has come


async def test_the_deadline_of_a_verb(
    over_memory: Any, toy: ModuleType, lease: Lease, heard: Any, autojump_clock: trio.testing.MockClock
) -> None:
    async with over_memory() as driver, session_of(driver, toy, lease) as session:
        with pytest.raises(DeadlineExceeded, match=r"blink\.fail did not end within 5 s"):
            await session.fail("hang")
        with trio.move_on_after(90) as scope:  # the caller's own deadline counts, and is the caller's
            await session.fail("hang")
        assert scope.cancelled_caught
    sent = [json.loads(m)["params"]["deadline"] for way, m in heard.traffic if way == "sent" and "hang" in m]
    assert sent == [5, 90]


async def test_a_driver_keeps_to_a_deadline_by_itself(
    wire_to_toy: Any, toy: ModuleType, autojump_clock: trio.testing.MockClock
) -> None:
    async with wire_to_toy() as wire:
        await wire.ask(1, "initialize", protocol="1.0", host="h")
        device = {"identity": "toy-0", "platform": "toy", "name": "Toy", "status": "ready"}
        lease = {"lease_id": "l", "fence": 1, "holder": "h"}
        opened = await wire.ask(3, "session.open", device=device, lease=lease)
        session = opened["result"]["session"]
        began = trio.current_time()
        answer = await wire.ask(5, "blink.fail", session=session, how="hang", deadline=4)
        assert answer["error"]["data"]["code"] == "deadline_exceeded"
        assert trio.current_time() - began == pytest.approx(5)
        await wire.send({"id": 7, "method": "blink.fail", "params": {"session": session, "how": "hang"}})
        await wire.send({"method": "cancel", "params": {"id": 7}})
        assert (await wire.receive())["error"]["code"] == -32800


async def test_a_process_that_came_too_late_is_ended(
    by_hand: Any, toy: ModuleType, lease: Lease, autojump_clock: trio.testing.MockClock
) -> None:
    ended = trio.Event()

    async def script(wire: Any) -> None:
        await wire.open_session("exec")
        started = await wire.expect("exec.start")
        cancel = await wire.expect("cancel")
        assert cancel["params"] == {"id": started["id"]}
        begun.set()
        close = await wire.expect("session.close")  # the caller has given up by now
        await wire.answer(started, {"process": 9, "pid": 1, "tag": None, "output": 2})
        messages = [await wire.receive(), await wire.receive()]
        assert sorted(message["method"] for message in messages) == ["drop", "process.aclose"]
        await wire.answer(close, None)
        ended.set()

    begun = trio.Event()
    async with by_hand(script) as driver:
        async with session_of(driver, toy, lease) as session, trio.open_nursery() as nursery:
            nursery.start_soon(session.start, Command(argv=("x",)))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await ended.wait()


# ----- streams


async def test_a_slow_reader_holds_up_nobody_else(over_memory: Any, toy: ModuleType, lease: Lease) -> None:
    async with over_memory() as driver, session_of(driver, toy, lease) as session:
        files = session.require(Files)
        idle = [await files.read("/endless-32") for _ in range(3)]
        async with await files.read("/endless-32") as stream:
            size, error = await drained(stream)
        assert (size, type(error)) == (32 * 2**20, DeviceLost)
        assert await session.require(Measure).sample() == Sample(at=toy.AT, cpu=12.5, memory=2**40, disk=0)
        assert driver.statistics().peak_buffered <= 4 * WINDOW
        assert driver.statistics().peak_unsent <= 2 * WINDOW
        for each in idle:
            await each.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await idle[0].receive_some()
        await driver.ping()
        assert driver.statistics().buffered == 0


async def test_a_source_waits_for_a_slow_driver(by_hand: Any, toy: ModuleType, lease: Lease) -> None:
    async def script(wire: Any) -> None:
        await wire.open_session("files")
        write = await wire.expect("files.write")
        stream = write["params"]["source"]
        size = 0
        while size < WINDOW:
            size += len(await wire.receive()) - 5
        await trio.testing.wait_all_tasks_blocked()
        assert taken < 4 * WINDOW  # what is in the source stays there
        await wire.send({"method": "drop", "params": {"stream": stream}})
        await wire.answer(write, size)
        await wire.answer(await wire.expect("session.close"), None)

    taken = 0

    async def source() -> Any:
        nonlocal taken
        while True:
            taken += 65536
            yield bytes(65536)

    async with by_hand(script) as driver, session_of(driver, toy, lease) as session:
        assert await session.require(Files).write("/x", source()) == WINDOW


async def test_output_that_nobody_reads_is_dropped_while_its_end_is_waited_for(
    over_memory: Any, toy: ModuleType, lease: Lease
) -> None:
    async with over_memory() as driver, session_of(driver, toy, lease) as session:
        async with await session.require(Exec).start(Command(argv=("drain", "3000000"))) as process:
            async for _ in process:
                break
            assert await process.wait() == Exit(code=0)
        with pytest.raises(WrongState, match="let go"):
            await process.send(b"more")


async def test_output_stays_with_the_driver_until_somebody_reads_it(
    over_memory: Any, toy: ModuleType, lease: Lease, heard: Any
) -> None:
    async with over_memory() as driver, session_of(driver, toy, lease) as session:
        process: Process = await session.require(Exec).start(Command(argv=("flood", "3000000"), tag="t"))
        await driver.ping()
        await trio.testing.wait_all_tasks_blocked()
        assert not any(isinstance(message, bytes) for _, message in heard.traffic)
        await process.aclose()


async def test_two_hundred_verbs_at_once(over_memory: Any, toy: ModuleType, lease: Lease) -> None:
    async with over_memory() as driver, session_of(driver, toy, lease) as session:
        results: dict[int, Any] = {}

        async def ask(number: int) -> None:
            if number % 4:
                results[number] = len(await session.blink(number))
            else:
                items: list[int] = []

                async def report(item: int) -> None:
                    items.append(item)

                assert await session.count(number % 40, report) == number % 40
                assert items == list(range(number % 40))
                results[number] = number

        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(ask, number)
        assert results == {number: number for number in range(200)}
        assert driver.statistics().requests == 0


async def test_sessions_end_with_the_connection(toy: ModuleType, lease: Lease) -> None:
    here, there = memory_transports()
    made: list[Any] = []

    def make(context: Any) -> Any:
        made.append(toy.ToyDriver(context))
        return made[0]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_driver, make, toy.ToyDriver, there)
        async with connect_driver(here, Initialize(host="h")) as driver:
            await driver.start()
            manager = driver.open(toy.fact("toy-0"), lease)
            session: Any = await manager.__aenter__()
            await session.read("/endless-100")
            await session.start(Command(argv=("sleep",)))
            assert made[0].open_sessions == 1
            await here.aclose()
            await driver.wait_closed()
            await manager.__aexit__(None, None, None)
    assert made[0].open_sessions == 0
    assert made[0].events == ["start", "stream closed", "process closed", "session closed", "stop"]
    assert not made[0].context.state_dir.exists()  # it was a temporary one


# ----- drivers that break the rules


async def test_answers_that_make_no_sense(by_hand: Any, toy: ModuleType, lease: Lease, heard: Any) -> None:
    async def script(wire: Any) -> None:
        await wire.open_session("measure", "files", "exec", "unheard-of")
        for answer in (
            {"result": {"at": "yesterday", "cpu": 1, "memory": 1, "disk": 1}},
            {"result": None},
            {},
            {"error": "no"},
            {"error": {"code": -32008, "message": "it is gone"}},
            {"error": {"code": -1, "message": "odd", "data": {"code": "of_the_future"}}},
            {"error": {"code": -32800, "message": "cancelled"}},
        ):
            await wire.send({"id": (await wire.expect("measure.sample"))["id"], **answer})
        await wire.answer(await wire.expect("files.read"), {"stream": 3})
        request = await wire.expect("files.read")
        await wire.send(f'{{"id": {request["id"]}, "result": {{"stream": 4}}, "error": 7, "method": [}}')
        await wire.send(f'{{"id": {request["id"]}, "error": {{"code": -32001, "message": "late"}}}}')
        await wire.answer(await wire.expect("session.close"), None)

    wrong = "the driver 'hand' answered 'measure.sample'"
    async with by_hand(script) as driver, session_of(driver, toy, lease) as session:
        for kind, message in (
            (DriverFault, f"{wrong} wrongly: Invalid RFC3339"),
            (DriverFault, f"{wrong} wrongly: Expected `object`, got `null`"),
            (DriverFault, f"{wrong} with neither result nor error"),
            (DriverFault, "an error of the wrong form"),
            (DeviceLost, "it is gone"),
            (DriverFault, "odd .unknown error code 'of_the_future'."),
            (DriverFault, "cancelled 'measure.sample' by itself"),
        ):
            with pytest.raises(kind, match=message):
                await session.sample()
        with pytest.raises(DriverFault, match="stream id 3 is not of the kind"):
            await session.read("/x")
        with pytest.raises(Exception, match="late"):
            await session.read("/x")
    assert len(heard.faults) == 8


async def test_messages_that_nobody_waits_for(by_hand: Any, heard: Any) -> None:
    async def script(wire: Any) -> None:
        await wire.send("{")
        await wire.send('{"params":' + "[" * 100_000)
        await wire.send({"id": 77, "result": 1})
        await wire.send({"method": "progress", "params": {"channel": 1, "value": 1}})
        await wire.send({"method": "credit", "params": {"stream": 1, "amount": -5}})
        await wire.frame(8, b"data")
        await wire.send(b"\0")
        await wire.send({"method": "of.a.newer.minor", "params": {}})
        ping = await wire.expect("ping")
        assert (await wire.ask(2, "ping"))["result"] == {}
        assert (await wire.ask(4, "host.shut_down"))["error"]["code"] == -32601
        await wire.answer(ping, {})

    async with by_hand(script) as driver:
        await driver.ping()
        assert driver.statistics().faults == len(heard.faults) == 7


async def test_more_than_the_credit(by_hand: Any, toy: ModuleType, lease: Lease, heard: Any) -> None:
    async def script(wire: Any) -> None:
        await wire.open_session("files", "blink")
        await wire.answer(await wire.expect("files.read"), {"stream": 2})
        for _ in range(4):
            await wire.frame(2, bytes(65536))
        await wire.frame(2, b"too much")
        assert (await wire.expect("drop"))["params"] == {"stream": 2}
        request = await wire.expect("blink.count")
        for number in range(ITEM_WINDOW + 1):
            await wire.send({"method": "progress", "params": {"channel": request["params"]["report"], "value": number}})
        while (await wire.receive())["method"] != "drop":
            pass
        await wire.answer(request, 3)
        await wire.answer(await wire.expect("session.close"), None)

    async def report(number: int) -> None:
        await trio.testing.wait_all_tasks_blocked()

    async with by_hand(script) as driver, session_of(driver, toy, lease) as session:
        stream = await session.require(Files).read("/x")
        await trio.testing.wait_all_tasks_blocked()
        size, error = await drained(stream)
        assert size == WINDOW
        assert isinstance(error, DriverFault)
        assert "more on stream 2 than it had credit for" in error.message
        assert await session.count(1, report) == 3
        assert len(heard.faults) == 2


async def test_a_driver_that_floods_with_breaches_is_cut_off(by_hand: Any) -> None:
    async def script(wire: Any) -> None:
        for _ in range(100):
            await wire.send("{")

    async with by_hand(script) as driver:
        assert "broke the protocol 100 times" in await driver.wait_closed()
        with pytest.raises(Unavailable, match="the driver 'hand' is gone: it broke the protocol"):
            await driver.ping()


async def test_a_driver_that_floods_is_slowed_down(by_hand: Any, autojump_clock: trio.testing.MockClock) -> None:
    async def script(wire: Any) -> None:
        for _ in range(20_000):
            await wire.send('{"method": "chatter"}')
        await wire.answer(await wire.expect("ping"), {})

    async with by_hand(script) as driver:
        began = trio.current_time()
        await driver.ping()
        assert trio.current_time() - began == pytest.approx(1, abs=0.1)


async def test_a_driver_that_does_not_read_does_not_fill_the_memory(
    by_hand: Any, toy: ModuleType, lease: Lease
) -> None:
    async def script(wire: Any) -> None:
        await wire.open_session("blink")
        await trio.sleep_forever()

    gone = 0
    async with by_hand(script) as driver, session_of(driver, toy, lease) as session, trio.open_nursery() as nursery:

        async def call() -> None:
            nonlocal gone
            with pytest.raises(Unavailable, match="the driver 'hand' is gone: the test is over"):
                await session.fail("x" * 100_000)
            gone += 1

        for _ in range(50):
            nursery.start_soon(call)
        await trio.testing.wait_all_tasks_blocked()
        assert driver.statistics().unsent < 4 * 100_000
        driver._peer.close("the test is over")
    assert gone == 50


async def test_what_is_too_long_is_refused_before_it_is_sent(over_memory: Any, toy: ModuleType, lease: Lease) -> None:
    async with over_memory() as driver, session_of(driver, toy, lease) as session:
        with pytest.raises(InvalidArgument, match="longer than"):
            await session.fail("x" * 17 * 2**20)
        with pytest.raises(ResourceExhausted, match="the answer has"):
            await session.fail("huge")
        for how in ("lie", "object"):
            with pytest.raises(DriverFault):
                await session.fail(how)
        with pytest.raises(InvalidArgument, match="pause must be a finite number, not nan"):
            await session.blink(1, pause=float("nan"))
        with pytest.raises(InvalidArgument, match="Expected `int`, got `str`"):
            await session.blink("many")
        with pytest.raises(TypeError):
            await session.blink(1, "red")
        assert await session.blink(1) == ["red inf"]


async def test_a_log_that_nobody_takes_loses_lines_and_counts_them(toy: ModuleType) -> None:
    here, there = memory_transports()
    lines: list[Any] = []
    taking = trio.Event()
    made: list[Any] = []

    async def take(line: Any) -> None:
        await taking.wait()
        lines.append(line)

    def make(context: Any) -> Any:
        made.append(toy.ToyDriver(context))
        return made[0]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_driver, make, toy.ToyDriver, there)
        async with connect_driver(here, Initialize(host="h"), on_log=take) as driver:
            for number in range(50):
                made[0].context.log("info", "line", number=number)
            await driver.ping()
            taking.set()
            await trio.testing.wait_all_tasks_blocked()
            made[0].context.log("info", "line", number=50)
            await trio.testing.wait_all_tasks_blocked()
            assert [line.values["number"] for line in lines] == [*range(ITEM_WINDOW), 50]
            assert lines[-1].lost == driver.statistics().lost_lines == 50 - ITEM_WINDOW


# ----- what a driver's side refuses


async def test_a_host_that_breaks_the_rules(wire_to_toy: Any) -> None:
    async with wire_to_toy() as wire:

        async def refused(number: int, method: str, **params: object) -> tuple[str, str]:
            error = (await wire.ask(number, method, **params))["error"]
            return error["data"]["code"], error["message"]

        assert (await refused(1, "driver.start"))[0] == "wrong_state"
        assert (await refused(3, "initialize"))[0] == "invalid_argument"
        assert "result" in await wire.ask(5, "initialize", protocol="1.7", host="h", news="of a later version")
        assert (await refused(7, "initialize", protocol="1.0", host="h"))[0] == "wrong_state"
        assert await refused(9, "power.reboot", session=1) == (
            "capability_missing",
            "the driver 'toy' has no method 'power.reboot'",
        )
        device = {"identity": "toy-0", "platform": "toy", "name": "Toy", "status": "ready"}
        lease = {"lease_id": "l", "fence": 1, "holder": "h"}
        number = (await wire.ask(11, "session.open", device=device, lease=lease))["result"]["session"]
        assert await refused(13, "files.stat", session=99, path="/") == ("not_found", "there is no session 99")
        assert (await refused(15, "files.stat", session=number))[0] == "invalid_argument"
        assert (await refused(17, "files.write", session=number, path="/x", source=2))[0] == "invalid_argument"
        assert (await refused(19, "process.wait", process=4))[0] == "not_found"
        assert (await wire.ask(21, "session.close", session=number))["result"] is None
        assert (await wire.ask(23, "session.close", session=number))["result"] is None
        assert (await refused(25, "files.stat", session=number, path="/"))[0] == "not_found"
        await wire.send({"id": 27, "method": "driver.watch", "params": {"report": 1}})
        seen = await wire.expect("progress")
        assert seen["params"]["value"]["device"]["identity"] == "toy-0"
        assert (await refused(27, "driver.describe"))[1] == "the request id 27 is in use"


def test_an_implementation_may_be_older_than_its_contract() -> None:
    method = methods_of(Files, Scope.SESSION)["write"]
    values = {"path": "/x", "source": 1, "mode": 0o644, "user": None}
    assert method.arguments(values) == (["/x", 1], {})
    assert method.arguments(values | {"user": "root"}) == (["/x", 1], {"user": "root"})
    method = methods_of(Exec, Scope.SESSION)["kill"]
    assert method.arguments({"pid": 3, "number": 9}) == ([3], {})
    assert method.arguments({"pid": 3, "number": 15}) == ([3, 15], {})


async def test_versions(toy: ModuleType, wire_to_toy: Any) -> None:
    newer = "the driver speaks protocol 1.0 and the host speaks 2.0: upgrade the driver"
    here, there = memory_transports()
    async with trio.open_nursery() as nursery:

        async def serve() -> None:
            with pytest.raises(Unavailable, match=newer):
                await serve_driver(toy.ToyDriver, toy.ToyDriver, there)

        nursery.start_soon(serve)
        with pytest.raises(Unavailable, match=newer):
            async with connect_driver(here, Initialize(host="h", protocol="2.0")):
                raise AssertionError("it connected")
    for stated, sentence in (
        ("2.0", "the driver speaks protocol 2.0 and the host speaks 1.0: upgrade the host"),
        ("0.9", "the driver speaks protocol 0.9 and the host speaks 1.0: upgrade the driver"),
        ("newest", "the driver states the protocol version 'newest', which is not of the form MAJOR.MINOR"),
    ):
        here, there = memory_transports()
        async with trio.open_nursery() as nursery:

            async def answer(there: Any = there, stated: str = stated) -> None:
                request = json.loads(await there.receive())
                result = {"protocol": stated, "and": "all else is different"}
                await there.send(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}))

            nursery.start_soon(answer)
            with pytest.raises(Unavailable, match=sentence):
                async with connect_driver(here, Initialize(host="h")):
                    raise AssertionError("it connected")
    here, there = memory_transports()
    async with trio.open_nursery() as nursery:

        async def hand() -> None:
            request = json.loads(await there.receive())
            result = {"protocol": "1.9", "name": "later", "capabilities": ["later"], "more": True}
            await there.send(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}))

        nursery.start_soon(hand)
        async with connect_driver(here, Initialize(host="h")) as driver:
            assert driver.name == "later"


async def test_a_driver_may_ask_its_host(toy: ModuleType) -> None:
    here, there = memory_transports()
    answers: list[Any] = []

    async def rotate(params: Any) -> object:
        if params != {"old": "t1"}:
            raise InvalidArgument("that is not the token")
        return {"token": "t2"}

    async with trio.open_nursery() as nursery:

        async def ask(host: Any) -> None:
            answers.append(await host.request("token.rotate", {"old": "t1"}))
            for method, params in (("token.rotate", {"old": "t0"}), ("token.forge", None)):
                with pytest.raises((InvalidArgument, Exception)) as caught:
                    await host.request(method, params)
                answers.append(caught.value.message)  # type: ignore[attr-defined]
            done.set()

        done = trio.Event()
        hosts: list[Any] = []

        async def serve() -> None:
            await serve_driver(toy.ToyDriver, toy.ToyDriver, there, on_host=hosts.append)

        nursery.start_soon(serve)
        async with connect_driver(here, Initialize(host="h"), requests={"token.rotate": rotate}):
            nursery.start_soon(ask, hosts[0])
            await done.wait()
    assert answers == [{"token": "t2"}, "that is not the token", "this host has no method 'token.forge'"]
