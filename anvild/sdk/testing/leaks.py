"""What a program holds: descriptors, child processes, trio tasks. Counted before and after, the growth is a leak."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import trio

from .rules import Broken

__all__ = ["Holdings", "children", "hold", "no_growth"]

SETTLE_SECONDS = 10.0
PAUSE_SECONDS = 0.05


class Holdings(msgspec.Struct, frozen=True):
    """What this process and those below it hold: descriptors by process, and tasks of this process's trio.

    Where the host does not tell (no ``/proc``), only this process is counted.
    """

    descriptors: dict[int, int]
    tasks: int

    def growth(self, later: Holdings) -> list[str]:
        """Say in words what there is more of later."""
        more = [
            f"{later.descriptors[pid] - count} descriptors of process {pid}"
            for pid, count in self.descriptors.items()
            if later.descriptors.get(pid, 0) > count
        ]
        if extra := later.descriptors.keys() - self.descriptors.keys():
            more.append(f"{len(extra)} processes ({', '.join(_name(pid) for pid in sorted(extra))})")
        if later.tasks > self.tasks:
            more.append(f"{later.tasks - self.tasks} trio tasks")
        return more


def children(without: Collection[int] = ()) -> list[int]:
    """Return the processes below this one, but for some and what is below those."""
    return _descendants(os.getpid(), without)


def hold(strangers: Collection[int] = ()) -> Holdings:
    """Count what is held now, by all but some processes below this one.

    It reads ``/proc``: call it in the loop's thread, for it counts the loop's tasks too.
    """
    counts = {}
    for pid in (os.getpid(), *children(strangers)):
        with contextlib.suppress(OSError):  # it has just ended, or is another user's
            counts[pid] = _descriptors(pid)
    return Holdings(counts, _tasks())


@asynccontextmanager
async def no_growth(what: str, strangers: Collection[int]) -> AsyncIterator[None]:
    """Require that no more is held afterwards than before; a short time to settle is given. Raises Broken.

    ``strangers`` are processes below this one that the driver has nothing to do with.
    """
    before = hold(strangers)
    yield
    grown: list[str] = []
    with trio.move_on_after(SETTLE_SECONDS):
        while grown := before.growth(hold(strangers)):  # noqa: ASYNC110 - what a kernel frees later calls nobody
            await trio.sleep(PAUSE_SECONDS)
    if grown:
        raise Broken(f"{what} left behind: {', '.join(grown)}")


def _descriptors(pid: int) -> int:
    folder = Path(f"/proc/{pid}/fd" if Path("/proc").is_dir() else "/dev/fd")
    return sum(1 for _ in folder.iterdir()) - (pid == os.getpid())  # the listing itself needs one


def _descendants(root: int, without: Collection[int]) -> list[int]:
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
            if fields[0] not in (b"Z", b"X") or int(fields[1]) == root:
                parents[int(folder.name)] = int(fields[1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid and child not in without]
    return found[1:]


def _tasks() -> int:
    count, root = 0, trio.lowlevel.current_root_task()
    waiting = [root] if root is not None else []
    while waiting:
        task = waiting.pop()
        count += 1
        waiting += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return count


def _name(pid: int) -> str:
    try:
        return f"{pid} {Path(f'/proc/{pid}/comm').read_text().strip()}"
    except OSError:
        return str(pid)
