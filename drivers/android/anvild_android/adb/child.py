"""The adb server as a child of the daemon: on a port of its own, with a key of its own, restarted when it dies."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec
import trio

from anvild.sdk import Unavailable
from anvild.sdk.processes import ProcessIdentity

from .client import AdbServer

__all__ = ["ServerChild", "find_adb"]

LOOPBACK = "127.0.0.1"
READY_SECONDS = 15.0
READY_PAUSE = 0.02
END_SECONDS = 2.0
LONGEST_PAUSE = 30.0
STEADY_SECONDS = 60.0
KEPT_LINES = 4
LINE_LIMIT = 4096
RECORD = "server.json"


def find_adb(setting: str | None) -> str | None:
    """Return the adb program of the settings, or else that of PATH; None when there is none."""
    return shutil.which(setting or "adb")


class ServerChild:
    """Keeps an adb server running. ``server`` is where it listens; that stays the same for the child's whole life."""

    def __init__(self, program: str, folder: Path, log: Callable[..., None]) -> None:
        self.server = AdbServer(LOOPBACK, _free_port())
        self.restarts = 0
        self._program = program
        self._folder = folder
        self._log = log
        self._process: trio.Process | None = None
        self._said: deque[str] = deque(maxlen=KEPT_LINES)
        self._up = trio.Event()
        self._ended = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the server running until cancelled. Starting fails with Unavailable when it does not come up."""
        await trio.to_thread.run_sync(self._end_leftover)
        failures = 0
        started = False
        while True:
            began = trio.current_time()
            try:
                await self._live(None if started else task_status)
                reason = "it ended"
            except Unavailable as error:
                if not started and self._process is None and failures >= 2:
                    raise
                reason = error.message
            started = started or self._up.is_set()
            self._up = trio.Event()
            ended, self._ended = self._ended, trio.Event()
            ended.set()
            failures = 1 if trio.current_time() - began > STEADY_SECONDS else failures + 1
            self.restarts += 1
            self._log("warning", "adb server ended", reason=reason, said=" / ".join(self._said))
            await trio.sleep(min(0.05 * 2**failures, LONGEST_PAUSE))
            if not started:
                self.server.port = _free_port()  # the reason may be that another program took the port

    async def _live(self, task_status: trio.TaskStatus[None] | None) -> None:
        """One life of the server. Returns when it has ended; raises Unavailable when it does not come up."""
        process = await trio.lowlevel.open_process(
            [self._program, "-P", str(self.server.port), "nodaemon", "server"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._environment(),
            start_new_session=True,
        )
        self._process = process
        try:
            await trio.to_thread.run_sync(self._remember, process.pid)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, process)
                with trio.move_on_after(READY_SECONDS):
                    await self._wait_ready(process)
                if process.poll() is None and not self._up.is_set():
                    process.kill()
                if self._up.is_set() and task_status is not None:
                    task_status.started()
                await process.wait()
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await _end(process)
            self._process = None
        if not self._up.is_set():
            raise Unavailable(f"the adb server does not start: {' / '.join(self._said) or 'it said nothing'}")

    async def _wait_ready(self, process: trio.Process) -> None:
        """Return when the server answers, or has ended. It has no way to call out, so it is asked until it does."""
        while process.poll() is None:
            try:
                await self.server.version()
            except Unavailable:
                await trio.sleep(READY_PAUSE)
            else:
                self._up.set()
                return

    async def _listen(self, process: trio.Process) -> None:
        """Keep the last lines that the server says."""
        assert process.stdout is not None
        rest = b""
        async for data in process.stdout:
            *lines, rest = (rest + bytes(data)).split(b"\n")
            rest = rest[-LINE_LIMIT:]
            self._said.extend(line[:LINE_LIMIT].decode("utf-8", "replace") for line in lines if line.strip())

    async def restart(self) -> None:
        """End the server, and return when it answers again. Raises Unavailable after 15 s."""
        if self._process is not None:
            self._process.terminate()
        with trio.move_on_after(READY_SECONDS):
            await self._ended.wait()
            await self._up.wait()
            return
        raise Unavailable("the adb server did not come back")

    def _environment(self) -> dict[str, str]:
        home = self._folder / "home"
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(home),  # the key of this lab is kept there
            "ADB_MDNS": "0",  # otherwise it listens on every interface
            "ADB_LOCAL_TRANSPORT_MAX_PORT": "5554",  # no search for emulators on this host
            "ANDROID_ADB_SERVER_PORT": str(self.server.port),
        }

    # a daemon that was killed leaves its server behind, which holds the devices

    def _remember(self, pid: int) -> None:
        if sys.platform == "linux":
            with contextlib.suppress(ProcessLookupError):
                record = msgspec.json.encode(ProcessIdentity.of(pid))
                (self._folder / RECORD).write_bytes(record)

    def _end_leftover(self) -> None:
        try:
            record = msgspec.json.decode((self._folder / RECORD).read_bytes(), type=ProcessIdentity)
        except (FileNotFoundError, msgspec.DecodeError):
            return
        with contextlib.suppress(PermissionError, TimeoutError):
            record.end(END_SECONDS)


async def _end(process: trio.Process) -> None:
    """TERM, then KILL, for all of the child's session."""
    if process.poll() is None:
        process.terminate()
        with trio.move_on_after(END_SECONDS):
            await process.wait()
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    if process.stdout is not None:
        await process.stdout.aclose()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind((LOOPBACK, 0))
        port: int = sock.getsockname()[1]
    return port
