"""All tools of a device, and those that only pass on: ``cmd`` and ``dumpsys``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from .calls import Call
from .root import Root
from .spec import DeviceSpec
from .system import System

__all__ = ["Toolbox"]

NOT_FOUND = 20


class Toolbox:
    """Answers every tool of one device."""

    def __init__(self, spec: DeviceSpec, root: Root, system: System) -> None:
        self._tools: dict[str, Callable[[Call], Awaitable[int]]] = {
            **system.tools,
            "cmd": self._cmd,
            "dumpsys": self._dumpsys,
        }
        self._services = {"settings": system.tools["settings"]}
        self._dumps: dict[str, Callable[[Call], Awaitable[int]]] = {"battery": system.dump_battery}

    @property
    def names(self) -> list[str]:
        """The names of all tools, sorted."""
        return sorted(self._tools)

    async def answer(self, call: Call) -> int:
        """Do a tool's work and return its exit code."""
        return await self._tools[call.tool](call)

    def restarted(self) -> None:
        """Forget what does not outlive a reboot."""

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
