"""A driver in a process of its own: made, watched over, and ended, so that whatever it does hurts that driver alone."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import trio

from anvild.core.engine import DriverFactory, Fault, Gone
from anvild.core.logging import get_logger
from anvild.sdk import AnvilError, DeadlineExceeded, Driver, DriverFault, Unavailable
from anvild.sdk.protocol import Initialize, RemoteDriver, StdioTransport, Transport, TransportClosed, connect_driver

from .child import Child, plain_environment
from .memory import MemoryBound
from .sayings import Sayings

__all__ = ["OwnProcess"]

PING_SECONDS = 5.0
ANSWER_SECONDS = 10.0
"""A process is asked for a sign of life so often, and killed when none came for so long."""

LAST_WORDS_SECONDS = 1.0
"""How long the end of a process is waited for when its output has ended, and the end of its words after that."""

log = get_logger(__name__)


class OwnProcess(DriverFactory):
    """Makes a driver by starting its command, which speaks the driver protocol on standard input and output.

    :param start: what the driver is told at first: its settings and its places.
    :param memory: bytes that its processes may use together.
    :param directory: where the command is started; relative paths in it are meant from there.
    """

    def __init__(self, name: str, command: Sequence[str], start: Initialize, *, memory: int, directory: Path) -> None:
        self._name = name
        self._command = tuple(command)
        self._start = start
        self._directory = directory
        self._bound = MemoryBound(name, memory)
        self._sayings = Sayings(name)
        self._lives = 0
        self._pid = 0

    def facts(self) -> dict[str, str]:
        """The process, how many there have been, and how many lines of theirs did not get into the log."""
        facts = {"process_starts": str(self._lives)}
        if self._pid:
            facts["process_id"] = str(self._pid)
        if self._sayings.dropped:
            facts["log_lines_dropped"] = str(self._sayings.dropped)
        return facts

    @asynccontextmanager
    async def live(self, gone: Gone, fault: Fault) -> AsyncIterator[Driver]:
        """Start a process and shake hands with it. It is ended with all of its group when the block is left.

        Raises what the driver refuses its settings with, DriverFault when it does not come up, Unavailable when there
        is no room for a process, and for a driver of another major version of the protocol.
        """
        self._sayings.begin()
        environ = plain_environment(os.environ)
        with _one_error():
            async with _companions() as nursery:
                child = await Child.spawn(self._command, environ=environ, directory=self._directory)
                life = _Life(child, self._sayings, self._bound, gone)
                try:
                    await nursery.start(child.listen)
                    self._lives += 1
                    self._pid = child.pid
                    nursery.start_soon(life.hear)
                    nursery.start_soon(life.notice_end)
                    await child.go(await trio.to_thread.run_sync(self._bound.place, child.pid))
                    driver: RemoteDriver = await nursery.start(self._connect, life, fault)
                    nursery.start_soon(life.notice_close, driver)
                    nursery.start_soon(life.keep_asking, driver)
                    yield driver
                finally:
                    self._pid = 0
                    await life.leave()
                    with trio.CancelScope(shield=True):
                        await trio.to_thread.run_sync(self._bound.lift)

    async def _connect(self, life: _Life, fault: Fault, task_status: trio.TaskStatus[RemoteDriver]) -> None:
        """Keep the connection until the driver's end is wanted, whatever is cancelled meanwhile."""

        def count(error: DriverFault) -> None:
            fault("its protocol", error)

        try:
            async with connect_driver(
                life.transport(), self._start, on_log=self._sayings.hear, on_fault=count
            ) as driver:
                if driver.hello.name != self._name:
                    called = driver.hello.name
                    raise DriverFault(f"it calls itself {called!r}, and the settings call it {self._name!r}")
                task_status.started(driver)
                await life.leaving.wait()
        except DeadlineExceeded as error:
            life.hung = True
            raise DriverFault(await life.in_full(f"it does not come up: {error.message}")) from error
        except Unavailable as error:
            if life.over is None:
                raise
            raise DriverFault(life.over) from error


