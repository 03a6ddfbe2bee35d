"""Programs of a device, seen from the host: the reader that all of them share, and those that end with their stream."""

from __future__ import annotations

import signal
import weakref
from collections.abc import AsyncIterator, Callable

import trio

from anvild.sdk import (
    AlreadyExists,
    AnvilError,
    DeviceLost,
    DriverFault,
    Exit,
    NotFound,
    Output,
    PermissionDenied,
    Process,
    Stream,
    TerminalSize,
    WrongState,
)

from ..adb.shell import Shell
from ..link import Link

__all__ = ["LiveProcess", "ShellProcess", "check_head", "end_group", "exit_of", "read_head"]

KILL_SECONDS = 0.8
HEAD_LIMIT = 4096
LAST_SIGNAL = 64

KILL = 'kill -"$2" "-$1" 2>/dev/null || kill -"$2" "$1" 2>/dev/null'
SIGNAL = 'kill -"$2" "$1" 2>/dev/null'


def exit_of(code: int) -> Exit:
    """Return how a program ended by the code that a shell gives it: 128 and more is the number of a signal."""
    if 128 < code <= 128 + LAST_SIGNAL:
        return Exit(code=None, signal=code - 128)
    return Exit(code=code)


def check_head(head: str, what: str) -> str:
    """Return the line that a script of ours says first, unless it begins with ``!`` and tells why it goes no further:
    that is raised as the error that it means."""
    if not head.startswith("!"):
        return head
    word, _, name = head[1:].partition(" ")
    errors: dict[str, AnvilError] = {
        "missing": NotFound(f"the device has no {name}"),
        "denied": PermissionDenied(f"the device's shell may not use the {name}"),
        "taken": AlreadyExists(f"the tag {what!r} is in use"),
    }
    raise errors.get(word, DriverFault(f"the device did not start {what!r}: {head[1:]}"))


async def read_head(shell: Shell, what: str) -> tuple[str, list[Output]]:
    """Read the first line that a script of ours says, and return it with the output that came by the same time: the
    two streams overtake one another."""
    said = b""
    errors = b""
    while b"\n" not in said and len(said) < HEAD_LIMIT:
        received = await shell.receive()
        if received is None:
            raise DriverFault(f"the device did not start {what!r}: {errors.decode('utf-8', 'replace').strip()}")
        if received[0] is Stream.STDERR:
            errors += received[1]
        else:
            said += received[1]
    line, _, rest = said.partition(b"\n")
    early = [Output(stream=Stream.STDERR, data=errors), Output(stream=Stream.STDOUT, data=rest)]
    return check_head(line.decode("utf-8", "replace").strip(), what), [each for each in early if each.data]


class _Outputs(AsyncIterator[Output]):
    """One iteration over a program's output."""

    def __init__(self, process: ShellProcess) -> None:
        self._process = process

    async def __anext__(self) -> Output:
        received = await self._process.receive()
        if received is None:
            raise StopAsyncIteration
        return received


class ShellProcess(Process):
    """A program whose output comes by a shell stream, which also tells how it ended."""

    def __init__(self, link: Link, shell: Shell, *, pid: int, early: list[Output]) -> None:
        self.pid = pid
        self._link = link
        self._shell = shell
        self._early = early
        self._outputs: weakref.ref[_Outputs] | None = None
        self._changed = trio.lowlevel.ParkingLot()
        self._receiving = False
        self._closed = False
        self.on_close: Callable[[ShellProcess], None] | None = None

    @property
    def ended(self) -> bool:
        """Whether it is known how the program ended."""
        return self._shell.code is not None

    def __aiter__(self) -> AsyncIterator[Output]:
        outputs = _Outputs(self)
        self._outputs = weakref.ref(outputs, lambda _: self._changed.unpark_all())
        return outputs

    async def receive(self) -> Output | None:
        """Return the next chunk of output, or None at the end. Raises DeviceLost."""
        if self._early:
            await trio.lowlevel.checkpoint()
            return self._early.pop(0)
        if self._closed and not self.ended:
            raise WrongState("the process has been let go of")
        self._receiving = True
        try:
            received = await self._shell.receive()
        except trio.ClosedResourceError:
            raise WrongState("the process has been let go of") from None
        finally:
            self._receiving = False
            self._changed.unpark_all()
        return None if received is None else Output(stream=received[0], data=received[1])

    async def wait(self) -> Exit:
        while not self.ended:
            if self._receiving or (self._outputs is not None and self._outputs() is not None):
                await self._changed.park()
            elif await self.receive() is None:
                break
        await trio.lowlevel.checkpoint()
        assert self._shell.code is not None
        return exit_of(self._shell.code)

    async def signal(self, number: int) -> None:
        if self.ended:
            await trio.lowlevel.checkpoint()
        else:
            # What is killed is to be gone with what it has started; other signals are the program's to pass on.
            await self._link.shell(KILL if number == signal.SIGKILL else SIGNAL, str(self.pid), str(number))

    async def aclose(self) -> None:
        if self._closed:
            await trio.lowlevel.checkpoint()
            return
        self._closed = True
        self._changed.unpark_all()
        with trio.move_on_after(KILL_SECONDS, shield=True):
            await self._shell.aclose()
            await self._let_go()
        if self.on_close is not None:
            self.on_close(self)
        await trio.lowlevel.checkpoint_if_cancelled()

    async def _let_go(self) -> None:
        """Do what is left to do when the stream is closed."""
        raise NotImplementedError


class LiveProcess(ShellProcess):
    """A program at the other end of a shell stream. Closing the stream ends the program."""

    tag = None

    def __init__(self, link: Link, shell: Shell, *, pid: int, early: list[Output], stdin: bool, terminal: bool) -> None:
        super().__init__(link, shell, pid=pid, early=early)
        self._stdin = stdin
        self._terminal = terminal

    async def send(self, data: bytes) -> None:
        if not self._stdin or self.ended:
            raise WrongState("the standard input of the process is closed, or was not asked for")
        await self._shell.send(data)

    async def close_stdin(self) -> None:
        if self._terminal and not self.ended:
            await self._shell.send(b"\x04")  # the end of input as a terminal knows it
        elif self._stdin and not self.ended:
            self._stdin = False
            await self._shell.close_stdin()
        else:
            await trio.lowlevel.checkpoint()

    async def resize(self, size: TerminalSize) -> None:
        if not self._terminal:
            raise WrongState("the process has no terminal")
        await self._shell.resize(size)

    async def _let_go(self) -> None:
        # The hang-up that follows the end of a stream does not end a program that ignores it, nor its children.
        if not self.ended:
            await end_group(self._link, self.pid)


async def end_group(link: Link, pid: int) -> None:
    """Kill a program and what it has started; one that has ended, or whose device has gone, is no error."""
    try:
        await link.shell(KILL, str(pid), str(int(signal.SIGKILL)))
    except DeviceLost:
        return
