"""One device, for as long as it has an identity: its services by whatever transport it has at the moment."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import trio

from anvild.sdk import AnvilError, DeadlineExceeded, TerminalSize, Unavailable

from .adb.client import AdbServer
from .adb.errors import from_device
from .adb.shell import Shell, ShellResult, open_shell
from .adb.sync import SyncStream
from .adb.wire import AdbStream
from .scripts import script

__all__ = ["Link", "Route"]

OUTPUT_LIMIT = 4 * 2**20


class Route(msgspec.Struct, frozen=True):
    """How a device is reached now: a transport of the adb server, and what the device's adbd can do."""

    number: int
    features: frozenset[str]


class Link:
    """The services of one device. ``route`` returns how it is reached now, or raises DeviceLost or Unavailable."""

    def __init__(self, server: AdbServer, identity: str, route: Callable[[], Route]) -> None:
        self.identity = identity
        self._server = server
        self._route = route

    @property
    def features(self) -> frozenset[str]:
        return self._route().features

    def check(self) -> None:
        """Raise DeviceLost or Unavailable when the device cannot be reached now."""
        self._route()

    async def open(self, service: str) -> AdbStream:
        """Open a service; the caller closes the stream. Raises DeviceLost, Unavailable, InvalidArgument."""
        return await self._server.open(self._route().number, self.identity, service)

    async def start(self, text: str, *arguments: str, terminal: TerminalSize | None = None) -> Shell:
        """Start a script in the device's shell; the caller closes it. Raises WrongState for a terminal on a device
        that is too old."""
        return await open_shell(self.open, self.features, script(text, *arguments), terminal=terminal)

    async def shell(self, text: str, *arguments: str, seconds: float = math.inf) -> ShellResult:
        """Run a script to its end and return what it left; at most 4 MiB of each stream, the rest is dropped.

        Cancelling it closes the stream. Raises DeadlineExceeded after ``seconds``, DeviceLost.
        """
        with trio.move_on_after(seconds):
            shell = await self.start(text, *arguments)
            try:
                return await shell.collect(OUTPUT_LIMIT)
            finally:
                with trio.CancelScope(shield=True):  # closing a socket does not wait
                    await shell.aclose()
        raise DeadlineExceeded(f"the device {self.identity} did not answer within {seconds:g} s")

    async def succeed(
        self,
        what: str,
        text: str,
        *arguments: str,
        otherwise: type[AnvilError] = Unavailable,
        seconds: float = math.inf,
    ) -> str:
        """Run a script that must succeed and return its output. Raises the error that its words mean, with ``what``
        could not be done, or ``otherwise`` where they mean nothing that is known."""
        result = await self.shell(text, *arguments, seconds=seconds)
        if result.code != 0:
            raise from_device(result.said, what, otherwise)
        return result.text

    @asynccontextmanager
    async def sync(self) -> AsyncIterator[SyncStream]:
        """Open the sync service for some verbs."""
        stream = await self.open_sync()
        try:
            yield stream
        finally:
            with trio.CancelScope(shield=True):
                await stream.aclose()

    async def open_sync(self) -> SyncStream:
        """Open the sync service; the caller closes the stream."""
        features = self.features
        return SyncStream(await self.open("sync:"), features)
