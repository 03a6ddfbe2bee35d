"""Rules about programs on a device."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, cast

import trio

from ...capabilities import Exec, Process, run
from ...errors import AlreadyExists, DeadlineExceeded, InvalidArgument, NotFound, PermissionDenied, WrongState
from ...values import Command, Exit, ProcessInfo, Stream, TerminalSize
from ..bench import Bench
from ..rules import Broken, Level, require
from ..trying import cancelled, limited, refused, valid
from .book import BOOK

LONG = "sleep 300"
LINES = 100_000
AT_ONCE = 16
GONE_SECONDS = 10.0
ALONGSIDE = 20
UNKNOWN_PID = 2**22 - 3


@BOOK.of(Exec, "exit-code", Level.BRONZE)
async def exit_code(bench: Bench, device: Exec) -> None:
    """The exit code of a program comes back as it is."""
    for code in (0, 1, 7, 255):
        found = (await bench.shell(device, f"exit {code}")).exit
        require(found == Exit(code=code), f"exit {code} came back as {found}")


@BOOK.of(Exec, "streams-apart", Level.BRONZE)
async def streams_apart(bench: Bench, device: Exec) -> None:
    """Standard output and standard error come back apart, byte for byte."""
    done = await bench.shell(device, "printf 'out\\001'; printf 'err\\377' >&2")
    require(done.stdout == b"out\x01", f"standard output came back as {done.stdout!r}")
    require(done.stderr == b"err\xff", f"standard error came back as {done.stderr!r}")


@BOOK.of(Exec, "stdin", Level.BRONZE)
async def stdin(bench: Bench, device: Exec) -> None:
    """Standard input arrives whole and ends where it is closed."""
    sent = bytes(range(256)) * 512
    done = await bench.shell(device, "cat", stdin=sent)
    require(done.stdout == sent, f"{len(sent)} bytes of input came back as {len(done.stdout)} bytes, or changed")


@BOOK.of(Exec, "no-stdin", Level.SILVER)
async def no_stdin(bench: Bench, device: Exec) -> None:
    """A program that was started without input finds it ended, and writing to it raises WrongState."""
    done = await bench.shell(device, "cat; echo end")
    require(done.stdout == b"end\n", f"cat without input gave {done.stdout!r}")
    async with await device.start(bench.script("sleep 2")) as process:
        await refused("writing to input that was not asked for", WrongState, lambda: process.send(b"x"))


@BOOK.of(Exec, "arguments", Level.SILVER)
async def arguments(bench: Bench, device: Exec) -> None:
    """Arguments reach a program as they are: nothing is split, expanded or quoted on the way."""
    words = ("a b", "", "$HOME", "quote'\"`", "*", "\\", "new\nline", "ünï…")
    command = bench.script('for word in "$@"; do printf "%s|" "$word"; done', "name", *words)
    done = await run(device, command, deadline=60)
    require(
        done.stdout.decode(errors="replace") == "".join(f"{word}|" for word in words),
        f"the arguments {words!r} came back as {done.stdout!r}",
    )


@BOOK.of(Exec, "env", Level.SILVER)
async def env(bench: Bench, device: Exec) -> None:
    """The environment of a command is added to the device's own."""
    value = "a value with spaces, 'quotes' and $signs"
    done = await bench.shell(device, 'printf "%s|%s" "$CONFORMANCE" "${PATH:+path}"', env={"CONFORMANCE": value})
    require(done.stdout.decode(errors="replace") == f"{value}|path", f"the environment came back as {done.stdout!r}")


@BOOK.of(Exec, "cwd", Level.SILVER)
async def cwd(bench: Bench, device: Exec) -> None:
    """A program starts in the directory that its command names."""
    directory = bench.profile.exec.directory
    done = await bench.shell(device, "pwd", cwd=directory)
    require(done.stdout.decode(errors="replace") == f"{directory}\n", f"{directory} came back as {done.stdout!r}")


@BOOK.of(Exec, "missing-program", Level.SILVER)
async def missing_program(bench: Bench, device: Exec) -> None:
    """A program or a directory that there is not raises NotFound; a directory as a program raises PermissionDenied or
    InvalidArgument."""
    await refused("starting a missing program", NotFound, lambda: device.start(Command(argv=("/no/such/program",))))
    await refused(
        "starting in a missing directory", NotFound, lambda: device.start(bench.script("true", cwd="/no/such/place"))
    )
    await refused(
        "starting a directory",
        (PermissionDenied, InvalidArgument, NotFound),
        lambda: device.start(Command(argv=(bench.profile.exec.directory,))),
    )


