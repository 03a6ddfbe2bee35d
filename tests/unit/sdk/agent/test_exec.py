"""Programs in a guest."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import trio

from anvild.sdk import (
    AlreadyExists,
    Command,
    DeadlineExceeded,
    DeviceLost,
    Exit,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Stream,
    TerminalSize,
    WrongState,
    run,
)
from anvild.sdk.agent import KEPT_OUTPUT, AgentProcess, AgentSession


def shell(script: str, **more: Any) -> Command:
    return Command(argv=("sh", "-c", script), **more)


async def read_all(process: AgentProcess) -> bytes:
    return b"".join([output.data async for output in process])


def running(pid: int) -> bool:
    try:
        return b") Z" not in Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False


async def until_gone(pid: int) -> None:
    with trio.fail_after(60):
        while running(pid):
            await trio.lowlevel.checkpoint()


async def test_streams_exit_code_environment_and_directory(session: AgentSession, tmp_path: Path) -> None:
    done = await run(session, shell('echo "$WORD"; pwd; echo oh >&2; exit 3', env={"WORD": "hä"}, cwd=str(tmp_path)))
    assert done.exit == Exit(code=3)
    assert done.stdout == f"hä\n{tmp_path}\n".encode()
    assert done.stderr == b"oh\n"


async def test_a_program_gets_a_clean_environment_and_its_users_home(session: AgentSession) -> None:
    done = await run(session, Command(argv=("env",)))
    names = {line.partition("=")[0] for line in done.stdout.decode().splitlines()}
    assert names == {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG"}


async def test_default_environment_comes_with_the_identity(session: AgentSession) -> None:
    assert await session.agent.identify(environment={"A": "1", "B": "2"}) == {}
    done = await run(session, shell("echo $A$B", env={"B": "3"}))
    assert done.stdout == b"13\n"


async def test_a_signal_ends_the_program_and_its_group(session: AgentSession) -> None:
    process = await session.start(shell("sleep 100 & echo $!; wait"))
    child = int((await anext(aiter(process))).data)
    await process.signal(signal.SIGTERM)
    assert await process.wait() == Exit(code=None, signal=signal.SIGTERM)
    await until_gone(child)
    await process.signal(signal.SIGTERM)
    await process.aclose()


async def test_closing_ends_a_program_without_a_tag_and_its_descendants(session: AgentSession) -> None:
    async with await session.start(shell("setsid sleep 100 & echo $!; wait")) as process:
        child = int((await anext(aiter(process))).data)
    await until_gone(process.pid)
    await until_gone(child)


async def test_standard_input(session: AgentSession) -> None:
    done = await run(session, Command(argv=("cat",)), stdin=b"x" * 3_000_000)
    assert done.stdout == b"x" * 3_000_000
    closed = await session.start(Command(argv=("sleep", "100")))
    with pytest.raises(WrongState):
        await closed.send(b"x")
    await closed.aclose()


async def test_a_program_that_does_not_read_its_input(session: AgentSession) -> None:
    done = await run(session, Command(argv=("true",)), stdin=b"x" * 3_000_000)
    assert done.exit.ok


async def test_an_ended_program_does_not_wait_for_those_who_hold_its_output(session: AgentSession) -> None:
    done = await run(session, shell("echo a; sleep 100 & echo $!"))
    word, child = done.stdout.split()
    assert word == b"a"
    await session.kill(int(child))


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (Command(argv=("no-such-program",)), NotFound),
        (Command(argv=("/etc",)), PermissionDenied),
        (Command(argv=("true",), cwd="/no/such/place"), NotFound),
        (Command(argv=("true",), user="nobody-of-that-name"), NotFound),
        (Command(argv=("a\0b",)), InvalidArgument),
        (Command(argv=("true",), cwd="here"), InvalidArgument),
    ],
)
async def test_what_cannot_be_started(session: AgentSession, command: Command, error: type[Exception]) -> None:
    with pytest.raises(error):
        await session.start(command)


async def test_another_user(session: AgentSession) -> None:
    command = Command(argv=("id", "-un"), user="nobody", cwd="/")
    if os.geteuid() == 0:
        assert (await run(session, command)).stdout == b"nobody\n"
    else:
        with pytest.raises(PermissionDenied):
            await run(session, command)


async def test_a_long_command_line(session: AgentSession) -> None:
    word = "x" * 120_000
    assert (await run(session, Command(argv=("echo", word, word)))).stdout == f"{word} {word}\n".encode()
    with pytest.raises(InvalidArgument):
        await session.start(Command(argv=("echo", *[word] * 9)))


async def test_a_deadline_ends_the_program(session: AgentSession) -> None:
    with pytest.raises(DeadlineExceeded):
        await run(session, Command(argv=("sleep", "1000")), deadline=0.01)


async def test_a_cancelled_start_leaves_no_process(session: AgentSession) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(session.start, Command(argv=("sleep", "2345")))
        await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    with trio.fail_after(60):
        while any("sleep 2345" in process.command for process in await session.processes()):
            pass


async def test_a_terminal(session: AgentSession) -> None:
    size = TerminalSize(columns=100, rows=30)
    async with await session.start(shell("stty size; read x; stty size; tty", terminal=size)) as process:
        outputs = aiter(process)
        assert (await anext(outputs)).data == b"30 100\r\n"
        await process.resize(TerminalSize(columns=90, rows=20))
        await process.send(b"\n")
        rest = b"".join([output.data async for output in outputs])
        assert b"20 90\r\n/dev/pts/" in rest
        assert (await process.wait()).ok
    async with await session.start(Command(argv=("cat",), terminal=size)) as process:
        await process.close_stdin()
        assert (await process.wait()).ok
    async with await session.start(Command(argv=("true",))) as process:
        with pytest.raises(WrongState):
            await process.resize(size)


async def test_output_order_and_names(session: AgentSession) -> None:
    process = await session.start(shell("echo a; sleep 0.05; echo b >&2; sleep 0.05; echo c"))
    outputs = [(output.stream, output.data) async for output in process]
    assert outputs == [(Stream.STDOUT, b"a\n"), (Stream.STDERR, b"b\n"), (Stream.STDOUT, b"c\n")]
    await process.aclose()


async def test_the_process_list(session: AgentSession) -> None:
    async with await session.start(Command(argv=("sleep", "100"), tag="nap")) as process:
        found = {info.pid: info for info in await session.processes()}
        assert found[process.pid].tag == "nap"
        assert found[process.pid].command == "sleep 100"
        assert 1 in found
        await session.kill(process.pid)
        assert await process.wait() == Exit(code=None, signal=9)
    with pytest.raises(NotFound):
        await session.kill(process.pid)
    with pytest.raises(InvalidArgument):
        await session.kill(0)
    with pytest.raises(PermissionDenied):
        await session.kill(session.agent.info.pid)


async def test_a_hundred_at_once(session: AgentSession) -> None:
    results: list[bytes] = []

    async def one(number: int) -> None:
        results.append((await run(session, shell(f"echo {number}"))).stdout)

    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(one, number)
    assert sorted(map(int, results)) == list(range(100))


async def test_a_stalled_reader_stops_only_its_own_stream(session: AgentSession, guest: Any) -> None:
    async with await session.start(Command(argv=("yes",))) as stalled:
        await anext(aiter(stalled))
        before = guest.memory()
        async with await session.start(Command(argv=("head", "-c", "50000000", "/dev/zero"))) as process:
            size = 0
            async for output in process:
                size += len(output.data)
        assert size == 50_000_000
        assert guest.memory() - before < 4 * 2**20
        assert (await run(session, Command(argv=("echo",)))).stdout == b"\n"


async def test_a_tag_survives_the_connection(guest: Any) -> None:
    async with guest.session() as session:
        process = await session.start(shell("echo one; read x; echo got $x; exit 7", tag="job", stdin=True))
        assert (await anext(aiter(process))).data == b"one\n"
        with pytest.raises(AlreadyExists):
            await session.start(Command(argv=("true",), tag="job"))
    async with guest.session() as session:
        assert session.agent.info.tags == ["job"]
        again = await session.attach("job")
        assert again.pid == process.pid
        await again.send(b"it\n")
        assert await read_all(again) == b"got it\n"
        await again.aclose()  # its end was not collected
    async with guest.session() as session:
        again = await session.attach("job")
        assert await read_all(again) == b""
        assert await again.wait() == Exit(code=7)
        await again.aclose()
        with pytest.raises(NotFound):
            await session.attach("job")


async def test_output_that_nobody_has_read_is_not_lost_with_the_connection(guest: Any) -> None:
    async with guest.session() as session:
        process = await session.start(shell("seq 1 10000", tag="job"))
        first = (await anext(aiter(process))).data
    async with guest.session() as session:
        again = await session.attach("job")
        rest = await read_all(again)
        assert (first + rest).split() == [str(number).encode() for number in range(1, 10001)]
        assert again.dropped == 0
        assert (await again.wait()).ok
        await again.aclose()


async def test_a_terminal_is_drawn_anew(guest: Any) -> None:
    async with guest.session() as session:
        process = await session.start(shell("echo hello; read x", tag="tty", terminal=TerminalSize()))
        assert (await anext(aiter(process))).data == b"hello\r\n"
        await process.aclose()
        again = await session.attach("tty", replay=True)
        assert (await anext(aiter(again))).data == b"hello\r\n"
        await again.resize(TerminalSize(columns=40))
        await again.send(b"\n")
        assert (await again.wait()).ok
        await again.aclose()


async def test_kept_output_is_bounded(session: AgentSession) -> None:
    process = await session.start(shell("head -c 3000000 /dev/zero; echo end", tag="loud"))
    await process.aclose()
    await until_gone(process.pid)
    again = await session.attach("loud")
    data = await read_all(again)
    assert data.endswith(b"\0end\n")
    assert KEPT_OUTPUT // 2 < len(data) <= KEPT_OUTPUT
    await again.wait()
    assert again.dropped + len(data) == 3_000_004
    await again.aclose()


async def test_another_reader_takes_over(session: AgentSession) -> None:
    first = await session.start(Command(argv=("cat",), tag="cat", stdin=True))
    second = await session.attach("cat")
    with pytest.raises(WrongState):
        await first.wait()
    await first.aclose()
    await second.close_stdin()
    assert (await second.wait()).ok
    await second.aclose()


async def test_programs_without_a_tag_end_with_the_connection(guest: Any) -> None:
    async with guest.session() as session:
        process = await session.start(Command(argv=("sleep", "100")))
    with pytest.raises(DeviceLost):
        await process.wait()
    await until_gone(process.pid)


async def test_an_agent_that_dies_ends_every_verb(guest: Any) -> None:
    async with guest.session() as session:
        process = await session.start(Command(argv=("sleep", "100")))
        guest.process.kill()
        with pytest.raises(DeviceLost):
            await process.wait()
        with pytest.raises(DeviceLost):
            await session.stat("/")
