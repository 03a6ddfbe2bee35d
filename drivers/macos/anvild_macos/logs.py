"""The unified log of a Mac and of its simulators."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence

import trio

from anvild.sdk import InvalidArgument, Logs

from .base import HostedSession
from .transfer import ChildStream

STYLE = ("--style", "syslog")
MARK = re.compile(r"(.+)@(\d+)")


class _Chain(trio.abc.ReceiveStream):
    """One stream after another."""

    def __init__(self, *streams: trio.abc.ReceiveStream) -> None:
        self._streams = list(streams)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        while True:
            data = await self._streams[0].receive_some(max_bytes)
            if data or len(self._streams) == 1:
                return bytes(data)
            await self._streams.pop(0).aclose()

    async def aclose(self) -> None:
        with trio.CancelScope(shield=True):
            for stream in self._streams:
                await stream.aclose()


class UnifiedLogs(HostedSession, Logs):
    """The log as lines of syslog's form. A mark is the device's identity and the Mac's clock in whole seconds."""

    @abstractmethod
    def log_command(self, *words: str) -> Sequence[str]:
        """Return the command that runs ``log`` with words."""

    @abstractmethod
    async def last_start(self) -> int:
        """Return when the device was started, in Unix seconds by the Mac's clock."""

    async def log_mark(self) -> str:
        now = await self.demand(["date", "+%s"], "the Mac's clock cannot be read")
        return f"{self.device.identity}@{now.out.decode().strip()}"

    async def logs(self, *, since: str | None = None, follow: bool = False) -> trio.abc.ReceiveStream:
        """Open the log. With a mark and ``follow`` the lines of the second in which it is opened may come twice."""
        start = await self._start(since)
        live: trio.abc.ReceiveStream | None = None
        if follow:  # before the past is read: what happens meanwhile waits in the stream
            live = await self._open("stream")
            if start is None:
                return live
        try:
            past = await self._open("show", *(() if start is None else ("--start", f"@{start}")))
        except BaseException:
            if live is not None:
                await live.aclose()
            raise
        return past if live is None else _Chain(past, live)

    async def _open(self, *words: str) -> trio.abc.ReceiveStream:
        child = await self.place.start(self.log_command(*words, *STYLE))
        return ChildStream(child, "the log cannot be read")

    async def _start(self, since: str | None) -> int | None:
        if since is None:
            return None
        found = MARK.fullmatch(since)
        if found is None or found[1] != self.device.identity:
            raise InvalidArgument(f"{since!r} is no mark in the log of {self.device.name!r}")
        if int(found[2]) < await self.last_start():
            raise InvalidArgument(f"{since!r} is before the last start of {self.device.name!r}")
        return int(found[2])
