"""Programs on a simulated device, through the real adb server."""

from __future__ import annotations

import contextlib

import pytest
import trio

from anvild.sdk import (
    AlreadyExists,
    Command,
    Exit,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Stream,
    TerminalSize,
    WrongState,
    run,
)
from anvild_android.session.session import AndroidSession


@pytest.fixture
def server(both_servers: str) -> str:
    return both_servers


def shell(script: str, **more: object) -> Command:
    return Command(argv=("sh", "-c", script), **more)  # type: ignore[arg-type]


async def test_a_program_s_output_and_end(session: AndroidSession) -> None:
    done = await run(
        session, shell("echo out; echo err >&2; echo $WORD; pwd; exit 3", env={"WORD": "a 'b'"}, cwd="/data")
    )
    assert (done.exit, done.stdout, done.stderr) == (Exit(code=3), b"out\na 'b'\n/data\n", b"err\n")
    assert (await run(session, Command(argv=("echo", "$HOME; `x` 'y'", "")))).stdout == b"$HOME; `x` 'y' \n"
    assert (await run(session, shell("kill -9 $$"))).exit == Exit(code=None, signal=9)
    assert (await run(session, Command(argv=("cat",)), stdin=b"\0\xff" * 100_000)).stdout == b"\0\xff" * 100_000


async def test_what_cannot_be_started(session: AndroidSession) -> None:
    for command, error in (
        (Command(argv=("no-such-program",)), NotFound),
        (Command(argv=("/no/such/program",)), NotFound),
        (Command(argv=("true",), cwd="/no/such"), NotFound),
        (Command(argv=("/data",)), PermissionDenied),
        (Command(argv=("true",), user="root"), PermissionDenied),
        (Command(argv=("a\0b",)), InvalidArgument),
        (Command(argv=("true",), env={"A=B": "x"}), InvalidArgument),
        (Command(argv=("true",), cwd="relative"), InvalidArgument),
        (Command(argv=("echo", "x" * 70_000)), InvalidArgument),
    ):
        with pytest.raises(error):
            await session.start(command)


async def test_a_terminal(session: AndroidSession) -> None:
    async with await session.start(shell("stty size; read x; stty size; echo $x", terminal=TerminalSize())) as process:
        await process.resize(TerminalSize(columns=99, rows=33))
        await process.send(b"hello\n")
        said = b"".join([output.data async for output in process])
        assert b"33 99" in said
        assert said.count(b"hello") == 2
        assert (await process.wait()).ok
    async with await session.start(shell("true")) as process:
        with pytest.raises(WrongState):
            await process.resize(TerminalSize())
        with pytest.raises(WrongState):
            await process.send(b"x")


async def test_input_and_signals(session: AndroidSession) -> None:
    async with await session.start(Command(argv=("cat",), stdin=True)) as process:
        await process.send(b"one\n")
        assert (await anext(aiter(process))).data == b"one\n"
        await process.close_stdin()
        await process.close_stdin()
        assert await process.wait() == Exit(code=0)
        with pytest.raises(WrongState):
            await process.send(b"more")
    async with await session.start(Command(argv=("sleep", "1000"))) as process:
        await process.signal(15)
        assert await process.wait() == Exit(code=None, signal=15)
        await process.signal(15)


async def pids(session: AndroidSession, words: str) -> list[int]:
    return [each.pid for each in await session.processes() if each.command.endswith(words)]


async def test_a_program_ends_with_its_connection(session: AndroidSession) -> None:
    with trio.move_on_after(5) as scope:
        async with await session.start(Command(argv=("sleep", "1001"))) as process:
            assert await pids(session, "sleep 1001") == [process.pid]
            scope.cancel()
            await process.wait()
    assert await pids(session, "sleep 1001") == []


async def test_a_program_that_ignores_a_hang_up_ends_too(session: AndroidSession) -> None:
    async with await session.start(shell("trap '' HUP; echo ready; sleep 1004; true")) as process:
        assert (await anext(aiter(process))).data == b"ready\n"
        assert len(await pids(session, "sleep 1004")) == 1
        pid = process.pid
    assert all(each.pid != pid for each in await session.processes())
    assert await pids(session, "sleep 1004") == []