@BOOK.of(Exec, "wrong-input", Level.SILVER)
async def wrong_input(bench: Bench, device: Exec) -> None:
    """What no program can be given (a NUL character) and where none can start (a relative directory) raises
    InvalidArgument; no such user is NotFound."""
    await refused("an argument with a NUL", InvalidArgument, lambda: device.start(bench.script("true", "a\0b")))
    await refused("a relative directory", InvalidArgument, lambda: device.start(bench.script("true", cwd="tmp")))
    await refused(
        "no such user",
        (NotFound, InvalidArgument, PermissionDenied),
        lambda: device.start(bench.script("true", user="no-such-user")),
    )


@BOOK.of(Exec, "signal", Level.SILVER)
async def signalled(bench: Bench, device: Exec) -> None:
    """A signal ends a program, which is told as the signal or as 128 and its number; one for a program that has ended
    is no error."""
    async with await device.start(bench.script(f"exec {LONG}")) as process:
        await process.signal(signal.SIGTERM)
        found = await limited("wait", 30, process.wait)
        require(
            found.signal == signal.SIGTERM or found.code == 128 + signal.SIGTERM,
            f"a program that SIGTERM ended came back as {found}",
        )
        await process.signal(signal.SIGTERM)


@BOOK.of(Exec, "processes", Level.SILVER)
async def processes(bench: Bench, device: Exec) -> None:
    """A program that runs is in the list of processes, with its tag."""
    tag = f"{bench.name()}.listed"
    async with await device.start(bench.script(f"exec {LONG}", tag=tag)) as process:
        try:
            listed = await device.processes()
            valid(list(listed), list[ProcessInfo], "processes")
            found = [each for each in listed if each.pid == process.pid]
            require(found, f"process {process.pid} is not in the list")
            require(found[0].tag == tag, f"the tag {tag!r} is listed as {found[0].tag!r}")
        finally:
            await _kill(process)


@BOOK.of(Exec, "kill", Level.SILVER)
async def kills(bench: Bench, device: Exec) -> None:
    """`kill` ends any program by its process id; one that there is not is NotFound, a number that is no id
    InvalidArgument."""
    async with await device.start(bench.script(f"exec {LONG}")) as process:
        await device.kill(process.pid)
        found = await limited("wait", 30, process.wait)
        require(not found.ok, f"a killed program came back as {found}")
    await refused("kill of no process", NotFound, lambda: device.kill(UNKNOWN_PID))
    await refused("kill of process -1", (InvalidArgument, NotFound), lambda: device.kill(-1))


@BOOK.of(Exec, "attach", Level.SILVER)
async def attaches(bench: Bench, device: Exec) -> None:
    """A tagged program goes on when it is let go of; `attach` takes it up again, running or ended, with the output
    that was kept; `replay` begins with what was read before."""
    tag = f"{bench.name()}.attached"
    script = "trap 'echo two; exit 5' TERM; echo one; while :; do sleep 0.1; done"
    async with await device.start(bench.script(script, tag=tag)) as first:
        require(await _read(first, b"one\n") == b"one\n", "the first line did not come")
    async with await device.attach(tag, replay=True) as second:
        require(second.tag == tag, f"the process that was attached has the tag {second.tag!r}")
        require(await _read(second, b"one\n") == b"one\n", "the first line was not replayed")
        await second.signal(signal.SIGTERM)
    async with await device.attach(tag, replay=True) as third:
        output = await _read(third, b"one\ntwo\n")
        require(output == b"one\ntwo\n", f"the output that was kept came back as {output!r}")
        found = await limited("wait", 30, third.wait)
        require(found == Exit(code=5), f"exit 5 came back as {found}")


@BOOK.of(Exec, "tags", Level.SILVER)
async def tags(bench: Bench, device: Exec) -> None:
    """A tag in use is AlreadyExists, an unknown one NotFound."""
    tag = f"{bench.name()}.used"
    async with await device.start(bench.script(f"exec {LONG}", tag=tag)) as process:
        try:
            await refused("a tag in use", AlreadyExists, lambda: device.start(bench.script("true", tag=tag)))
        finally:
            await _kill(process)
    await refused("an unknown tag", NotFound, lambda: device.attach(f"{bench.name()}.unknown"))


