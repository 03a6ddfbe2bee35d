"""All tools of a device, and those that only pass on: ``cmd`` and ``dumpsys``."""

from __future__ import annotations

import trio

from anvild.sdk import Unavailable

from .activities import Activities
from .calls import Call, Handler
from .installer import Installer
from .log import LEVELS, Log
from .package_manager import PackageManager
from .packages import Packages
from .root import Root
from .screen import Screen
from .spec import DeviceSpec
from .system import System

__all__ = ["Toolbox"]

NOT_FOUND = 20
FAILED = 255


class Toolbox:
    """Answers every tool of one device."""

    def __init__(self, spec: DeviceSpec, root: Root, system: System) -> None:
        self.log = Log()
        self._packages = Packages(root)
        manager = PackageManager(spec, self._packages, Installer(spec, self._packages, self.log).verbs)
        self._activities = Activities(self._packages, root, self.log)
        screen = Screen(spec, root, system.battery, lambda: self._activities.foreground)
        self._tools: dict[str, Handler] = {
            **system.tools,
            "am": self._activities.am,
            "cmd": self._cmd,
            "dumpsys": self._dumpsys,
            "log": self._log,
            "logcat": self.log.logcat,
            "monkey": self._activities.monkey,
            "pm": manager.pm,
            "screencap": screen.screencap,
            "screenrecord": screen.screenrecord,
        }
        self._services: dict[str, Handler] = {
            "activity": self._activities.am,
            "package": manager.pm,
            "settings": system.tools["settings"],
        }
        self._dumps: dict[str, Handler] = {
            "battery": system.dump_battery,
            "dropbox": self._activities.drop_box,
            "package": manager.dump,
        }

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold what the tools have begun, until cancelled."""
        await self._packages.load()
        self._booted()
        await self._activities.run(task_status=task_status)

    @property
    def names(self) -> list[str]:
        """The names of all tools, sorted."""
        return sorted(self._tools)

    async def answer(self, call: Call) -> int:
        """Do a tool's work and return its exit code."""
        try:
            return await self._tools[call.tool](call)
        except (ValueError, OSError, Unavailable) as error:
            await call.complain(f"Exception occurred while executing '{call.tool}':\n{error}")
            return FAILED

    def restarted(self) -> None:
        """Forget what does not outlive a reboot."""
        self.log.clear()
        self._activities.restarted()
        self._booted()

    def _booted(self) -> None:
        self.log.write("boot_progress", "start", buffer="events")
        self.log.write("SystemServer", "Entered the Android system server!", buffer="system")

    async def _log(self, call: Call) -> int:
        """``log [-p LEVEL] [-t TAG] MESSAGE``."""
        level, tag = call.option("-p", "i").upper()[:1], call.option("-t", "log")
        if level not in LEVELS:
            await call.complain(f"log: bad -p '{level}'")
            return 1
        self.log.write(tag, " ".join(call.arguments), level=level, pid=2000)
        return 0

    async def _cmd(self, call: Call) -> int:
        """Pass a call on to the service that it names."""
        name, call.arguments = (call.arguments or [""])[0], call.arguments[1:]
        if name in ("-l", ""):
            await call.say("Currently running services:\n" + "\n".join(f"  {each}" for each in sorted(self._services)))
            return 0
        if name not in self._services:
            await call.complain(f"cmd: Can't find service: {name}")
            return NOT_FOUND
        return await self._services[name](call)

    async def _dumpsys(self, call: Call) -> int:
        name, call.arguments = (call.arguments or ["-l"])[0], call.arguments[1:]
        if name == "-l":
            await call.say("Currently running services:\n" + "\n".join(f"  {each}" for each in sorted(self._dumps)))
            return 0
        if name not in self._dumps:
            await call.complain(f"Can't find service: {name}")
            return 0
        return await self._dumps[name](call)
