"""The whole session, from its parts."""

from __future__ import annotations

import trio

from anvild.sdk import (
    AnvilError,
    Apps,
    AppTests,
    Attachments,
    CrashReports,
    Exec,
    Files,
    Logs,
    Ports,
    Power,
    ReversePorts,
    Screen,
)

from .apps import AndroidApps
from .apptests import AndroidAppTests
from .crashes import AndroidCrashReports
from .exec import AndroidExec
from .files import AndroidFiles
from .logs import AndroidLogs
from .ports import AndroidPorts
from .power import AndroidPower
from .screen import AndroidScreen

__all__ = ["OFFERED", "AndroidSession"]

OFFERED: tuple[str, ...] = tuple(
    each.capability
    for each in (Exec, Files, Power, Apps, AppTests, Screen, Logs, Ports, ReversePorts, CrashReports, Attachments)
)
CLOSE_SECONDS = 10.0


class AndroidSession(
    AndroidExec,
    AndroidFiles,
    AndroidPower,
    AndroidApps,
    AndroidAppTests,
    AndroidScreen,
    AndroidLogs,
    AndroidPorts,
    AndroidCrashReports,
):
    """A session on one android device. :meth:`close` ends what it began and what has no tag."""

    async def close(self) -> list[AnvilError]:
        """End what the session began; return what could not be ended, which cleaning the device then does."""
        failures: list[AnvilError] = []
        with trio.move_on_after(CLOSE_SECONDS, shield=True):
            while self.closing:
                try:
                    await self.closing.pop()()
                except AnvilError as error:
                    failures.append(error)
        return failures
