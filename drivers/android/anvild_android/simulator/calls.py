"""How the programs of a device reach the simulator: a folder of named pipes, the same for every tool.

The device has only busybox, whose shell can make and open named pipes. A tool writes its arguments to a folder of its
own, rings at the door, and from then on is a set of pipes: ``in`` ends when the tool does, in whatever way.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Awaitable, Callable, Sequence

import trio

from .files import Files
from .root import CALLS

__all__ = ["FRONT", "Call", "Calls", "Handler"]

# What every tool of the device is. Each pipe is opened for both directions first, which waits for nobody, and is
# closed where an end has to be noticed. The copies run before the answer comes, so nothing is lost.
FRONT = f"""#!/system/bin/sh
c={CALLS}/$$
exec 7<&0
mkdir $c && mkfifo $c/in $c/out $c/err $c/end || exit 255
exec 3<>$c/in 4<>$c/out 5<>$c/err 6<>$c/end 8<$c/out 9<$c/err
t=${{0##*/}}
[ $t = screenrecord ] && trap 'exec 3>&-' INT HUP
printf '%s\\0' "$t" "$PWD" "$@" >$c/argv
echo $$ >{CALLS}/door
read answer <&6 || exit 255
cat <&8 3>&- 4>&- 5>&- 6>&- 7<&- 9<&- & o=$!
cat <&9 >&2 3>&- 4>&- 5>&- 6>&- 7<&- 8<&- & e=$!
exec 4>&- 5>&- 8<&- 9<&-
i=; if [ "$answer" = in ]; then cat <&7 >&3 6>&- & i=$!; exec 3>&-; fi
exec 7<&-
until read code <&6; do :; done
[ $i ] && kill $i 2>&-
wait $o; wait $e
exit $code
"""

BROKEN_PIPE = 141  # what a shell tells of a program that nobody listens to any more
ABANDONED = 129
MOST_ARGUMENTS = 1 << 20


class Call:
    """One use of a tool: its arguments, its streams. ``stdin`` ends when the caller has gone, or has no more."""

    def __init__(
        self,
        arguments: Sequence[str],
        directory: str,
        stdin: trio.abc.ReceiveStream,
        stdout: trio.abc.SendStream,
        stderr: trio.abc.SendStream,
    ) -> None:
        self.tool, *self.arguments = arguments
        self.directory = directory
        self.stdin = stdin
        self._stdout = stdout
        self._stderr = stderr

    async def say(self, text: str | bytes) -> None:
        """Write to the standard output; a text is a line, bytes are as they are."""
        await self._stdout.send_all(text if isinstance(text, bytes) else f"{text}\n".encode())

    async def complain(self, text: str) -> None:
        """Write a line to the standard error output."""
        await self._stderr.send_all(f"{text}\n".encode())

    def option(self, name: str, default: str = "") -> str:
        """Take an option and its value out of the arguments."""
        if name not in self.arguments[:-1]:
            return default
        at = self.arguments.index(name)
        value = self.arguments[at + 1]
        del self.arguments[at : at + 2]
        return value

    def flag(self, *names: str) -> bool:
        """Take a flag, by any of its names, out of the arguments, and tell whether it was there."""
        found = any(name in self.arguments for name in names)
        self.arguments = [each for each in self.arguments if each not in names]
        return found


Handler = Callable[[Call], Awaitable[int]]


class Calls:
    """Answers the tools of one device."""

    def __init__(self, files: Files, handler: Handler) -> None:
        self._files = files
        self._handler = handler

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Answer until cancelled; calls that are under way end then."""
        # Open for both directions, so that the door has no end of file when nobody stands at it.
        async with (
            trio.lowlevel.FdStream(self._files.open(f"{CALLS}/door", os.O_RDWR | os.O_NONBLOCK)) as door,
            trio.open_nursery() as nursery,
        ):
            task_status.started()
            rest = b""
            async for chunk in door:
                *numbers, rest = (rest + chunk).split(b"\n")
                for number in numbers:
                    nursery.start_soon(self._answer, number.decode(errors="replace"))

    def _open(self, number: str) -> tuple[list[str], list[int]]:
        """Return a call's arguments and its pipes, and remove its folder, so that nothing is left whatever happens."""
        folder = f"{CALLS}/{int(number)}"
        with contextlib.ExitStack() as stack:
            pipes = []
            for name, flags in (("in", os.O_RDONLY), ("out", os.O_WRONLY), ("err", os.O_WRONLY), ("end", os.O_WRONLY)):
                pipes.append(self._files.open(f"{folder}/{name}", flags | os.O_NONBLOCK))
                stack.callback(os.close, pipes[-1])
                if not stat.S_ISFIFO(os.fstat(pipes[-1]).st_mode):
                    raise ValueError(f"{name} is no pipe")
            arguments = self._files.read(f"{folder}/argv", MOST_ARGUMENTS).decode(errors="replace").split("\0")[:-1]
            self._files.remove_tree(folder)
            if len(arguments) < 2:
                raise ValueError("a call has a name")
            stack.pop_all()
            return arguments, pipes

    async def _answer(self, number: str) -> None:
        try:
            (tool, directory, *arguments), pipes = await trio.to_thread.run_sync(self._open, number)
        except (OSError, ValueError):
            return  # the caller has gone already, or somebody else has rung
        stdin, stdout, stderr, end = (trio.lowlevel.FdStream(pipe) for pipe in pipes)
        forwarded = tool in ("pm", "cmd") and ("-S" in arguments or "-" in arguments)
        async with stdin, end:
            with contextlib.suppress(trio.BrokenResourceError):
                await end.send_all(b"in\n" if forwarded else b"go\n")
                async with stdout, stderr:
                    call = Call([tool, *arguments], directory, stdin, stdout, stderr)
                    code = await self._handle(call, watched=not forwarded and tool != "screenrecord")
                await end.send_all(f"{code}\n".encode())

    async def _handle(self, call: Call, *, watched: bool) -> int:
        """Let a tool do its work; with ``watched``, until it is done or its caller has gone."""
        code = ABANDONED
        async with trio.open_nursery() as nursery:
            if watched:
                nursery.start_soon(_until_gone, call, nursery.cancel_scope)
            try:
                code = await self._handler(call)
            except trio.BrokenResourceError:
                code = BROKEN_PIPE
            nursery.cancel_scope.cancel()
        return code


async def _until_gone(call: Call, scope: trio.CancelScope) -> None:
    while await call.stdin.receive_some():
        pass
    scope.cancel()