class _Life:
    """One process of the driver. ``hung`` says that it does not listen any more, ``leaving`` that its end is wanted,
    and ``over`` why it came to its end before that."""

    def __init__(self, child: Child, sayings: Sayings, bound: MemoryBound, gone: Gone) -> None:
        self.hung = False
        self.leaving = trio.Event()
        self.over: str | None = None
        self._child = child
        self._sayings = sayings
        self._bound = bound
        self._gone = gone
        self._heard = trio.Event()

    def transport(self) -> Transport:
        """The connection to the driver; its end is told by how the process has ended."""
        return _ChildTransport(StdioTransport(self._child.stdin, self._child.stdout), self)

    async def hear(self) -> None:
        """Log what the process says."""
        try:
            await self._sayings.read(self._child.stderr)
        finally:
            self._heard.set()

    async def notice_end(self) -> None:
        """End the connection with the process, though one that has left its group may hold the other end."""
        await self._child.ended.wait()
        await trio.sleep(LAST_WORDS_SECONDS)
        await self._child.stdout.aclose()

    async def notice_close(self, driver: RemoteDriver) -> None:
        """Tell of an end of the connection that is on this side: the driver broke the protocol too often."""
        await self.ended(await driver.wait_closed())

    async def leave(self) -> None:
        """End the process with its group, and what is left of the connection."""
        self.leaving.set()
        await self._child.end(gently=not self.hung)

    async def keep_asking(self, driver: RemoteDriver) -> None:
        """Ask for signs of life: a thread that is stuck in a library does not give any."""
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(PING_SECONDS)
                answered = trio.Event()
                nursery.start_soon(_ask, driver, answered)
                with trio.move_on_after(ANSWER_SECONDS):
                    await answered.wait()
                if not answered.is_set() and not self.hung:
                    self.hung = True
                    self.end(await self.in_full(f"it gave no sign of life for {ANSWER_SECONDS:g} s and was killed"))
                    await self._child.kill()

    def end(self, reason: str) -> str:
        """Tell why the driver is gone, once, and return what was told."""
        if self.over is None:
            self.over = reason
            if not self.leaving.is_set():
                self._gone(reason)
        return self.over

    async def ended(self, closed: str) -> str:
        """The connection has ended, in these words. Tell of it, and return what there is to know."""
        if self.leaving.is_set() or self.over is not None:
            return self.over or closed
        with trio.move_on_after(LAST_WORDS_SECONDS):
            await self._child.ended.wait()
        return self.end(await self.in_full(self._child.ending or closed))

    async def in_full(self, reason: str) -> str:
        """Add to a reason what makes it plain: want of memory, and the last words."""
        with trio.move_on_after(LAST_WORDS_SECONDS if self._child.ended.is_set() else 0):
            await self._heard.wait()
        if await trio.to_thread.run_sync(self._bound.reached):
            reason += f"; it reached its memory limit of {self._bound.limit / 2**20:.0f} MiB"
        if words := self._sayings.last_words:
            reason += f"; last words: {words}"
        return reason


class _ChildTransport(Transport):
    """The pipes of a child, whose end is told in the words of the child's end."""

    def __init__(self, pipes: StdioTransport, life: _Life) -> None:
        self._pipes = pipes
        self._life = life

    async def send(self, message: str | bytes) -> None:
        try:
            await self._pipes.send(message)
        except TransportClosed as closed:
            raise TransportClosed(await self._life.ended(closed.reason)) from None

    async def receive(self) -> str | bytes:
        try:
            return await self._pipes.receive()
        except TransportClosed as closed:
            raise TransportClosed(await self._life.ended(closed.reason)) from None

    async def aclose(self) -> None:
        await self._pipes.aclose()


async def _ask(driver: RemoteDriver, answered: trio.Event) -> None:
    try:
        await driver.ping()
    except AnvilError as error:
        log.debug("ping", error=error.message)  # an error is an answer, too
    answered.set()


@asynccontextmanager
async def _companions() -> AsyncIterator[trio.Nursery]:
    """A nursery whose tasks go on until the block has been left, though it be left because of a cancellation."""
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope(shield=True)
        try:
            yield await nursery.start(partial(_hold, scope))
        finally:
            scope.cancel()


async def _hold(scope: trio.CancelScope, task_status: trio.TaskStatus[trio.Nursery]) -> None:
    with scope:
        async with trio.open_nursery() as nursery:
            task_status.started(nursery)
            await trio.sleep_forever()


@contextmanager
def _one_error() -> Iterator[None]:
    """Let a single error out of the groups that nurseries put round it."""
    try:
        yield
    except BaseExceptionGroup as group:
        leaf: BaseException = group
        while isinstance(leaf, BaseExceptionGroup) and len(leaf.exceptions) == 1:
            leaf = leaf.exceptions[0]
        if leaf is group or isinstance(leaf, BaseExceptionGroup):
            raise
        raise leaf from group
