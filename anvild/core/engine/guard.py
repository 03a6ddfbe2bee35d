"""The guard between those who use a session and the driver behind it.

Every verb is checked before the driver is called: the capability is declared, the lease's fence is the device's present
one. It is bounded by its deadline, and whatever foreign exception comes out of the driver becomes a DriverFault that is
counted against it. Processes and streams that a verb returned are guarded alike, so they end with the lease too.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Collection
from typing import Any, TypeVar

import trio

from anvild.sdk import (
    AnvilError,
    Capability,
    DeadlineExceeded,
    DriverFault,
    Exit,
    Output,
    Process,
    Session,
    StaleLease,
    TerminalSize,
    verbs_of,
)

__all__ = ["Fault", "Fences", "Guard", "call_driver", "guarded"]

T = TypeVar("T")

Fault = Callable[[str, BaseException], DriverFault]
"""Counts what a driver did wrong in a verb, and returns the error that its caller gets."""


class Fences:
    """The fence of each device's present lease in this process."""

    def __init__(self) -> None:
        self._current: dict[str, int] = {}

    def set(self, device_id: str, fence: int) -> None:
        """The device's present lease has this number."""
        self._current[device_id] = fence

    def end(self, device_id: str, fence: int) -> None:
        """The lease with this number has ended. A later one stays."""
        if self._current.get(device_id) == fence:
            del self._current[device_id]

    def holds(self, device_id: str, fence: int) -> bool:
        """Say whether this number is the present one."""
        return self._current.get(device_id) == fence


class Guard:
    """What the guarded parts of one session share."""

    def __init__(self, *, device: str, device_id: str, fence: int, fences: Fences, fault: Fault) -> None:
        self._device = device
        self._device_id = device_id
        self._fence = fence
        self._fences = fences
        self.fault = fault

    def check(self) -> None:
        """Raise StaleLease when the lease of the session is not the device's present one."""
        if not self._fences.holds(self._device_id, self._fence):
            raise StaleLease(f"the lease {self._fence} of the device {self._device!r} has ended")

    async def call(
        self, what: str, deadline: float, function: Callable[..., Awaitable[Any]], *args: Any, **kw: Any
    ) -> Any:
        """Call a verb of the driver behind all checks and return its guarded result."""
        self.check()
        result = await call_driver(self.fault, what, deadline, function, *args, **kw)
        if isinstance(result, Process):
            return _GuardedProcess(result, self)
        if isinstance(result, trio.abc.Stream):
            return _GuardedConnection(result, self)
        if isinstance(result, trio.abc.ReceiveStream):
            return _GuardedStream(result, self)
        return result


async def call_driver(
    fault: Fault, what: str, limit: float, function: Callable[..., Awaitable[T]], *args: Any, **kw: Any
) -> T:
    """Call a driver for at most ``limit`` seconds, and let nothing but errors of the interface out of it.

    What a byte stream given as an argument raises is its caller's own and passes unchanged.
    """
    sources = [_Source(value) if isinstance(value, AsyncIterable) else value for value in args]
    kw = {name: _Source(value) if isinstance(value, AsyncIterable) else value for name, value in kw.items()}
    try:
        if math.isinf(limit):
            return await function(*sources, **kw)
        with trio.move_on_after(limit):
            return await function(*sources, **kw)
    except AnvilError:
        raise
    except Exception as error:
        own = [source.error for source in (*sources, *kw.values()) if isinstance(source, _Source) and source.error]
        if own:
            raise own[0] from None
        known = _only_leaf(error)
        if isinstance(known, AnvilError):
            raise known from error
        raise fault(what, error) from error
    raise DeadlineExceeded(f"{what} did not end within {limit:g} s")


def guarded(session: Session, guard: Guard, declared: Collection[str]) -> Session:
    """Put a guard before a session: it has the declared capabilities that the session really offers, and no others."""
    offered = tuple(
        each
        for each in type(session).__mro__
        if issubclass(each, Capability) and "capability" in vars(each) and each.capability in declared
    )
    made: Session = _guarded_class(offered)(session, guard)
    return made


class _GuardedSession(Session):
    def __init__(self, session: Session, guard: Guard) -> None:
        self.device = session.device
        self._session = session
        self._guard = guard


