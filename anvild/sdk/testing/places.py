"""Where a driver stands while it is checked or driven by hand: in this process, or behind the driver protocol."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import trio

from ..driver import Driver, DriverContext
from ..errors import InvalidArgument, Unavailable
from ..protocol import (
    Initialize,
    LogLine,
    StdioTransport,
    Transport,
    TransportClosed,
    connect_driver,
    serve_driver,
)
from .loopback import loopback

__all__ = ["ChildProcess", "InProcess", "OverWebSocket", "Place", "Setup", "temporary_setup"]

END_SECONDS = 5.0


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What a driver is made with, wherever it stands: its settings as plain values, and its directories.

    Drivers that are made beside it get directories of their own in ``scratch``.
    """

    state_dir: Path
    cache_dir: Path
    scratch: Path
    settings: dict[str, Any] = {}
    host: str = "conformance"
    data_path: tuple[Path, ...] = ()


@asynccontextmanager
async def temporary_setup(
    settings: dict[str, Any], data_path: tuple[Path, ...] = (), directories: tuple[Path, Path] | None = None
) -> AsyncIterator[Setup]:
    """Have directories for a driver that are removed at the end, with all that it left in them.

    ``directories`` are those for state and cache to use instead; they stay.
    """
    root = Path(await trio.to_thread.run_sync(tempfile.mkdtemp, "", "anvil-driver-"))
    state, cache = directories or (root / "state", root / "cache")
    try:
        for folder in (state, cache):
            await trio.Path(folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        yield Setup(state_dir=state, cache_dir=cache, scratch=root, settings=settings, data_path=data_path)
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(lambda: shutil.rmtree(root, ignore_errors=True))


class Place(ABC):
    """A way to have a driver. ``name`` is what reports call it."""

    name: str

    @abstractmethod
    def driver(self, setup: Setup) -> AbstractAsyncContextManager[Driver]:
        """Have a driver that is made and not started; leaving ends what entering began, not what ``start`` did.

        Raises InvalidArgument for settings that the driver refuses, and Unavailable when it cannot be had.
        """

    def wire(self) -> AbstractAsyncContextManager[Transport] | None:
        """Have a connection to a driver on which nothing was said yet; None where there is no wire."""
        return None


class InProcess(Place):
    """The driver is an object of this process."""

    name = "inprocess"

    def __init__(self, kind: type[Driver]) -> None:
        self.kind = kind

    @asynccontextmanager
    async def driver(self, setup: Setup) -> AsyncIterator[Driver]:
        yield self.kind(context_of(self.kind, setup))


def context_of(kind: type[Driver], setup: Setup) -> DriverContext[Any]:
    """Check the settings and make the context. Raises InvalidArgument with the key and what was expected."""
    try:
        settings = msgspec.convert(setup.settings, kind.settings_type)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"the settings of {kind.name} are wrong: {error}") from None
    return DriverContext(
        settings=settings,
        host=setup.host,
        state_dir=setup.state_dir,
        cache_dir=setup.cache_dir,
        data_path=setup.data_path,
        log=_unheard,
    )


def _unheard(*_words: object, **_values: object) -> None:
    """Results tell what went wrong; a driver's log is the daemon's affair."""


class ChildProcess(Place):
    """The driver is a child process that speaks the driver protocol over its standard input and output.

    What it writes to standard error goes to that of this process. When it is let go of, it may end by itself for a
    few seconds; then it is terminated, and then killed.
    """

    name = "process"

    def __init__(self, command: Sequence[str]) -> None:
        self.command = tuple(command)

    @classmethod
    def of(cls, target: type[Driver] | str) -> ChildProcess:
        """A driver in Python: its class, or what ``python -m anvild.sdk.protocol`` takes."""
        return cls((sys.executable, "-m", "anvild.sdk.protocol", _target(target)))

    def wire(self) -> AbstractAsyncContextManager[Transport]:
        return _child(self.command)

    @asynccontextmanager
    async def driver(self, setup: Setup) -> AsyncIterator[Driver]:
        async with self.wire() as transport, connect_driver(transport, _hello(setup), on_log=_drop) as driver:
            yield driver


class OverWebSocket(Place):
    """The driver is on the other side of a WebSocket, on the loopback of this host.

    A class of this process is served within it; a command becomes a child process, whose messages are passed on.
    """

    name = "websocket"

    def __init__(self, driver: type[Driver] | Sequence[str]) -> None:
        self._driver = driver

    @asynccontextmanager
    async def wire(self) -> AsyncIterator[Transport]:
        async with loopback() as (ours, theirs), trio.open_nursery() as nursery:
            nursery.start_soon(self._serve, theirs)
            try:
                yield ours
            finally:
                await theirs.aclose()

    @asynccontextmanager
    async def driver(self, setup: Setup) -> AsyncIterator[Driver]:
        async with self.wire() as ours, connect_driver(ours, _hello(setup), on_log=_drop) as driver:
            yield driver

    async def _serve(self, transport: Transport) -> None:
        if isinstance(self._driver, type):
            with suppress(Unavailable):  # a host of another version, which is told so
                await serve_driver(self._driver, self._driver, transport)
            return
        async with _child(self._driver) as child, trio.open_nursery() as nursery:
            nursery.start_soon(_pass_on, child, transport)
            await _pass_on(transport, child)
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def _child(command: Sequence[str]) -> AsyncIterator[Transport]:
    """Start a child process and speak with it over its standard input and output."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    try:
        process = await trio.lowlevel.open_process(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, env=environ
        )
    except OSError as error:
        raise Unavailable(f"{command[0]} cannot be started: {error.strerror}") from None
    assert process.stdin is not None
    assert process.stdout is not None
    transport = StdioTransport(process.stdin, process.stdout)
    try:
        yield transport
    finally:
        with trio.CancelScope(shield=True):
            await transport.aclose()
            for end in (None, process.terminate, process.kill):
                if end is not None:
                    end()
                with trio.move_on_after(END_SECONDS):
                    await process.wait()
                    break


async def _pass_on(source: Transport, target: Transport) -> None:
    """Pass messages on until either side has ended, and end the other."""
    with suppress(TransportClosed):
        while True:
            await target.send(await source.receive())
    await target.aclose()


def _hello(setup: Setup) -> Initialize:
    return Initialize(
        host=setup.host,
        settings=setup.settings,
        state_dir=str(setup.state_dir),
        cache_dir=str(setup.cache_dir),
        data_path=tuple(str(each) for each in setup.data_path),
    )


async def _drop(line: LogLine) -> None:
    """As in this process: a driver's log is the daemon's affair."""
    await trio.lowlevel.checkpoint()


def _target(target: type[Driver] | str) -> str:
    return target if isinstance(target, str) else f"{target.__module__}:{target.__qualname__}"
