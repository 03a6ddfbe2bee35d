"""What an adb host can ask a device for, by the name with which it opens a stream."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import trio

from .calls import Call, Handler
from .connection import Connection
from .ports import Reverses, serve_port
from .root import Root
from .shell import serve_exec, serve_shell
from .streams import AdbStream
from .sync import serve_sync

__all__ = ["Services"]


class Services:
    """The services of one device. ``tools`` answers a tool's call; ``reboot`` is called with the reason."""

    def __init__(
        self,
        root: Root,
        features: tuple[str, ...],
        tools: Handler,
        reboot: Callable[[str], None],
    ) -> None:
        self._root = root
        self._features = features
        self._tools = tools
        self._reboot = reboot
        self._reverses = Reverses(root)

    async def serve(self, connection: Connection, stream: AdbStream, destination: str) -> None:
        """Serve one stream to its end. A service that is not there refuses it."""
        name, _, argument = destination.partition(":")
        kind, *options = name.split(",")
        if kind == "shell":
            await self._shell(stream, options, argument)
        elif kind == "exec":
            await serve_exec(self._root, stream, argument)
        elif kind in ("abb", "abb_exec") and kind in self._features:
            await self._abb(stream, argument)
        elif kind == "sync":
            await serve_sync(self._root.files, stream)
        elif kind in ("tcp", "local", "localabstract"):
            await serve_port(self._root, stream, destination)
        elif kind == "reverse":
            await self._reverses.serve(connection, stream, argument)
        elif kind == "reboot":
            stream.accept()
            self._reboot(argument)
            await trio.sleep_forever()
        elif kind in ("root", "unroot", "remount", "disable-verity", "enable-verity"):
            stream.accept()
            await stream.send_all(f"adbd cannot {kind} in production builds\n".encode())

    async def _shell(self, stream: AdbStream, options: list[str], text: str) -> None:
        if "v2" not in options:
            await serve_exec(self._root, stream, text)
        elif "shell_v2" in self._features:
            term = next((each.removeprefix("TERM=") for each in options if each.startswith("TERM=")), "dumb")
            terminal = "pty" in options or (not text and "raw" not in options)
            await serve_shell(self._root, stream, text, terminal=terminal, term=term)

    async def _abb(self, stream: AdbStream, argument: str) -> None:
        """A tool of ``cmd`` without a shell; its arguments are told apart by NULs."""
        stream.accept()
        call = Call(["cmd", *argument.split("\0")], "/", stream, stream, stream)
        with contextlib.suppress(trio.BrokenResourceError):
            await self._tools(call)
        await stream.drained()
