"""Logs: logcat, from a mark in the device's own time on."""

from __future__ import annotations

import trio

from anvild.sdk import InvalidArgument, Logs, Stream, Unavailable

from ..adb.errors import from_device
from ..adb.shell import Shell
from .base import AndroidBase

__all__ = ["AndroidLogs", "ShellOutput"]

MARK = "cat /proc/sys/kernel/random/boot_id; date '+%m-%d %H:%M:%S.%N'"
MILLISECONDS = len("MM-DD HH:MM:SS.mmm")
ERROR_LIMIT = 4096


class ShellOutput(trio.abc.ReceiveStream):
    """The standard output of a command, as a stream. Closing it closes the command's stream on the device.

    A command that fails before it has said anything raises what its error output means.
    """

    def __init__(self, shell: Shell, what: str) -> None:
        self._shell = shell
        self._what = what
        self._rest = b""
        self._begun = False
        self._errors = b""

    async def begin(self, least: int = 1) -> bytes:
        """Wait for the first output, and return it without taking it: ``least`` bytes, or all there is. Raises what
        the command's failure means."""
        while len(self._rest) < least and (more := await self._next()):
            self._rest += more
        return self._rest

    async def _next(self) -> bytes:
        while (received := await self._shell.receive()) is not None:
            stream, data = received
            if stream is Stream.STDOUT:
                self._begun = True
                return data
            self._errors = (self._errors + data)[:ERROR_LIMIT]
        if self._shell.code and not self._begun:
            raise from_device(self._errors.decode("utf-8", "replace"), self._what, Unavailable)
        return b""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if not self._rest:
            self._rest = await self._next()
        most = len(self._rest) if max_bytes is None else max_bytes
        data, self._rest = self._rest[:most], self._rest[most:]
        return data

    async def aclose(self) -> None:
        await self._shell.aclose()


class AndroidLogs(AndroidBase, Logs):
    """A mark holds the device's identity, its boot and its time."""

    async def log_mark(self) -> str:
        boot, time = await self._present()
        return f"{self.device.identity}/{boot}/{time}"

    async def _present(self) -> tuple[str, str]:
        told = await self.link.succeed("the device does not tell its time", MARK)
        boot, _, time = told.partition("\n")
        seconds, _, fraction = time.strip().partition(".")
        return boot.strip(), f"{seconds}.{fraction[:3] if fraction.isdecimal() else '000'}"

    async def logs(self, *, since: str | None = None, follow: bool = False) -> trio.abc.ReceiveStream:
        words = ["logcat", "-v", "threadtime"]
        if not follow:
            words.append("-d")
        if since is not None:
            words += ["-T", await self._time_of(since)]
        output = ShellOutput(await self.link.start('exec "$@"', *words), "the log cannot be read")
        if not follow:
            try:
                await output.begin()
            except BaseException:
                with trio.CancelScope(shield=True):
                    await output.aclose()
                raise
        return output

    async def _time_of(self, mark: str) -> str:
        identity, _, rest = mark.rpartition("/")[0].rpartition("/")
        time = mark.rpartition("/")[2]
        if identity != self.device.identity or len(time) != MILLISECONDS:
            raise InvalidArgument(f"{mark!r} is no mark of the device {self.device.identity}")
        boot, _ = await self._present()
        if rest != boot:
            raise InvalidArgument(f"the device {self.device.identity} has restarted since the mark {mark!r}")
        return time
