"""What a driver holds open for its host: sessions, and their processes and byte streams."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import trio

from ..capabilities import Process
from ..driver import Session
from ..errors import AnvilError, Unavailable, WrongState
from ..values import Output, Stream
from .frames import FRAME_LIMIT, STDERR, STDOUT, WINDOW
from .messages import StartedProcess, StreamPair, StreamResult
from .methods import Result
from .peer import Peer
from .streams import Dropped, Inlet, Outlet

__all__ = ["Holdings", "OpenProcess", "OpenSession", "Processes", "Source"]

T = TypeVar("T")

LET_GO_SECONDS = 5.0

Fault = Callable[[str, Exception], AnvilError]
"""Turns whatever came out of a driver into an error of the interface, and writes a defect to the log."""


class Source:
    """A byte stream that goes with a request: what the verb's parameter is on this side."""

    def __init__(self, inlet: Inlet) -> None:
        self._inlet = inlet

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self._inlet.receive()
        if chunk is None:
            raise StopAsyncIteration
        return chunk[1]


class OpenProcess:
    """A process that the host holds."""

    def __init__(self, process: Process, holdings: Holdings) -> None:
        self.process = process
        self.holdings = holdings


class Processes:
    """All processes that the host holds, by the numbers that it knows them by."""

    def __init__(self) -> None:
        self.numbers = itertools.count(1)
        self.open: dict[int, OpenProcess] = {}


class OpenSession:
    """A session that the host holds, and its end."""

    def __init__(self, session: Session, holdings: Holdings) -> None:
        self.session = session
        self.holdings = holdings
        self.closing = trio.Event()
        self.done = trio.Event()
        self.error: AnvilError | None = None


