"""Programs on a Mac: :class:`anvild.sdk.Exec` over the place's sessions."""

from __future__ import annotations

import contextlib
import re
import signal
import weakref
from collections.abc import AsyncIterator, Sequence

import trio

from anvild.sdk import (
    AnvilError,
    Command,
    Exec,
    Exit,
    InvalidArgument,
    NotFound,
    Output,
    Process,
    ProcessInfo,
    Stream,
    TerminalSize,
    WrongState,
    check_absolute,
)

from .base import HostedSession
from .child import CHUNK, Child
from .files import check_user
from .place import Place, ended_by
from .shell import script
from .tagged import TaggedProcess, attach_tagged, start_tagged

END_OF_INPUT = b"\x04"
KEPT = "kept"
RESIZE = 'name=$(ps -o tty= -p "$1") && stty rows "$2" columns "$3" <"/dev/${name// /}"'
TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
LIST = """\
ps -axo pid=,ppid=,user=,command= || exit
printf '\\0'
for each in "$1"/*/pid; do
  [ ! -e "$each" ] || { each=${each%/pid}; echo "$(cat -- "$each/pid") ${each##*/}"; }
done
"""
END_SECONDS = 3.0


class _Outputs(AsyncIterator[Output]):
    """One iteration over a program's output."""

    def __init__(self, chunks: trio.MemoryReceiveChannel[Output]) -> None:
        self._chunks = chunks

    async def __anext__(self) -> Output:
        try:
            return await self._chunks.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            raise StopAsyncIteration from None