@BOOK.of(Exec, "let-go", Level.SILVER)
async def let_go(bench: Bench, device: Exec) -> None:
    """A program without a tag ends when it is let go of, and letting go twice is fine."""
    process = await device.start(bench.script(f"exec {LONG}"))
    await process.aclose()
    await process.aclose()
    await _gone(device, process.pid)


@BOOK.rule("exec.session-end", Level.GOLD, about=Exec)
async def session_end(bench: Bench) -> None:
    """The end of a session ends its programs, but for those with a tag, which another session can attach."""
    tag = f"{bench.name()}.outlives"
    async with bench.session() as session:
        device = session.require(Exec)
        plain = await device.start(bench.script(f"exec {LONG}"))
        tagged = await device.start(bench.script(f"exec {LONG}", tag=tag))
    async with bench.session() as session:
        device = session.require(Exec)
        await _gone(device, plain.pid)
        async with await device.attach(tag) as again:
            require(again.pid == tagged.pid, f"process {tagged.pid} came back as {again.pid}")
            await _kill(again)


@BOOK.of(Exec, "output-in-order", Level.GOLD)
async def output_in_order(bench: Bench, device: Exec) -> None:
    """A hundred thousand lines come back whole and in order."""
    done = await bench.shell(device, f"seq 1 {LINES}")
    expected = b"".join(b"%d\n" % number for number in range(1, LINES + 1))
    require(done.stdout == expected, f"{len(expected)} bytes came back as {len(done.stdout)} bytes, or changed")


@BOOK.of(Exec, "at-once", Level.GOLD)
async def at_once(bench: Bench, device: Exec) -> None:
    """Sixteen programs run at the same time in one session, each with its own input and output."""
    found: dict[int, bytes] = {}

    async def one(number: int) -> None:
        done = await bench.shell(device, f"read line; echo {number} $line", stdin=b"%d\n" % number)
        found[number] = done.stdout

    async with trio.open_nursery() as nursery:
        for number in range(AT_ONCE):
            nursery.start_soon(one, number)
    wrong = {number: output for number, output in found.items() if output != b"%d %d\n" % (number, number)}
    require(not wrong, f"these came back wrong: {wrong}")


@BOOK.of(Exec, "wait-cancelled", Level.GOLD)
async def wait_cancelled(bench: Bench, device: Exec) -> None:
    """Waiting for a program, and reading its output, end within a second of being cancelled; the program goes on, and
    can be waited for again."""
    async with await device.start(bench.script("read line; exit 3", stdin=True)) as process:
        await cancelled("wait", process.wait)
        await cancelled("reading output", lambda: _read(process, b"never"))
        await process.send(b"\n")
        found = await limited("wait", 30, process.wait)
        require(found == Exit(code=3), f"exit 3 came back as {found}")


@BOOK.of(Exec, "start-cancelled", Level.GOLD)
async def start_cancelled(bench: Bench, device: Exec) -> None:
    """A `start` that is cancelled, at whatever moment, leaves no program behind, and the session goes on."""
    mark = bench.name()
    for moment in (0.0, 0.001, 0.003, 0.01):

        async def start() -> None:
            async with await device.start(bench.script(f": {mark}; {LONG}; :")):
                await trio.sleep_forever()

        await cancelled("start", start, after=moment)

    async def none() -> bool:
        return not [each for each in await device.processes() if mark in each.command]

    await _eventually(none, "a program whose start was cancelled runs on")


@BOOK.of(Exec, "deadline", Level.GOLD)
async def deadline(bench: Bench, device: Exec) -> None:
    """A program that exceeds its deadline is ended, tag or not, and its caller gets DeadlineExceeded."""
    mark = bench.name()
    await refused(
        "a program with a deadline",
        DeadlineExceeded,
        lambda: run(device, bench.script(f": {mark}; {LONG}; :", tag=f"{mark}.late"), deadline=0.5),
    )

    async def none() -> bool:
        return not [each for each in await device.processes() if mark in each.command]

    await _eventually(none, "a program runs on after its deadline")