class Holdings:
    """The processes and byte streams that came out of one session, or of the driver itself."""

    def __init__(self, what: str, peer: Peer, nursery: trio.Nursery, processes: Processes, fault: Fault) -> None:
        self.what = what
        self._calls: dict[trio.CancelScope, trio.Event] = {}
        self._closed = False
        self._peer = peer
        self._nursery = nursery
        self._processes = processes
        self._fault = fault
        self._mine: set[int] = set()
        self._flows: dict[trio.CancelScope, trio.Event] = {}

    def take(self, method: str, kind: Result, value: Any) -> tuple[Any, Callable[[], None]]:
        """Hold what a verb has returned; return what the host is told of it, and what to do once it has been told.

        Raises TypeError for a value that is not what the verb promises.
        """
        if kind is not Result.VALUE and self._closed:
            self._nursery.start_soon(self._close, method, value)
            raise WrongState(f"{self.what} has been closed")
        match kind:
            case Result.VALUE:
                return value, _nothing
            case Result.PROCESS:
                return self._take_process(_checked(value, Process))
            case Result.STREAM:
                return self._take_stream(method, _checked(value, trio.abc.ReceiveStream))
            case Result.STREAM_PAIR:
                return self._take_pair(method, _checked(value, trio.abc.Stream))

    def _take_stream(self, method: str, stream: trio.abc.ReceiveStream) -> tuple[Any, Callable[[], None]]:
        outlet = self._peer.new_outlet(WINDOW)

        async def flow() -> None:
            try:
                await self._pump(method, stream, outlet)
            finally:
                await self._close(method, stream)

        return StreamResult(outlet.stream), lambda: self._flow(outlet, flow)

    def _take_pair(self, method: str, stream: trio.abc.Stream) -> tuple[Any, Callable[[], None]]:
        outlet, inlet = self._peer.new_outlet(WINDOW), self._peer.new_inlet(WINDOW)

        async def flow() -> None:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._drain, method, stream, inlet)
                    with trio.CancelScope() as scope:
                        outlet.on_stop = scope.cancel
                        await self._pump(method, stream, outlet)
            finally:
                outlet.end(WrongState(f"{self.what} has been closed"))
                inlet.drop()
                await self._close(method, stream)

        return StreamPair(receive=outlet.stream, send=inlet.stream), lambda: self._flow(None, flow)

    def _take_process(self, process: Process) -> tuple[Any, Callable[[], None]]:
        number = next(self._processes.numbers)
        outlet = self._peer.new_outlet(0)
        self._processes.open[number] = OpenProcess(process, self)
        self._mine.add(number)
        told = StartedProcess(process=number, pid=process.pid, tag=process.tag, output=outlet.stream)
        return told, lambda: self._flow(outlet, self._pump_process, process, outlet)

    @contextmanager
    def calling(self, scope: trio.CancelScope) -> Iterator[None]:
        """A verb is at work within ``scope``."""
        self._calls[scope] = ended = trio.Event()
        try:
            yield
        finally:
            del self._calls[scope]
            ended.set()

    def forget(self, number: int) -> None:
        """The host has let go of a process."""
        self._mine.discard(number)
        self._processes.open.pop(number, None)

    async def release(self) -> None:
        """Let go of everything that is still open, within a time limit for each step."""
        self._closed = True
        for scope in (*self._calls, *self._flows):
            scope.cancel()
        with trio.move_on_after(LET_GO_SECONDS):
            for ended in (*self._calls.values(), *self._flows.values()):
                await ended.wait()
        for number in list(self._mine):
            process = self._processes.open[number].process
            self.forget(number)
            await self._close("process.aclose", process)

    # ----- the tasks that move bytes

    def _flow(self, outlet: Outlet | None, function: Callable[..., Any], *args: Any) -> None:
        scope = trio.CancelScope()
        self._flows[scope] = ended = trio.Event()
        if outlet is not None:
            outlet.on_stop = scope.cancel

        async def run() -> None:
            try:
                with scope:
                    await function(*args)
            finally:
                self._flows.pop(scope, None)
                ended.set()

        self._nursery.start_soon(run)

    async def _pump(self, method: str, stream: trio.abc.ReceiveStream, outlet: Outlet) -> None:
        error: AnvilError | None = WrongState(f"{self.what} has been closed")
        try:
            while True:
                await outlet.wait_credit()
                data = await stream.receive_some(FRAME_LIMIT)
                if not data:
                    break
                await outlet.send(data)
            error = None
        except Dropped:
            pass  # the host wants nothing more
        except (trio.BrokenResourceError, trio.ClosedResourceError) as broken:
            error = Unavailable(str(broken) or "the connection has broken")
        except Exception as raised:
            error = self._fault(method, raised)
        finally:
            outlet.end(error)

    async def _drain(self, method: str, stream: trio.abc.Stream, inlet: Inlet) -> None:
        try:
            while (chunk := await inlet.receive()) is not None:
                await stream.send_all(chunk[1])
            if isinstance(stream, trio.abc.HalfCloseableStream):
                await stream.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError, AnvilError):
            pass  # the host is told by the drop
        except Exception as error:
            self._fault(method, error)
        finally:
            inlet.drop()

    async def _pump_process(self, process: Process, outlet: Outlet) -> None:
        error: AnvilError | None = None
        chunks: AsyncIterator[Output] | None = None
        try:
            await outlet.wait_credit()
            chunks = aiter(process)
            async for chunk in chunks:
                await outlet.send(chunk.data, STDERR if chunk.stream is Stream.STDERR else STDOUT)
        except Dropped:
            pass  # the host wants nothing more
        except Exception as raised:
            error = self._fault("process.output", raised)
        finally:
            outlet.end(error)
            if inspect.isasyncgen(chunks):
                with trio.move_on_after(LET_GO_SECONDS, shield=True):
                    await chunks.aclose()

    async def _close(self, method: str, stream: trio.abc.AsyncResource | Process) -> None:
        with trio.move_on_after(LET_GO_SECONDS, shield=True):
            try:
                await stream.aclose()
            except Exception as error:
                self._fault(method, error)


def _checked(value: object, expected: type[T]) -> T:
    if isinstance(value, expected):
        return value
    raise TypeError(f"it returned {type(value).__name__}, not {expected.__name__}")


def _nothing() -> None: ...
