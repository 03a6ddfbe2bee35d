"""A program in a guest, seen from the host."""

from __future__ import annotations

import weakref
from collections.abc import AsyncIterator

import msgspec
import trio

from ..capabilities import Process
from ..errors import AnvilError, DriverFault, WrongState
from ..values import Exit, Output, Stream, TerminalSize
from .client import AgentStream, checked
from .protocol import Close, Kind


class _Ended(msgspec.Struct, frozen=True):
    """The end of a program, as the guest tells it."""

    code: int | None = None
    signal: int | None = None
    dropped: int = 0


class _Outputs(AsyncIterator[Output]):
    """One iteration over a program's output."""

    def __init__(self, stream: AgentStream) -> None:
        self._stream = stream

    async def __anext__(self) -> Output:
        received = await self._stream.receive()
        if received is None:
            raise StopAsyncIteration
        kind, data = received
        return Output(stream=Stream.STDERR if kind is Kind.EXTRA else Stream.STDOUT, data=data)


class AgentProcess(Process):
    """A program in a guest.

    ``dropped`` counts the bytes of output that a tagged process has lost because nobody read them.
    """

    def __init__(self, stream: AgentStream, *, pid: int, tag: str | None, terminal: bool, stdin: bool) -> None:
        self.pid = pid
        self.tag = tag
        self.dropped = 0
        self._stream = stream
        self._terminal = terminal
        self._stdin = stdin
        self._outputs: weakref.ref[_Outputs] | None = None
        self._exit: Exit | None = None

    def __aiter__(self) -> AsyncIterator[Output]:
        outputs = _Outputs(self._stream)
        self._outputs = weakref.ref(outputs, lambda _: self._stream.changed.unpark_all())
        return outputs

    async def send(self, data: bytes) -> None:
        if not self._stdin or self._stream.input_closed:
            raise WrongState("the standard input of the process is closed, or was not asked for")
        await self._stream.send(data)

    async def close_stdin(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._stdin:
            self._stdin = self._terminal
            if not self._stream.ended:
                self._stream.send_eof()

    async def wait(self) -> Exit:
        while not self._stream.ended:
            if self._outputs is not None and self._outputs() is not None:
                await self._stream.changed.park()
            elif await self._stream.receive() is None:
                break
        ended = checked(await self._stream.end(), _Ended)
        if ended.code is None and ended.signal is None:
            raise DriverFault("the guest agent did not say how a process ended")
        self.dropped = ended.dropped
        self._exit = Exit(code=ended.code, signal=ended.signal)
        return self._exit

    async def signal(self, number: int) -> None:
        await trio.lowlevel.checkpoint()
        self._stream.control({"signal": number})

    async def resize(self, size: TerminalSize) -> None:
        if not self._terminal:
            raise WrongState("the process has no terminal")
        await trio.lowlevel.checkpoint()
        self._stream.control({"size": [size.columns, size.rows]})

    async def aclose(self) -> None:
        self._stream.close(Close.RELEASE if self._exit is None else Close.COLLECTED)
        await trio.lowlevel.cancel_shielded_checkpoint()


async def begin(
    stream: AgentStream, *, tag: str | None, terminal: bool = False, stdin: bool = False, undo: Close = Close.UNDO
) -> AgentProcess:
    """Return the process that a stream has begun; ``undo`` it when that fails or is cancelled."""
    try:
        started = checked(await stream.answer(), _Started)
    except (AnvilError, trio.Cancelled):
        stream.close(undo)
        raise
    process = AgentProcess(
        stream,
        pid=started.pid,
        tag=tag,
        terminal=started.terminal or terminal,
        stdin=started.stdin or stdin or terminal,
    )
    process.dropped = started.dropped
    return process


class _Started(msgspec.Struct, frozen=True):
    """A program that runs, or was taken up again, as the guest tells it."""

    pid: int
    terminal: bool = False
    stdin: bool = False
    dropped: int = 0
