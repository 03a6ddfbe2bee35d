"""A program that runs on a Mac, seen from here: its streams, and how it is ended with nothing left behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import struct
import subprocess
import termios
import tty
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import trio

from anvild.sdk import AnvilError, DeviceLost, NotFound, PermissionDenied, TerminalSize, Unavailable

if TYPE_CHECKING:
    from .keeper import Keeper

HANG_UP_SECONDS = 0.7
CHUNK = 65536
PREFACE_LIMIT = 65536
PREFACE = re.compile(rb"(?:^|\n)(?:pid (\d+)|(missing|denied|folder))\r?\n")
TAIL = 4096

Failed = Callable[[int], Awaitable[AnvilError | None]]
"""What an exit code of the transport means: an error when the transport itself has failed."""


class Output(trio.abc.ReceiveStream):
    """A byte stream that begins with bytes which were read too early."""

    def __init__(self, stream: trio.abc.ReceiveStream, first: bytes = b"") -> None:
        self._stream = stream
        self._first = first

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._first:
            await trio.lowlevel.checkpoint()
            size = len(self._first) if max_bytes is None else max_bytes
            data, self._first = self._first[:size], self._first[size:]
            return data
        try:
            return bytes(await self._stream.receive_some(CHUNK if max_bytes is None else max_bytes))
        except trio.BrokenResourceError:  # a terminal whose other end has gone (EIO) has ended
            return b""

    async def aclose(self) -> None:
        await self._stream.aclose()


class Child:
    """A program on a Mac, run through a local child process. Made by :meth:`anvild_macos.place.Place.start`.

    ``pid`` is the program's on the Mac, where it leads a process group of its own. :meth:`aclose` hangs up: the program
    is ended within a few seconds, whether it looks at its streams or not.
    """

    def __init__(self, process: trio.Process, failed: Failed, release: Callable[[], None], master: int | None) -> None:
        self.pid = 0
        self.keeper: Keeper | None = None
        self._process = process
        self._failed = failed
        self._release = release
        self._master = master
        if master is None:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            self.stdin: trio.abc.SendStream = process.stdin
            self.stdout = Output(process.stdout)
            self.stderr: Output | None = Output(process.stderr)
        else:
            terminal = trio.lowlevel.FdStream(master)
            self.stdin = terminal
            self.stdout = Output(terminal)
            self.stderr = None

    async def wait(self) -> int:
        """Return the exit code: 128 and the number of the signal for one that a signal has ended. Raises DeviceLost
        when the connection broke meanwhile."""
        code = await self._process.wait()
        trouble = await self._failed(code)
        if trouble is not None:
            raise trouble
        return code

    def resize(self, size: TerminalSize) -> None:
        """Change the size of the terminal at this end."""
        assert self._master is not None
        if self._process.returncode is None:
            set_size(self._master, size)

    async def introduce(self, what: str) -> None:
        """Read what became of the start. Raises NotFound, PermissionDenied, Unavailable, DeviceLost."""
        read = b""
        while (found := PREFACE.search(read)) is None:
            chunk = await self.stdout.receive_some()
            if not chunk or len(read) > PREFACE_LIMIT:
                said = await tail(self.stderr)
                code = await self.wait()
                raise Unavailable(f"{what} could not be started (exit code {code}): {said or 'no reason was told'}")
            read += chunk
        if found[1]:
            self.pid = int(found[1])
            self.stdout = Output(self.stdout, read[found.end() :])
        elif found[2] == b"missing":
            raise NotFound(f"there is no program {what!r} on the Mac")
        elif found[2] == b"folder":
            raise NotFound(f"the folder to start {what!r} in is not there, or may not be entered")
        else:
            raise PermissionDenied(f"{what!r} may not be executed on the Mac")

    async def first_line(self) -> bytes:
        """Return the first line of output without its end; what there is when the output ends before."""
        read = b""
        while b"\n" not in read:
            chunk = await self.stdout.receive_some()
            if not chunk:
                return read
            read += chunk
        line, _, rest = read.partition(b"\n")
        self.stdout = Output(self.stdout, rest)
        return line

    async def aclose(self) -> None:
        """Hang up, and wait until the local child process has ended. Closing twice is fine."""
        with trio.CancelScope(shield=True):
            if self.keeper is not None and self.pid:
                keeper, self.keeper = self.keeper, None
                with contextlib.suppress(DeviceLost):  # then it has been ended with the connection
                    await (keeper.end(self.pid) if self._process.returncode is None else keeper.drop(self.pid))
            for stream in (self.stdin, self.stdout, self.stderr):
                if stream is not None:
                    await trio.aclose_forcefully(stream)
            with trio.move_on_after(HANG_UP_SECONDS):
                await self._process.wait()
            if self._process.returncode is None:
                self._process.kill()
                await self._process.wait()
            self._release()
        await trio.lowlevel.checkpoint_if_cancelled()


async def open_child(
    words: Sequence[str],
    failed: Failed,
    release: Callable[[], None],
    *,
    terminal: TerminalSize | None = None,
) -> Child:
    """Start ``words`` as a local child process of its own session, at a terminal or at three pipes."""
    if terminal is None:
        process = await trio.lowlevel.open_process(
            list(words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        return Child(process, failed, release, None)
    master, slave = os.openpty()
    try:
        tty.setraw(slave)
        set_size(slave, terminal)
        process = await trio.lowlevel.open_process(
            list(words),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm-256color"},
        )
    except BaseException:
        os.close(master)
        raise
    finally:
        os.close(slave)
    return Child(process, failed, release, master)


async def tail(stream: trio.abc.ReceiveStream | None) -> str:
    """Read a stream to its end and return its last words, one line."""
    kept = b""
    if stream is not None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while chunk := await stream.receive_some(CHUNK):
                kept = (kept + chunk)[-TAIL:]
    return last_line(kept)


def last_line(data: bytes) -> str:
    """Return the last line with something in it."""
    lines = [line.strip() for line in data.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""


def set_size(descriptor: int, size: TerminalSize) -> None:
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("<HHHH", size.rows, size.columns, 0, 0))