class MacProcess(Process):
    """A program on a Mac.

    Its two outputs are each in order; between them the order is the one in which they arrived here. The end by a signal
    is told from the exit code of its shell: 128 and the number.
    """

    tag = None

    def __init__(self, place: Place, child: Child, nursery: trio.Nursery, *, terminal: bool, stdin: bool) -> None:
        self.pid = child.pid
        self._place = place
        self._child = child
        self._terminal = terminal
        self._input: trio.abc.SendStream | None = child.stdin if terminal or stdin else None
        self._put, self._chunks = trio.open_memory_channel[Output](0)
        self._outputs: weakref.ref[_Outputs] | None = None
        self._changed = trio.lowlevel.ParkingLot()
        self._scope = trio.CancelScope()
        self._exit: Exit | None = None
        self._error: AnvilError | None = None
        self._gone = trio.Event()
        nursery.start_soon(self._serve)

    # in the session's nursery

    async def _serve(self) -> None:
        try:
            with self._scope, self._put:
                async with trio.open_nursery() as readers:
                    readers.start_soon(self._read, Stream.STDOUT, self._child.stdout)
                    if self._child.stderr is not None:
                        readers.start_soon(self._read, Stream.STDERR, self._child.stderr)
                code = await self._child.wait()
                number = ended_by(code)
                self._exit = Exit(code=code) if number is None else Exit(code=None, signal=number)
        except* AnvilError as group:
            self._error = next(each for each in flatten(group))
        finally:
            if self._exit is None and self._error is None:
                self._error = WrongState("the process has been let go")
            with trio.CancelScope(shield=True):
                await self._end()
            self._gone.set()
            self._changed.unpark_all()

    async def _end(self) -> None:
        """End what still runs, and let go of the connection."""
        await self._child.aclose()
        if self._terminal and self._exit is None and self._place.connection is not None:
            with trio.move_on_after(END_SECONDS), contextlib.suppress(AnvilError):  # a hang-up has ended most
                await self._place.signal(self.pid, signal.SIGKILL)

    async def _read(self, name: Stream, stream: trio.abc.ReceiveStream) -> None:
        while chunk := await stream.receive_some(CHUNK):
            await self._put.send(Output(stream=name, data=bytes(chunk)))

    # for callers

    def __aiter__(self) -> AsyncIterator[Output]:
        outputs = _Outputs(self._chunks)
        self._outputs = weakref.ref(outputs, lambda _: self._changed.unpark_all())
        return outputs

    async def send(self, data: bytes) -> None:
        if self._input is None or self._gone.is_set():
            raise WrongState("the standard input of the process is closed, or was not asked for")
        try:
            await self._input.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise WrongState("the process reads no more") from None

    async def close_stdin(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._input is None or self._gone.is_set():
            return
        if self._terminal:
            with contextlib.suppress(trio.BrokenResourceError):  # it has ended by now
                await self._input.send_all(END_OF_INPUT)
        else:
            closing, self._input = self._input, None
            await closing.aclose()

    async def wait(self) -> Exit:
        while not self._gone.is_set():
            if self._outputs is not None and self._outputs() is not None:
                await self._changed.park()
            else:
                try:
                    await self._chunks.receive()
                except (trio.EndOfChannel, trio.ClosedResourceError):
                    await self._gone.wait()
        if self._exit is None:
            assert self._error is not None
            raise type(self._error)(self._error.message)
        return self._exit

    async def signal(self, number: int) -> None:
        await trio.lowlevel.checkpoint()
        if self._exit is None:
            with contextlib.suppress(NotFound):  # it has just ended
                await self._place.signal(self.pid, number)

    async def resize(self, size: TerminalSize) -> None:
        if not self._terminal:
            raise WrongState("the process has no terminal")
        await trio.lowlevel.checkpoint()
        self._child.resize(size)
        # ssh would tell the other end some time after what is sent next: so it is told here, and has happened then.
        if self._exit is None:
            await self._place.run(script(RESIZE, str(self.pid), str(size.rows), str(size.columns)), housekeeping=True)

    async def aclose(self) -> None:
        self._scope.cancel()
        with trio.CancelScope(shield=True):
            await self._gone.wait()
        self._chunks.close()


def flatten(group: BaseExceptionGroup[AnvilError]) -> list[AnvilError]:
    """Return the errors of a group, of whatever depth."""
    found: list[AnvilError] = []
    for each in group.exceptions:
        found += flatten(each) if isinstance(each, BaseExceptionGroup) else [each]
    return found


class MacExec(HostedSession, Exec):
    """Programs of the account that the Mac is reached by."""

    async def start(self, command: Command) -> Process:
        """Start a program. One with a tag is kept on the Mac, and cannot have a terminal."""
        check_user(command.user, self.device.facts.get("user"))
        cwd = None if command.cwd is None else check_absolute(command.cwd)
        if command.tag is not None:
            return self._served(await start_tagged(self.place, f"{self.folder}/{KEPT}", command, cwd))
        terminal = command.terminal
        env = {"TERM": "xterm-256color", **command.env} if terminal else command.env
        child = await self.place.start(command.argv, env=env, cwd=cwd, stdin=command.stdin, terminal=terminal)
        return MacProcess(self.place, child, self.nursery, terminal=terminal is not None, stdin=command.stdin)

    async def attach(self, tag: str, *, replay: bool = False) -> Process:
        if TAG.fullmatch(tag) is None:
            raise NotFound(f"{tag!r} is no tag of a process")
        return self._served(await attach_tagged(self.place, f"{self.folder}/{KEPT}", tag, replay=replay))

    def _served(self, process: TaggedProcess) -> TaggedProcess:
        self.nursery.start_soon(process.serve)
        return process

    async def processes(self) -> Sequence[ProcessInfo]:
        done = await self.demand(script(LIST, f"{self.folder}/{KEPT}"), "the processes of the Mac cannot be listed")
        listed, _, kept = done.out.decode(errors="replace").partition("\0")
        tags = {int(pid): tag for pid, tag in (line.split(" ", 1) for line in kept.splitlines())}
        found = []
        for line in listed.splitlines():
            number, parent, user, command = line.split(None, 3)
            pid = int(number)
            found.append(ProcessInfo(pid=pid, parent=int(parent), user=user, command=command, tag=tags.get(pid)))
        return found

    async def kill(self, pid: int, number: int = 9) -> None:
        if pid <= 0:
            raise InvalidArgument(f"{pid} is no number of a process")
        await self.place.signal(pid, number)
