"""The tool as a session uses it: with the tunnel where it needs one, and with its failures in words."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from anvild.sdk import AnvilError, CapabilityMissing, Unavailable

from .children import Ended, run_child
from .tools import INSTALL, Tool
from .tunnel import Tunnel
from .usbmux import MuxAddress

__all__ = ["Helper"]


class Helper:
    """Runs commands of the tool for one device. ``missing`` says why there is no ``tool``."""

    def __init__(self, tool: Tool | None, tunnel: Tunnel | None, address: MuxAddress, missing: str) -> None:
        self._tool = tool
        self._tunnel = tunnel
        self._env = {"USBMUXD_SOCKET_ADDRESS": str(address)}
        self._missing = missing

    def require(self, what: str) -> Tool:
        """Return the tool. Raises CapabilityMissing with the command that installs one."""
        if self._tool is None:
            raise CapabilityMissing(f"what {what} on this platform is a tool: {self._missing or INSTALL}")
        return self._tool

    async def ended(
        self,
        udid: str,
        words: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        line: Callable[[str], Awaitable[None]] | None = None,
    ) -> Ended:
        """Run a command to its end. Raises Unavailable when it cannot be started, or the tunnel does not stand."""
        tool = self.require("does this")
        port = None
        if self._tunnel is not None and tool.needs_tunnel:
            port = await self._tunnel.ready(tool, self._env, udid)
        return await run_child(tool.command(udid, words, tunnel_port=port), {**self._env, **(env or {})}, line=line)

    async def run(self, udid: str, words: Sequence[str], what: str) -> None:
        """Run a command that must succeed. Raises Unavailable with the tool's own sentence."""
        ended = await self.ended(udid, words)
        if ended.status != 0:
            raise self.failure(what, ended)

    def failure(self, what: str, ended: Ended) -> AnvilError:
        """The error of a command that failed."""
        return Unavailable(f"{self._tool} could not {what}: {ended.reason}")
