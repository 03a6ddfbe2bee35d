"""The adb server as a child of the daemon: with a port and a key of its own, restarted when it dies.

The port is listened on here, and handed to each server in turn: who asks while there is none is served by the next.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections import deque
from collections.abc import Callable
from pathlib import Path

import trio

from anvild.sdk import Unavailable

from .client import AdbServer

__all__ = ["ServerChild", "find_adb"]

LOOPBACK = "127.0.0.1"
READY_SECONDS = 15.0
END_SECONDS = 2.0
LONGEST_PAUSE = 30.0
STEADY_SECONDS = 60.0
KEPT_LINES = 4
LINE_LIMIT = 4096
GUARD = """
exec 3<&0
"$@" </dev/null 3<&- & server=$!
trap 'kill "$server" 2>/dev/null' TERM
{ read -r never; kill "$server" 2>/dev/null; } <&3 & reader=$!
while kill -0 "$server" 2>/dev/null; do wait "$server"; done
kill "$reader" 2>/dev/null
"""
"""Runs the server until standard input ends: a daemon that is killed leaves no server behind that holds the devices."""


def find_adb(setting: str | None) -> str | None:
    """Return the adb program of the settings, or else that of PATH; None when there is none."""
    return shutil.which(setting or "adb")


class ServerChild:
    """Keeps an adb server running. ``server`` is where it listens; that stays the same for the child's whole life."""

    def __init__(self, program: str, folder: Path, log: Callable[..., None]) -> None:
        self.restarts = 0
        self._program = program
        self._folder = folder
        self._log = log
        self._process: trio.Process | None = None
        self._said: deque[str] = deque(maxlen=KEPT_LINES)
        self._up = trio.Event()
        self._ended = trio.Event()
        self._listener = socket.socket()
        self._listener.bind((LOOPBACK, 0))
        self.server = AdbServer(LOOPBACK, self._listener.getsockname()[1])

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the server running until cancelled. Starting fails with Unavailable when it does not come up."""
        failures = 0
        with self._listener:
            self._listener.listen()
            while True:
                began = trio.current_time()
                await self._live(None if self.restarts else task_status)
                self._up = trio.Event()
                ended, self._ended = self._ended, trio.Event()
                ended.set()
                failures = 1 if trio.current_time() - began > STEADY_SECONDS else failures + 1
                self.restarts += 1
                self._log("warning", "adb server ended", said=" / ".join(self._said))
                await trio.sleep(min(0.05 * 2**failures, LONGEST_PAUSE))

    async def _live(self, task_status: trio.TaskStatus[None] | None) -> None:
        """One life of the server. Returns when it has ended; raises Unavailable when it does not come up the first
        time."""
        environment = await trio.to_thread.run_sync(self._environment)
        listener = self._listener.fileno()
        process = await trio.lowlevel.open_process(
            ["/bin/sh", "-c", GUARD, "adb", self._program, "-L", f"acceptfd:{listener}", "nodaemon", "server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=(listener,),
            start_new_session=True,
        )
        self._process = process
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, process)
                nursery.start_soon(self._wait_ready, process, task_status)
                await process.wait()
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await _end(process)
            self._process = None
        if task_status is not None and not self._up.is_set():
            raise Unavailable(f"the adb server does not start: {' / '.join(self._said) or 'it said nothing'}")

    async def _wait_ready(self, process: trio.Process, task_status: trio.TaskStatus[None] | None) -> None:
        """Note when the server answers; one that never does is ended. The socket listens already, so that nobody has
        to ask twice."""
        try:
            await self.server.version()
        except Unavailable as error:
            self._said.append(error.message)
            process.terminate()
            return
        self._up.set()
        if task_status is not None:
            task_status.started()

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
        }


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
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            await stream.aclose()