async def test_processes_can_be_killed(session: AndroidSession) -> None:
    async with await session.start(Command(argv=("sleep", "1002"))) as process:
        await session.kill(process.pid, 15)
        assert await process.wait() == Exit(code=None, signal=15)
    with pytest.raises(NotFound):
        await session.kill(process.pid)
    for pid, number in ((0, 9), (1, 99)):
        with pytest.raises(InvalidArgument):
            await session.kill(pid, number)


async def test_a_tagged_program_outlives_its_reader(session: AndroidSession) -> None:
    process = await session.start(
        shell("echo one; echo bad >&2; read x </dev/null; sleep 0.3; echo two; exit 4", tag="job")
    )
    first = await anext(aiter(process))
    assert (first.stream, first.data) == (Stream.STDOUT, b"one\n")
    with pytest.raises(AlreadyExists):
        await session.start(shell("true", tag="job"))
    assert [each.tag for each in await session.processes() if each.pid == process.pid] == ["job"]
    await process.aclose()

    again = await session.attach("job")
    assert again.pid == process.pid
    rest = [(each.stream, each.data) async for each in again]
    assert rest == [(Stream.STDERR, b"bad\n"), (Stream.STDOUT, b"two\n")]
    assert await again.wait() == Exit(code=4)
    await again.aclose()
    with pytest.raises(NotFound):
        await session.attach("job")


async def test_a_tagged_program_is_read_again_from_the_start(session: AndroidSession) -> None:
    process = await session.start(shell("echo one; sleep 1000", tag="job"))
    assert (await anext(aiter(process))).data == b"one\n"
    await process.aclose()
    again = await session.attach("job", replay=True)
    assert (await anext(aiter(again))).data == b"one\n"
    await again.signal(9)
    assert await again.wait() == Exit(code=None, signal=9)
    await again.aclose()


async def test_a_tagged_program_keeps_a_limited_output(session: AndroidSession) -> None:
    script = "i=0; while [ $i -lt 12 ]; do head -c 1048576 /dev/zero; i=$((i+1)); done; echo the end"
    process = await session.start(shell(script, tag="flood"))
    await process.aclose()
    with trio.fail_after(60):
        again = await session.attach("flood", replay=True)
        data = b"".join([each.data async for each in again])
        assert (await again.wait()).ok
        await again.aclose()
    assert data.endswith(b"the end\n")
    assert 3 * 2**20 < len(data) < 12 * 2**20


async def test_a_tagged_program_that_cannot_be_started(session: AndroidSession) -> None:
    with pytest.raises(NotFound, match="no-such"):
        await session.start(Command(argv=("no-such",), tag="job"))
    with pytest.raises(NotFound):
        await session.attach("job")
    for more in ({"stdin": True}, {"terminal": TerminalSize()}):
        with pytest.raises(InvalidArgument):
            await session.start(shell("true", tag="job", **more))


async def test_waiting_drops_what_nobody_reads(session: AndroidSession) -> None:
    async with await session.start(shell("head -c 3000000 /dev/zero; exit 2")) as process:
        assert await process.wait() == Exit(code=2)


async def test_a_reader_and_a_waiter_at_once(session: AndroidSession) -> None:
    ends: list[Exit] = []
    async with await session.start(shell("echo a; sleep 0.1; echo b")) as process, trio.open_nursery() as nursery:

        async def wait() -> None:
            ends.append(await process.wait())

        nursery.start_soon(wait)
        assert b"".join([each.data async for each in process]) == b"a\nb\n"
    assert ends == [Exit(code=0)]


async def test_what_is_left_ends_with_the_session(session: AndroidSession) -> None:
    left = [await session.start(Command(argv=("sleep", "1003"))) for _ in range(3)]
    assert len(await pids(session, "sleep 1003")) == 3
    assert await session.close() == []
    assert await pids(session, "sleep 1003") == []
    for process in left:
        with contextlib.suppress(WrongState):
            await process.wait()
            pytest.fail("a process that was let go of tells no end")
