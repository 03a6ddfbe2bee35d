"""A child process that is ended with its whole group: by the daemon in named steps, and with the daemon in any case."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import trio

from anvild.core.logging import get_logger
from anvild.sdk import Unavailable

__all__ = ["Child", "plain_environment"]

CLOSE_SECONDS = 5.0
"""How long a child may take to end after its standard input was closed."""

TERM_SECONDS = 5.0
KILL_SECONDS = 10.0

KEEPER = Path(__file__).with_name("keeper.py")

PASSED_ON = frozenset(
    {"HOME", "LANG", "LANGUAGE", "LOGNAME", "PATH", "SHELL", "TMPDIR", "TZ", "USER", "XDG_RUNTIME_DIR"}
)
"""The variables of its own environment that the daemon hands to a child, beside ``LC_*``. The rest is full of secrets
and of what systemd tells the daemon alone."""

log = get_logger(__name__)


def plain_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the part of an environment that holds no secret."""
    return {name: value for name, value in environ.items() if name in PASSED_ON or name.startswith("LC_")}


class Child:
    """A process in a session and a group of its own, with pipes. Make it with :meth:`spawn`, and end it.

    ``ended`` is set when it has ended, and ``ending`` says how, in words, from then on.
    """

    def __init__(self, keeper: trio.Process, control: trio.SocketStream) -> None:
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        assert keeper.stderr is not None
        self.stdin = keeper.stdin
        self.stdout = keeper.stdout
        self.stderr = keeper.stderr
        self.pid = 0
        self.ended = trio.Event()
        self.ending = ""
        self._keeper = keeper
        self._control = control

    @classmethod
    async def spawn(cls, command: Sequence[str], *, environ: Mapping[str, str], directory: Path) -> Child:
        """Start a keeper with a child that waits for :meth:`go`.

        Raises Unavailable when the system has no room for it. Cancelled, it leaves nothing.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                keeper = await trio.lowlevel.open_process(
                    [sys.executable, "-I", "-S", str(KEEPER), str(theirs.fileno()), *command],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                    env=dict(environ),
                    cwd=directory,
                )
            except BaseException as error:
                ours.close()
                if isinstance(error, OSError):
                    raise Unavailable(f"its process cannot be started: {error.strerror}: {error.filename}") from error
                raise
        return cls(keeper, trio.SocketStream(trio.socket.from_stdlib_socket(ours)))

    async def listen(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hear what the keeper tells, until the process has ended. Started when the process is there and waits.

        Raises Unavailable when it does not come to that.
        """
        left = b""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for data in self._control:
                *lines, left = (left + data).split(b"\n")
                for line in lines:
                    word, _, rest = line.decode(errors="replace").partition(" ")
                    if word == "started":
                        self.pid = int(rest)
                        task_status.started()
                    else:
                        self.ending = self.ending or _in_words(word, rest)
        if not self.pid:
            raise Unavailable("its process cannot be started: its keeper did not come up")
        if not self.ending:
            self._kill_group()  # the keeper itself was killed
            self.ending = "its process was killed together with its keeper"
        self.ended.set()

    async def go(self, data_limit: int = 0) -> None:
        """Let the command begin; its data may take so many bytes of memory (0: no limit)."""
        await self._tell(f"go {data_limit}")

    async def kill(self) -> None:
        """Kill the process with its group, and do not wait for its end."""
        await self._tell("kill")

    async def end(self, *, gently: bool = True) -> None:
        """End the process with its group and let go of everything: by closing its input, by SIGTERM, by SIGKILL, each
        with its time. Not ``gently`` is SIGKILL at once. Shielded from cancellation."""
        with trio.CancelScope(shield=True):
            await self.stdin.aclose()
            if gently and not await self._ended_within(CLOSE_SECONDS):
                await self._signal("term", TERM_SECONDS)
            if not self.ended.is_set() and not await self._signal("kill", KILL_SECONDS):
                log.error("process_does_not_end", pid=self.pid)
            await self._control.aclose()
            await self.stdout.aclose()
            await self.stderr.aclose()
            with trio.move_on_after(KILL_SECONDS):
                await self._keeper.wait()

    async def _signal(self, word: str, seconds: float) -> bool:
        await self._tell(word)
        return await self._ended_within(seconds)

    async def _ended_within(self, seconds: float) -> bool:
        with trio.move_on_after(seconds):
            await self.ended.wait()
        return self.ended.is_set()

    async def _tell(self, line: str) -> None:
        with suppress(trio.BrokenResourceError):  # the keeper has ended, which listen hears
            await self._control.send_all(f"{line}\n".encode())

    def _kill_group(self) -> None:
        if self.pid:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)


def _in_words(word: str, rest: str) -> str:
    match word:
        case "refused":
            return f"its command cannot be run: {rest}"
        case "signal":
            meaning = signal.strsignal(int(rest))
            return f"its process ended with signal {rest} ({meaning.lower() if meaning else 'unknown'})"
        case _:
            return f"its process ended with exit code {rest}"
