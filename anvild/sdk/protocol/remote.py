"""What a host holds of a driver on the other side: its processes and byte streams."""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import trio

from ..capabilities import Process
from ..errors import Unavailable, WrongState
from ..values import Exit, Output, Stream, TerminalSize
from .frames import STDERR
from .messages import StartedProcess
from .methods import PROCESS, Method
from .streams import Dropped, Inlet, Outlet

__all__ = ["RemoteProcess", "RemoteReceiveStream", "RemoteStream"]

SEND_SIZE = 65536

Call = Callable[[Method, dict[str, int], tuple[Any, ...], dict[str, Any]], Awaitable[Any]]


class RemoteReceiveStream(trio.abc.ReceiveStream):
    """A byte stream from a driver."""

    def __init__(self, inlet: Inlet) -> None:
        self._inlet = inlet
        self._closed = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if max_bytes is not None and max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        if self._closed:
            raise trio.ClosedResourceError("this stream is closed")
        chunk = await self._inlet.receive(math.inf if max_bytes is None else max_bytes)
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed by another task")
        return b"" if chunk is None else chunk[1]

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Let go of the stream at once. Closing twice is fine."""
        self._closed = True
        self._inlet.drop()


class RemoteStream(RemoteReceiveStream, trio.abc.Stream):
    """A byte stream from and to a driver."""

    def __init__(self, inlet: Inlet, outlet: Outlet) -> None:
        super().__init__(inlet)
        self._outlet = outlet

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        try:
            return await super().receive_some(max_bytes)
        except Unavailable as error:
            raise trio.BrokenResourceError(error.message) from None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream is closed")
        try:
            await self._outlet.send(data)
        except Dropped:
            raise trio.BrokenResourceError("the other end does not read any more") from None

    async def wait_send_all_might_not_block(self) -> None:
        try:
            await self._outlet.wait_credit()
        except Dropped:
            raise trio.BrokenResourceError("the other end does not read any more") from None

    def close(self) -> None:
        super().close()
        self._outlet.end()


class _Outputs(AsyncIterator[Output]):
    """One iteration over a process's output."""

    def __init__(self, inlet: Inlet) -> None:
        self._inlet = inlet

    async def __anext__(self) -> Output:
        chunk = await self._inlet.receive()
        if chunk is None:
            raise StopAsyncIteration
        return Output(stream=Stream.STDERR if chunk[0] == STDERR else Stream.STDOUT, data=chunk[1])


class RemoteProcess(Process):
    """A process that a driver has started.

    Its output begins to flow when somebody iterates over it, so that what nobody reads stays where it is kept.
    """

    def __init__(self, started: StartedProcess, output: Inlet, call: Call) -> None:
        self.pid = started.pid
        self.tag = started.tag
        self.number = started.process
        self._owner = {"process": started.process}
        self._output = output
        self._call = call
        self._exit: Exit | None = None
        self._waiting = 0
        self._iteration: weakref.ref[_Outputs] | None = None
        self._closed = False

    def __aiter__(self) -> AsyncIterator[Output]:
        outputs = _Outputs(self._output)
        self._iteration = weakref.ref(outputs, lambda _: self._look())
        self._look()
        self._output.open()
        return outputs

    def _look(self) -> None:
        """Output that nobody iterates over is dropped while somebody waits for the end."""
        iterated = self._iteration is not None and self._iteration() is not None
        self._output.set_discarding(self._waiting > 0 and not iterated)

    async def send(self, data: bytes) -> None:
        for at in range(0, max(len(data), 1), SEND_SIZE):
            await self._ask("send", data[at : at + SEND_SIZE])

    async def close_stdin(self) -> None:
        await self._ask("close_stdin")

    async def wait(self) -> Exit:
        if self._exit is not None:
            await trio.lowlevel.checkpoint()
            return self._exit
        self._waiting += 1
        self._look()
        try:
            self._exit = await self._ask("wait")
        finally:
            self._waiting -= 1
            self._look()
        assert self._exit is not None
        return self._exit

    async def signal(self, number: int) -> None:
        await self._ask("signal", number)

    async def resize(self, size: TerminalSize) -> None:
        await self._ask("resize", size)

    async def aclose(self) -> None:
        if self._closed:
            await trio.lowlevel.checkpoint()
            return
        self.close()
        with contextlib.suppress(Unavailable):  # with the connection, the driver has let go of it
            await self._call(PROCESS["aclose"], self._owner, (), {})

    def close(self) -> None:
        """Take no more output, and no more calls."""
        self._closed = True
        self._output.drop()

    async def _ask(self, verb: str, *args: Any) -> Any:
        if self._closed:
            raise WrongState(f"the process {self.pid} has been let go")
        return await self._call(PROCESS[verb], self._owner, args, {})
