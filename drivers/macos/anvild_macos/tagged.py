"""Programs with a tag: they outlive the connection, their session and the daemon.

A small Perl script on the Mac keeps each of them. Perl is a part of macOS and needs no Xcode.
"""

from __future__ import annotations

import contextlib
import secrets
import struct
import weakref
from collections.abc import AsyncIterator, Sequence
from enum import IntEnum
from pathlib import Path

import trio

from anvild.sdk import (
    AlreadyExists,
    AnvilError,
    Command,
    DeviceLost,
    Exit,
    InvalidArgument,
    NotFound,
    Output,
    PermissionDenied,
    Process,
    Stream,
    TerminalSize,
    Unavailable,
    WrongState,
)

from .child import Child
from .place import Done, Place
from .shell import job, script

KEPT_OUTPUT = 4 * 2**20
"""Bytes of output that are kept of each program for the next reader."""

KEEPER = Path(__file__).with_name("tagged.pl").read_text()
START = 'keeper=$1; shift; umask 077; mkdir -p -- "${2%/*}" && exec perl -e "$keeper" -- "$@"'
ATTACH = 'exec perl -e "$1" -- attach "$2"'
# The keeper first, so that it starts nothing more.
END = """\
end() {
  for each in "$1/keeper" "$1/pid"; do [ ! -e "$each" ] || kill -KILL -- "-$(cat -- "$each")" 2>/dev/null; done
  rm -rf -- "$1"
}
"""
END_ALL = END + 'for one in "$1"/*/; do [ ! -d "$one" ] || end "${one%/}"; done'
END_OWN = END + '[ "$(cat -- "$1/owner" 2>/dev/null)" != "$2" ] || end "$1"'
HEAD = struct.Struct(">BI")
CLEAN_UP_SECONDS = 5.0
LET_GO_SECONDS = 0.5
SENT_AT_ONCE = 32768


class Kind(IntEnum):
    """The kinds of frames, from the keeper and to it."""

    HELLO = 0
    OUTPUT = 1
    ERRORS = 2
    END = 3
    BEGIN = 0
    INPUT = 1
    END_OF_INPUT = 2
    COLLECTED = 3


