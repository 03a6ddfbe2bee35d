"""Logs: the device sends its log as it is written, so a session keeps it from its first question on."""

from __future__ import annotations

import secrets
from pathlib import Path

import trio

from anvild.sdk import AnvilError, InvalidArgument, Logs
from anvild.sdk.background import Background

from . import services
from .link import Link
from .spool import Spool

__all__ = ["LinkedLogs", "LogKeeper"]

QUIET_SECONDS = 0.3
"""The device does not say where the present is. It is where nothing has come for so long."""

LONGEST_SECONDS = 5.0
PIECE = 65536


class LogKeeper:
    """Reads the log of a device into a spool, from the first use until the session or the device ends.

    ``name`` is in every mark. It is new whenever the reading begins anew, since what came between is not known.
    """

    def __init__(self, link: Link, background: Background, folder: Path, limit: int) -> None:
        self.link = link
        self.name = ""
        self.ended = trio.Event()
        self._background = background
        self._folder = folder
        self._limit = limit
        self._spool: Spool | None = None
        self._scope: trio.CancelScope | None = None
        self._heard = 0.0
        self._lock = trio.Lock()

    async def begin(self) -> Spool:
        """Return the spool, and read the log from now on if that is not done. Raises Unavailable, DeviceLost."""
        async with self._lock:
            if self._spool is None or self.ended.is_set():
                await self._drop()
                spool = Spool(self._folder, self._limit)
                self.ended = trio.Event()
                await self._background.start(self._keep, spool, self.ended)
                self.name = secrets.token_hex(4)
                self._spool = spool
            return self._spool

    async def _keep(self, spool: Spool, ended: trio.Event, *, task_status: trio.TaskStatus[None]) -> None:
        started = False
        try:
            with trio.CancelScope() as self._scope:
                async with self.link.verb(), self.link.service(services.SYSLOG) as wire:
                    self._heard = trio.current_time()
                    task_status.started()
                    started = True
                    while data := await wire.receive():
                        await spool.append(data.replace(b"\0", b""))
                        self._heard = trio.current_time()
        except AnvilError:
            if not started:
                raise
            # The device has gone or ended the log. Whoever reads on hears of it from the link.
        finally:
            ended.set()
            spool.finish()

    async def settle(self) -> None:
        """Wait until what the device has written up to now has come."""
        asked = trio.current_time()
        while not self.ended.is_set():
            now = trio.current_time()
            quiet = now - max(self._heard, asked)
            if quiet >= QUIET_SECONDS or now - asked >= LONGEST_SECONDS:
                return
            await trio.sleep(QUIET_SECONDS - quiet)

    async def aclose(self) -> None:
        """Stop reading and drop what was kept."""
        with trio.CancelScope(shield=True):
            async with self._lock:
                await self._drop()

    async def _drop(self) -> None:
        if self._scope is not None:
            self._scope.cancel()
            await self.ended.wait()
        spool, self._spool, self._scope = self._spool, None, None
        if spool is not None:
            await spool.aclose()


class LinkedLogs(Logs):
    """The verbs of logs over a session's link."""

    keeper: LogKeeper

    async def log_mark(self) -> str:
        spool = await self.keeper.begin()
        await self.keeper.settle()
        return f"{self.keeper.name}:{spool.end}"

    async def logs(self, *, since: str | None = None, follow: bool = False) -> trio.abc.ReceiveStream:
        spool = await self.keeper.begin()
        place = spool.start
        if since is not None:
            name, _, number = since.partition(":")
            if name != self.keeper.name or not number.isdecimal() or int(number) > spool.end:
                raise InvalidArgument(f"the log mark {since!r} is of another session, or from before a restart")
            place = int(number)
        if follow:
            return LogStream(self.keeper.link, spool, place, None)
        await self.keeper.settle()
        return LogStream(self.keeper.link, spool, place, spool.end)


class LogStream(trio.abc.ReceiveStream):
    """The kept log from a place on, to ``end`` or for ever."""

    def __init__(self, link: Link, spool: Spool, place: int, end: int | None) -> None:
        self._link = link
        self._spool = spool
        self._place = place
        self._end = end
        self._closed = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._closed:
            raise trio.ClosedResourceError
        most = PIECE if max_bytes is None else max_bytes
        if self._end is not None:
            most = min(most, self._end - self._place)
            if most <= 0:
                return b""
        elif not await self._spool.wait(self._place):
            async with self._link.verb():  # says why, when the device has gone
                return b""
        self._place, data = await self._spool.read(self._place, most)
        return data

    async def aclose(self) -> None:
        self._closed = True
        await trio.lowlevel.checkpoint()
