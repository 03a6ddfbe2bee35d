"""A session on a Mac itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress

import trio

from anvild.sdk import DeviceLost, DriverFault, PermissionDenied, Power, Unavailable

from .files import MacFiles
from .logs import UnifiedLogs
from .place import Place
from .programs import MacExec
from .screen import HostedScreen
from .shell import script

BOOT_SECONDS = 280.0
BOOT_TIME = re.compile(rb"sec = (\d+)")

# screencapture records until it is interrupted or its standard input says something, so it gets one that says nothing.
RECORD = 'tail -f /dev/null | screencapture -v -x "$1"'


class MacSession(MacExec, MacFiles, HostedScreen, UnifiedLogs):
    """Programs, files, screen and log of a Mac."""

    recording_suffix = ".mov"

    @property
    def udid(self) -> None:
        return None

    def log_command(self, *words: str) -> Sequence[str]:
        return ["log", *words]

    async def last_start(self) -> int:
        return await last_start(self.place)

    def picture_command(self, path: str) -> Sequence[str]:
        return ["screencapture", "-x", "-t", "png", path]

    def recording_command(self, path: str) -> Sequence[str]:
        return script(RECORD, path)


class RestartableMac(MacSession, Power):
    """A Mac whose account may restart it."""

    async def reboot(self) -> None:
        """Restart the Mac and wait until it can be reached again. One that asks for a password to unlock its disk at
        its start stays away, and so does the verb until its deadline."""
        await restart(self.place)


async def last_start(place: Place) -> int:
    """Return when a Mac was started, in seconds since 1970. Raises Unavailable, DeviceLost, DriverFault."""
    told = await place.run(["sysctl", "-n", "kern.boottime"])
    found = BOOT_TIME.search(told.out)
    if told.code or found is None:
        raise DriverFault(f"the Mac does not say when it was started: {told.said}")
    return int(found[1])


async def restart(place: Place) -> None:
    """Restart a Mac and wait for it. Raises PermissionDenied, Unavailable."""
    connection = await place.connected()
    before = await last_start(place)
    place.restarting = True
    try:
        answered = False
        with suppress(DeviceLost):  # it may go down before it has answered
            done = await place.run(["sudo", "-n", "/sbin/shutdown", "-r", "now"])
            if done.code:
                raise PermissionDenied(f"the Mac cannot be restarted: {done.said}")
            answered = True
        with trio.move_on_after(BOOT_SECONDS) as patience:
            await connection.ended.wait()
        if patience.cancelled_caught:
            raise Unavailable("the Mac was told to restart and did not")
        await place.connected(BOOT_SECONDS)
        if not answered and await last_start(place) == before:
            raise Unavailable("the connection to the Mac broke before it was told to restart")
    finally:
        place.restarting = False