class TaggedProcess(Process):
    """A program that is kept on the Mac; letting go of it leaves it running."""

    def __init__(self, place: Place, child: Child, tag: str) -> None:
        self.tag = tag
        self.dropped = 0
        self._place = place
        self._child = child
        self._read = bytearray()
        self._stdin = False
        self._exit: Exit | None = None
        self._error: AnvilError | None = None
        self._closed = False
        self._gone = trio.Event()
        self._outputs: weakref.ref[_Outputs] | None = None
        self._changed = trio.lowlevel.ParkingLot()
        self._sending = trio.Lock()

    async def serve(self) -> None:
        """Let go of the process when the session ends, unless its holder has done so before."""
        try:
            await self._gone.wait()
        finally:
            await self.aclose()

    async def begin(self, *, replay: bool) -> None:
        """Ask for the output, and learn what the program is."""
        await self._send(Kind.BEGIN, b"replay" if replay else b"attach")
        hello = await self._frame()
        pid, stdin, dropped = hello[1].split()
        self.pid, self._stdin, self.dropped = int(pid), stdin == b"1", int(dropped)

    async def receive(self) -> Output | None:
        """Return the next piece of output, or None at the end."""
        if self._exit is not None:
            return None
        kind, data = await self._frame()
        if kind is not Kind.END:
            return Output(stream=Stream.STDOUT if kind is Kind.OUTPUT else Stream.STDERR, data=data)
        how, number, dropped = data.split()
        self._exit = Exit(code=None, signal=int(number)) if how == b"signal" else Exit(code=int(number))
        self.dropped = int(dropped)
        self._changed.unpark_all()
        return None

    def __aiter__(self) -> AsyncIterator[Output]:
        outputs = _Outputs(self)
        self._outputs = weakref.ref(outputs, lambda _: self._changed.unpark_all())
        return outputs

    async def send(self, data: bytes) -> None:
        if not self._stdin or self._exit is not None or self._closed:
            raise WrongState("the standard input of the process is closed, or was not asked for")
        for at in range(0, len(data), SENT_AT_ONCE):
            await self._send(Kind.INPUT, data[at : at + SENT_AT_ONCE])

    async def close_stdin(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._stdin and self._exit is None and not self._closed:
            self._stdin = False
            await self._send(Kind.END_OF_INPUT)

    async def wait(self) -> Exit:
        while self._exit is None:
            if self._error is not None:
                raise type(self._error)(self._error.message)
            if self._closed:
                raise WrongState("the process has been let go")
            if self._outputs is not None and self._outputs() is not None:
                await self._changed.park()
            else:
                await self.receive()
        return self._exit

    async def signal(self, number: int) -> None:
        await trio.lowlevel.checkpoint()
        if self._exit is None:
            with contextlib.suppress(NotFound):  # it has just ended
                await self._place.signal(self.pid, number)

    async def resize(self, size: TerminalSize) -> None:
        await trio.lowlevel.checkpoint()
        raise WrongState("the process has no terminal")

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self._changed.unpark_all()
            with trio.move_on_after(LET_GO_SECONDS, shield=True), contextlib.suppress(AnvilError):
                if self._exit is not None:
                    await self._send(Kind.COLLECTED)
                    while await self._child.stdout.receive_some():
                        pass  # until its keeper has gone, so that the tag is free
            self._gone.set()
            await self._child.aclose()

    async def _send(self, kind: Kind, data: bytes = b"") -> None:
        """Send a frame. One that is cut by a cancellation would garble the next: then the connection is given up."""
        async with self._sending:
            try:
                await self._child.stdin.send_all(HEAD.pack(kind, len(data)) + data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise WrongState("the process reads no more") from None
            except trio.Cancelled:
                self._lose(DeviceLost("the connection to the process was given up: attach it again"))
                raise

    async def _frame(self) -> tuple[Kind, bytes]:
        while True:
            if len(self._read) >= HEAD.size:
                kind, size = HEAD.unpack_from(self._read)
                if len(self._read) >= HEAD.size + size:
                    data = bytes(self._read[HEAD.size : HEAD.size + size])
                    del self._read[: HEAD.size + size]
                    return Kind(kind), data
            try:
                chunk = await self._child.stdout.receive_some()
            except trio.ClosedResourceError:
                raise WrongState("the process has been let go") from None
            if not chunk:
                try:
                    await self._child.wait()
                except DeviceLost as error:
                    self._lose(error)
                else:
                    self._lose(DeviceLost("the process was ended, or taken up, from elsewhere"))
                assert self._error is not None
                raise self._error
            self._read += chunk

    def _lose(self, error: AnvilError) -> None:
        self._error = error
        self._changed.unpark_all()


class _Outputs(AsyncIterator[Output]):
    """One iteration over a program's output."""

    def __init__(self, process: TaggedProcess) -> None:
        self._process = process

    async def __anext__(self) -> Output:
        found = await self._process.receive()
        if found is None:
            raise StopAsyncIteration
        return found


async def start_tagged(place: Place, folder: str, command: Command, cwd: str | None) -> TaggedProcess:
    """Start a program that is kept under its tag in a folder of the Mac, and attach it."""
    assert command.tag is not None
    if command.terminal is not None:
        raise InvalidArgument("a process with a tag has no terminal on a Mac: leave one of the two out")
    own, owner = f"{folder}/{command.tag}", secrets.token_hex(8)
    stdin = "1" if command.stdin else "0"
    words = job(command.argv, env=command.env, cwd=cwd)
    try:
        done = await place.run(script(START, KEEPER, "start", own, owner, str(KEPT_OUTPUT), stdin, *words))
        _check(done, command)
        return await attach_tagged(place, folder, command.tag, replay=True)
    except BaseException:
        with trio.move_on_after(CLEAN_UP_SECONDS, shield=True), contextlib.suppress(AnvilError):
            await place.run(script(END_OWN, own, owner), housekeeping=True)
        raise


def _check(done: Done, command: Command) -> None:
    """Raise what the keeper said of a start."""
    word = done.out.decode(errors="replace").strip()
    if word == "taken":
        raise AlreadyExists(f"the tag {command.tag!r} is in use")
    if word == "missing":
        raise NotFound(f"there is no program {command.argv[0]!r} on the Mac")
    if word == "folder":
        raise NotFound(f"the folder to start {command.argv[0]!r} in is not there, or may not be entered")
    if word == "denied":
        raise PermissionDenied(f"{command.argv[0]!r} may not be executed on the Mac")
    if not word.startswith("pid "):
        raise Unavailable(f"a process with a tag cannot be kept on the Mac: {done.said}")


async def attach_tagged(place: Place, folder: str, tag: str, *, replay: bool) -> TaggedProcess:
    """Take a kept program up. Raises NotFound."""
    child = await place.start_raw(script(ATTACH, KEEPER, f"{folder}/{tag}"))
    try:
        _check_attached(await child.first_line(), tag)
        process = TaggedProcess(place, child, tag)
        await process.begin(replay=replay)
    except BaseException:
        await child.aclose()
        raise
    return process


def _check_attached(word: bytes, tag: str) -> None:
    if word != b"ready":
        raise NotFound(f"there is no process with the tag {tag!r} on the Mac")


def end_all(folder: str) -> Sequence[str]:
    """Return the command that ends all programs that are kept in a folder."""
    return script(END_ALL, folder)
