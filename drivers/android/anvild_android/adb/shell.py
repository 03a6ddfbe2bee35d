"""The shell services of a device: version 2 with exit codes and separate streams, and the older one without."""

from __future__ import annotations

import secrets
import struct
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable

import msgspec
import trio

from anvild.sdk import Stream, TerminalSize, WrongState

from .wire import AdbStream, Closed

__all__ = ["LegacyShell", "Shell", "ShellResult", "ShellV2", "open_shell"]

STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN, WINDOW_SIZE = range(6)
HEADER = struct.Struct("<BI")
PIECE = 16384
CHUNK = 65536

Opener = Callable[[str], Awaitable[AdbStream]]


class ShellResult(msgspec.Struct, frozen=True):
    """What a short command left. ``code`` is 128 and more for one that a signal ended."""

    code: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as text, without the white space around it."""
        return self.stdout.decode("utf-8", "replace").strip()

    @property
    def said(self) -> str:
        """What the command said of its failure: its standard error, or else its output."""
        return self.stderr.decode("utf-8", "replace").strip() or self.text


class Shell(ABC):
    """A command that runs in a device's shell. One task receives at a time.

    Closing it closes the stream: the device's adbd then hangs up on the command.
    """

    code: int | None = None

    @abstractmethod
    async def receive(self) -> tuple[Stream, bytes] | None:
        """Return some output, or None at the end; ``code`` is there from then on. Raises DeviceLost."""

    @abstractmethod
    async def send(self, data: bytes) -> None:
        """Write to standard input. Raises WrongState, DeviceLost."""

    @abstractmethod
    async def close_stdin(self) -> None:
        """Close standard input."""

    @abstractmethod
    async def resize(self, size: TerminalSize) -> None:
        """Change the size of the terminal."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close the stream."""

    async def collect(self, limit: int) -> ShellResult:
        """Read to the end, at most ``limit`` bytes of each stream; the rest is dropped."""
        kept = {Stream.STDOUT: bytearray(), Stream.STDERR: bytearray()}
        while (received := await self.receive()) is not None:
            stream, data = received
            kept[stream] += data[: max(limit - len(kept[stream]), 0)]
        assert self.code is not None
        return ShellResult(self.code, bytes(kept[Stream.STDOUT]), bytes(kept[Stream.STDERR]))


class ShellV2(Shell):
    """The service ``shell,v2``: packets of an id, a length and bytes."""

    def __init__(self, stream: AdbStream) -> None:
        self._stream = stream
        self._kind = STDOUT
        self._due = 0
        self._sending = trio.Lock()

    async def receive(self) -> tuple[Stream, bytes] | None:
        while self.code is None:
            try:
                if not self._due:
                    self._kind, self._due = HEADER.unpack(await self._stream.receive_exactly(HEADER.size))
                    if self._kind == EXIT:
                        self.code = (await self._stream.receive_exactly(self._due))[0]
                        return None
                    continue
                data = await self._stream.receive_some(min(self._due, CHUNK))
            except Closed:
                raise self._stream.lost() from None
            if not data:
                raise self._stream.lost()
            self._due -= len(data)
            if self._kind in (STDOUT, STDERR):
                return (Stream.STDOUT if self._kind == STDOUT else Stream.STDERR), data
        return None

    async def send(self, data: bytes) -> None:
        for at in range(0, len(data), PIECE):
            piece = data[at : at + PIECE]
            await self._packet(STDIN, piece)

    async def close_stdin(self) -> None:
        await self._packet(CLOSE_STDIN, b"")

    async def resize(self, size: TerminalSize) -> None:
        await self._packet(WINDOW_SIZE, f"{size.rows}x{size.columns},0x0\0".encode())

    async def _packet(self, kind: int, data: bytes) -> None:
        if self.code is not None:
            raise WrongState("the process has ended and takes no more input")
        async with self._sending:  # a packet of one task is not cut by another's
            await self._stream.send_all(HEADER.pack(kind, len(data)) + data)

    async def aclose(self) -> None:
        await self._stream.aclose()


class LegacyShell(Shell):
    """The service ``exec`` of devices before Android 7: one stream of output, whose last line tells the exit code.

    Standard input cannot be closed there, and is not offered.
    """

    def __init__(self, stream: AdbStream, mark: bytes) -> None:
        self._stream = stream
        self._mark = mark
        self._rest = b""

    async def receive(self) -> tuple[Stream, bytes] | None:
        while self.code is None:
            data = await self._stream.receive_some(CHUNK)
            self._rest += data
            if not data:
                before, found, code = self._rest.rpartition(self._mark)
                if not found:
                    raise self._stream.lost()
                self.code = int(code.strip() or b"0")
                return (Stream.STDOUT, before) if before else None
            tail = len(self._mark) + 8  # the mark and the code may be the last bytes of this chunk
            ready, self._rest = self._rest[:-tail], self._rest[-tail:]
            if ready:
                return Stream.STDOUT, ready
        return None

    async def send(self, data: bytes) -> None:
        raise WrongState("this device is too old for a standard input that can be closed")

    async def close_stdin(self) -> None:
        await trio.lowlevel.checkpoint()

    async def resize(self, size: TerminalSize) -> None:
        raise WrongState("this device is too old for terminals")

    async def aclose(self) -> None:
        await self._stream.aclose()


async def open_shell(
    opener: Opener, features: frozenset[str], command: str, *, terminal: TerminalSize | None = None
) -> Shell:
    """Start a command in the device's shell. Raises WrongState for a terminal on a device that is too old."""
    if "shell_v2" in features:
        if terminal is None:
            return ShellV2(await opener(f"shell,v2,raw:{command}"))
        shell = ShellV2(await opener(f"shell,v2,TERM=xterm-256color,pty:{command}"))
        try:
            await shell.resize(terminal)
        except BaseException:
            with trio.CancelScope(shield=True):
                await shell.aclose()
            raise
        return shell
    if terminal is not None:
        raise WrongState("this device is too old for terminals")
    mark = f"anvil-{secrets.token_hex(8)}:"
    return LegacyShell(await opener(f"exec:({command}\n) 2>&1; echo {mark}$?"), mark.encode())
