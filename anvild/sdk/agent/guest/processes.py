"""All processes of the device: their table, signals, and the end of a whole tree of them."""

from __future__ import annotations

import os
import signal

from .accounts import account_name
from .refusals import Refused, refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .agent import Agent
    from .streams import Steps

COMMAND_LIMIT = 4096


def list_processes(agent: Agent) -> Steps:
    names: dict[int, str] = {}
    for pid, parent, _ in process_table():
        try:
            uid = os.stat(f"/proc/{pid}").st_uid
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                command = file.read(COMMAND_LIMIT).rstrip(b"\0").replace(b"\0", b" ")
            if not command:
                with open(f"/proc/{pid}/comm", "rb") as file:
                    command = b"[" + file.read().strip() + b"]"
        except OSError:
            continue  # it has just ended
        child = agent.children.get(pid)
        yield [pid, parent, os.fsdecode(command), account_name(names, uid), child.tag if child else None]
    return None


def kill(_agent: Agent, pid: int, number: int) -> Steps:
    if pid <= 0 or not 0 <= number < 65:
        raise Refused("invalid_argument", f"cannot send signal {number} to process {pid}")
    if pid == os.getpid():
        raise Refused("permission_denied", f"process {pid} is the guest agent; destroy the device instead")
    try:
        os.kill(pid, number)
    except OSError as error:
        raise refused(error, f"cannot send signal {number} to process {pid}") from None
    yield None
    return None


def send_signal(how: Callable[[int, int], None], pid: int, number: int) -> None:
    try:
        how(pid, number)
    except ProcessLookupError:
        pass  # it has just ended
    except OSError as error:
        raise refused(error, f"cannot send signal {number} to {pid}") from None


def kill_tree(root: int) -> None:
    """Kill a program, its session and all its descendants."""
    table = list(process_table())
    doomed = {root}
    grown = True
    while grown:
        more = {pid for pid, parent, session in table if parent in doomed or session == root} - doomed
        grown = bool(more)
        doomed |= more
    for pid in doomed:
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            pass  # it has just ended, or belongs to nobody of ours


def process_table() -> Iterator[tuple[int, int, int]]:
    """Yield (pid, parent, session) of every process."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue  # it has just ended
            yield int(name), int(fields[1]), int(fields[3])
