"""The tunnel of iOS 17 and later: one child process of go-ios serves all devices."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import trio

from anvild.sdk import Unavailable
from anvild.sdk.background import Background

from .children import only_exception, running
from .tools import Tool

__all__ = ["Tunnel"]

START_SECONDS = 15.0
DEVICE_SECONDS = 30.0
LOOK_SECONDS = 0.25
"""The child has no way to call out; it answers questions over HTTP."""


class Tunnel:
    """Starts the child when it is first needed, and again when it has ended. It keeps its keys in ``folder``."""

    def __init__(self, background: Background, folder: Path) -> None:
        self._background = background
        self._folder = folder
        self._lock = trio.Lock()
        self._scope: trio.CancelScope | None = None
        self._ended = trio.Event()
        self._port = 0

    @property
    def runs(self) -> bool:
        """Whether there is a child."""
        return self._scope is not None and not self._ended.is_set()

    async def ready(self, tool: Tool, env: dict[str, str], udid: str) -> int:
        """Return the port that commands for this device are told, when its tunnel stands. Raises Unavailable."""
        async with self._lock:
            if not self.runs:
                self._ended = trio.Event()
                self._port = await trio.to_thread.run_sync(_free_port)
                await self._background.start(self._run, tool, env, self._port, self._ended)
            port = self._port
        if not await self._until(port, f"/tunnel/{udid}", DEVICE_SECONDS):
            raise Unavailable(
                f"the device {udid} has no tunnel after {DEVICE_SECONDS:g} s: unlock it, and mind that "
                "iOS 17.0 to 17.3 needs a tunnel that is started by root"
            )
        return port

    async def restart(self) -> None:
        """End the child; the next user starts a new one."""
        async with self._lock:
            if self._scope is not None:
                self._scope.cancel()
                await self._ended.wait()

    async def _run(
        self, tool: Tool, env: dict[str, str], port: int, ended: trio.Event, *, task_status: trio.TaskStatus[None]
    ) -> None:
        await trio.to_thread.run_sync(lambda: self._folder.mkdir(mode=0o700, parents=True, exist_ok=True))
        argv = [tool.path, "tunnel", "start", "--userspace", f"--tunnel-info-port={port}"]
        argv.append(f"--pair-record-path={self._folder}")  # else its keys lie in the daemon's working directory
        stands = False
        try:
            with trio.CancelScope() as self._scope:
                async with running(argv, env) as process, trio.open_nursery() as nursery:
                    assert process.stdout is not None
                    assert process.stderr is not None
                    nursery.start_soon(_drain, process.stdout)
                    nursery.start_soon(_drain, process.stderr)
                    nursery.start_soon(_end_with, process, nursery.cancel_scope)
                    await self._started(tool, port)
                    stands = True
                    task_status.started()
                    await process.wait()
                if not stands:
                    raise Unavailable(f"{tool} did not start its tunnel: it ended with status {process.returncode}")
        except BaseExceptionGroup as group:  # the nursery's
            if (own := only_exception(group)) is not None:
                raise own from None
            raise
        finally:
            ended.set()

    async def _started(self, tool: Tool, port: int) -> None:
        if not await self._until(port, "/health", START_SECONDS):
            raise Unavailable(f"{tool} did not start its tunnel within {START_SECONDS:g} s")

    async def _until(self, port: int, path: str, seconds: float) -> bool:
        with trio.move_on_after(seconds):
            while not self._ended.is_set():
                if await _answers(port, path):
                    return True
                await trio.sleep(LOOK_SECONDS)
        return False


async def _answers(port: int, path: str) -> bool:
    """Ask the child over HTTP, and say whether it answers 200."""
    with contextlib.suppress(OSError, trio.BrokenResourceError):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            head = bytearray()
            async for chunk in stream:
                head += chunk
        return head.split(b" ", 2)[1:2] == [b"200"]
    return False


async def _end_with(process: trio.Process, scope: trio.CancelScope) -> None:
    await process.wait()
    scope.cancel()


async def _drain(stream: trio.abc.ReceiveStream) -> None:
    async for _ in stream:
        pass


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