@BOOK.of(Exec, "terminal", Level.GOLD)
async def terminal(bench: Bench, device: Exec) -> None:
    """A program with a terminal has one, of the size that was asked for, and sees it change; one without has none."""
    script = "test -t 0 && test -t 1 && stty size; read line; stty size"
    command = bench.script(script, terminal=TerminalSize(columns=91, rows=37), stdin=True)
    async with await device.start(command) as process:
        require(b"37 91" in await _read(process, b"37 91"), "the terminal has not the size that was asked for")
        await process.resize(TerminalSize(columns=77, rows=22))
        await process.send(b"\n")
        require(b"22 77" in await _read(process, b"22 77"), "the terminal did not change its size")
    async with await device.start(bench.script("test -t 1 && echo yes; sleep 1")) as process:
        await refused(
            "resizing without a terminal", WrongState, lambda: process.resize(TerminalSize(columns=80, rows=24))
        )


@BOOK.of(Exec, "slow-reader", Level.PLATINUM)
async def slow_reader(bench: Bench, device: Exec) -> None:
    """A reader that stops, of a program that never does, stops that program alone: the other verbs of the session go
    on, and what was not read is not lost."""
    async with await device.start(bench.script("i=0; while :; do i=$((i+1)); echo $i; done")) as process:
        async with aclosing(cast(Any, _Chunks(process))) as chunks:
            first = await anext(chunks)
            for number in range(ALONGSIDE):
                done = await bench.shell(device, f"echo {number}")
                require(done.stdout == b"%d\n" % number, f"a verb alongside gave {done.stdout!r}")
            data = bytes(first)
            while len(data) < 2**20:
                data += await limited("reading on", 30, lambda: anext(chunks))
        lines = data[: data.rindex(b"\n")].split(b"\n")
        require(
            lines == [b"%d" % number for number in range(1, len(lines) + 1)],
            "output was lost while its reader had stopped",
        )


@BOOK.of(Exec, "flood", Level.PLATINUM)
async def flood(bench: Bench, device: Exec) -> None:
    """Four programs that write as fast as they can, all read at once, stop no other verb."""
    counts = [0] * 4

    async def drain(number: int) -> None:
        async with await device.start(bench.script("while :; do echo flood flood flood flood; done")) as process:
            async for chunk in process:
                counts[number] += len(chunk.data)

    async with trio.open_nursery() as nursery:
        for number in range(len(counts)):
            nursery.start_soon(drain, number)
        for number in range(ALONGSIDE):
            done = await bench.shell(device, f"echo {number}")
            require(done.stdout == b"%d\n" % number, f"a verb alongside gave {done.stdout!r}")
        nursery.cancel_scope.cancel()
    require(all(counts), f"of the programs, {counts.count(0)} were not heard")


class _Chunks:
    """A process's standard output as chunks of bytes, by one iterator that is closed in the end."""

    def __init__(self, process: Process) -> None:
        self._iterator = aiter(process)

    async def __anext__(self) -> bytes:
        return (await anext(self._iterator)).data

    async def aclose(self) -> None:
        if (close := getattr(self._iterator, "aclose", None)) is not None:
            await close()


async def _read(process: Process, wanted: bytes) -> bytes:
    """Read standard output until what is wanted has come, or the output ends."""
    data = b""
    with trio.move_on_after(30):
        async with aclosing(cast(Any, _Out(process))) as chunks:
            while wanted not in data and (chunk := await chunks.next()) is not None:
                data += chunk
    return data


class _Out(_Chunks):
    """The same, for standard output alone, with None at the end."""

    async def next(self) -> bytes | None:
        async for chunk in self._iterator:
            if chunk.stream is Stream.STDOUT:
                return chunk.data
        return None


async def _kill(process: Process) -> None:
    await process.signal(signal.SIGKILL)
    await limited("the end of a killed program", 30, process.wait)


async def _gone(device: Exec, pid: int) -> None:
    async def gone() -> bool:
        return pid not in [each.pid for each in await device.processes()]

    await _eventually(gone, f"process {pid} runs on")


async def _eventually(condition: Callable[[], Awaitable[bool]], reason: str) -> None:
    with trio.move_on_after(GONE_SECONDS):
        while not await condition():  # noqa: ASYNC110 - the end of a program that nobody waits for calls nobody
            await trio.sleep(0.05)
        return
    raise Broken(f"{reason}, {GONE_SECONDS:g} s later")
