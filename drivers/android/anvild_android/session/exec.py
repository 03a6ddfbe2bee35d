"""Exec: programs in the device's shell."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from anvild.sdk import (
    Command,
    DeviceFact,
    DriverFault,
    Exec,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Process,
    ProcessInfo,
    check_absolute,
)

from ..adb.errors import from_device
from ..fleet import Fleet
from ..link import Link
from ..scripts import MARK, check_environment
from .base import AndroidBase
from .process import LiveProcess, ShellProcess, end_group, read_head
from .tagged import attach_tagged, list_tags, start_tagged

__all__ = ["AndroidExec", "parse_processes"]

FIND = """
if [ -n "$1" ]; then
  if [ ! -d "$1" ]; then echo "!missing directory $1"; exit 0; fi
  cd -- "$1" 2>/dev/null || { echo "!denied directory $1"; exit 0; }
fi
count=$2; shift 2
while [ "$count" -gt 0 ]; do export "$1"; shift; count=$((count-1)); done
case $1 in
*/*) program=$1 ;;
*)
  program=; folders=$IFS; IFS=:
  for folder in $PATH; do
    if [ -f "$folder/$1" ] && [ -x "$folder/$1" ]; then program=$folder/$1; break; fi
  done
  IFS=$folders ;;
esac
if [ -z "$program" ] || [ ! -e "$program" ]; then echo "!missing program $1"; exit 0; fi
if [ -d "$program" ] || [ ! -x "$program" ]; then echo "!denied program $1"; exit 0; fi
"""
"""Goes to the folder $1, sets the $2 variables that follow, and looks for the program that follows them."""

START = FIND + 'echo "$$"\nexec "$@"'

PROCESSES = "ps -A -o pid,ppid,user,args"


class AndroidExec(AndroidBase, Exec):
    """Programs run as the user of adb's shell, and no other. Those without a tag end with the session."""

    def __init__(self, device: DeviceFact, link: Link, fleet: Fleet) -> None:
        super().__init__(device, link, fleet)
        self._processes: set[ShellProcess] = set()
        self.closing.append(self._let_go)

    async def _let_go(self) -> None:
        for process in tuple(self._processes):
            await process.aclose()

    def _hold(self, process: ShellProcess) -> Process:
        self._processes.add(process)
        process.on_close = self._processes.discard
        return process

    async def start(self, command: Command) -> Process:
        self._check_user(command.user)
        if command.tag is not None and (command.terminal is not None or command.stdin):
            raise InvalidArgument("a process with a tag has neither standard input nor a terminal on an android device")
        folder = "" if command.cwd is None else check_absolute(command.cwd)
        variables = check_environment({**command.env, MARK: self.device.identity})
        arguments = (folder, str(len(variables)), *variables, *command.argv)
        if command.tag is not None:
            return self._hold(await start_tagged(self.link, command.tag, FIND, arguments))
        shell = await self.link.start(START, *arguments, terminal=command.terminal)
        pid = None
        try:
            head, early = await read_head(shell, command.argv[0])
            pid = _pid(head)
            if not command.stdin and command.terminal is None:
                await shell.close_stdin()
        except BaseException:
            with trio.move_on_after(1, shield=True):
                await shell.aclose()
                if pid is not None:
                    await end_group(self.link, pid)
            raise
        stdin = command.stdin or command.terminal is not None
        terminal = command.terminal is not None
        return self._hold(LiveProcess(self.link, shell, pid=pid, early=early, stdin=stdin, terminal=terminal))

    def _check_user(self, user: str | None) -> None:
        if user not in (None, "shell"):
            raise PermissionDenied(f"programs run as the user shell on an android device, not as {user!r}")

    async def attach(self, tag: str, *, replay: bool = False) -> Process:
        return self._hold(await attach_tagged(self.link, tag, replay=replay))

    async def processes(self) -> Sequence[ProcessInfo]:
        listed = await self.link.succeed("the processes cannot be listed", PROCESSES)
        return parse_processes(listed, await list_tags(self.link))

    async def kill(self, pid: int, number: int = 9) -> None:
        if pid < 1:
            raise InvalidArgument(f"{pid} is no process id")
        if not 0 <= number <= 64:
            raise InvalidArgument(f"{number} is no signal")
        result = await self.link.shell('kill -"$2" "$1"', str(pid), str(number))
        if result.code != 0:
            raise from_device(result.said, f"process {pid} cannot be sent signal {number}", NotFound)


def parse_processes(text: str, tags: dict[int, str]) -> list[ProcessInfo]:
    """Parse the output of ``ps -o PID,PPID,USER,ARGS``."""
    found = []
    for line in text.splitlines()[1:]:
        words = line.split(None, 3)
        if len(words) < 3 or not (words[0].isdecimal() and words[1].isdecimal()):
            continue
        pid = int(words[0])
        found.append(
            ProcessInfo(
                pid=pid,
                parent=int(words[1]),
                user=words[2],
                command=words[3].strip() if len(words) > 3 else "",
                tag=tags.get(pid),
            )
        )
    return found


def _pid(head: str) -> int:
    if not head.isdecimal():
        raise DriverFault(f"the device said {head!r} in place of a process id")
    return int(head)