@functools.cache
def _guarded_class(offered: tuple[type[Capability], ...]) -> type[_GuardedSession]:
    verbs = {
        name: _verb(capability, name, deadline)
        for capability in offered
        for name, deadline in verbs_of(capability).items()
    }
    made: type[_GuardedSession] = type("GuardedSession", (_GuardedSession, *offered), verbs)
    return made


def _verb(capability: type[Capability], name: str, deadline: float) -> Callable[..., Awaitable[Any]]:
    what = f"{capability.capability}.{name}"
    contract = getattr(capability, name)

    @functools.wraps(contract, assigned=("__name__", "__doc__"), updated=())
    async def verb(self: _GuardedSession, *args: Any, **kw: Any) -> Any:
        return await self._guard.call(what, deadline, getattr(self._session, name), *args, **kw)

    return verb


class _GuardedProcess(Process):
    def __init__(self, process: Process, guard: Guard) -> None:
        self._process = process
        self._guard = guard
        self.pid = process.pid
        self.tag = process.tag

    async def __aiter__(self) -> AsyncIterator[Output]:
        chunks = aiter(self._process)

        async def following() -> Output | None:
            # The end of an iteration is no error of the driver.
            return await anext(chunks, None)

        try:
            while (chunk := await self._guard.call("process.output", math.inf, following)) is not None:
                yield chunk
        finally:
            if inspect.isasyncgen(chunks):
                await chunks.aclose()

    async def send(self, data: bytes) -> None:
        await self._guard.call("process.send", math.inf, self._process.send, data)

    async def close_stdin(self) -> None:
        await self._guard.call("process.close_stdin", 30, self._process.close_stdin)

    async def wait(self) -> Exit:
        ended: Exit = await self._guard.call("process.wait", math.inf, self._process.wait)
        return ended

    async def signal(self, number: int) -> None:
        await self._guard.call("process.signal", 30, self._process.signal, number)

    async def resize(self, size: TerminalSize) -> None:
        await self._guard.call("process.resize", 30, self._process.resize, size)

    async def aclose(self) -> None:
        # Letting go is allowed when the lease has ended, too.
        await call_driver(self._guard.fault, "process.aclose", 30, self._process.aclose)


class _GuardedStream(trio.abc.ReceiveStream):
    def __init__(self, stream: trio.abc.ReceiveStream, guard: Guard) -> None:
        self._stream = stream
        self._guard = guard

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data: bytes = await self._guard.call("stream.receive", math.inf, self._stream.receive_some, max_bytes)
        return data

    async def aclose(self) -> None:
        await self._stream.aclose()


class _GuardedConnection(_GuardedStream, trio.abc.HalfCloseableStream):
    """A byte stream both ways. One that cannot be half closed is closed whole when its sending ends. That whoever is at
    its other end breaks it, or that it ends with its session, is no error of the driver."""

    def __init__(self, stream: trio.abc.Stream, guard: Guard) -> None:
        super().__init__(stream, guard)
        self._both = stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data: bytes = await self._move("stream.receive", self._both.receive_some, max_bytes)
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._move("stream.send", self._both.send_all, data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._move("stream.send", self._both.wait_send_all_might_not_block)

    async def send_eof(self) -> None:
        if isinstance(self._both, trio.abc.HalfCloseableStream):
            await self._move("stream.send_eof", self._both.send_eof)
        else:
            await self._both.aclose()

    async def _move(self, what: str, function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        broken: trio.BrokenResourceError | trio.ClosedResourceError | None = None

        async def moving() -> Any:
            nonlocal broken
            try:
                return await function(*args)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                broken = error

        moved = await self._guard.call(what, math.inf, moving)
        if broken is not None:
            raise broken
        return moved


class _Source:
    """A caller's stream that remembers what it raised, so that it is not taken for the driver's error."""

    def __init__(self, source: AsyncIterable[Any]) -> None:
        self._source = source
        self.error: Exception | None = None

    async def __aiter__(self) -> AsyncIterator[Any]:
        try:
            async for chunk in self._source:
                yield chunk
        except Exception as error:
            self.error = error
            raise


def _only_leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
