"""The bound of a process's memory: by a control group where the host lets us make one, else by the size of its data."""

from __future__ import annotations

import os
from pathlib import Path

from anvild.core.logging import get_logger
from anvild.sdk.cgroups import DAEMON_LEAF, Group, Layout, Limits, find_layout

__all__ = ["MemoryBound"]

PROCESSES = 1024
"""How many processes and threads a driver may have, where a control group can say so."""

OOM_FILES = ("memory.events", "memory.oom_control")

log = get_logger(__name__)


class MemoryBound:
    """The bound of one driver's processes together, ``limit`` in bytes.

    Their group is a leaf of the driver's own, like the daemon's in its unit: devices that the driver makes out of
    processes get groups beside the leaf, and are not counted. All methods do short file I/O and are called in threads.
    """

    def __init__(self, driver: str, limit: int) -> None:
        self.limit = limit
        self._driver = driver
        self._layout: Layout | None = None
        self._group: Group | None = None
        self._folders: tuple[str, ...] = ()

    def place(self, pid: int) -> int:
        """Bound a process, and those that it will start. Returns how many bytes of data it must be held to itself,
        because no control group does it; else 0."""
        try:
            self._layout = find_layout(f"anvild-driver-{self._driver}")
            self._group = Group(self._layout, DAEMON_LEAF)
        except OSError as error:
            log.warning("no_control_group", driver=self._driver, reason=str(error))
            return self.limit
        limits = Limits(memory=self.limit, processors=float(os.cpu_count() or 1), processes=PROCESSES)
        placement = self._group.place(pid, limits)
        self._folders = placement.folders
        missing = [each for each in placement.missing if each.startswith("memory")]
        if missing:
            log.info("memory_bound_by_data", driver=self._driver, reason=missing[0])
            return self.limit
        return 0

    def reached(self) -> bool:
        """Whether the kernel has killed one of the processes for want of memory."""
        return any(_killed(Path(folder) / name) for folder in self._folders for name in OOM_FILES)

    def lift(self) -> None:
        """Take the group away, when the processes have ended. One that outlives its driver keeps it."""
        if self._group is None or self._layout is None:
            return
        if any((Path(folder) / "cgroup.procs").read_text().strip() for folder in self._folders):
            log.info("control_group_kept", driver=self._driver, reason="a process of the driver outlives it")
            return
        try:
            self._group.remove()
        except OSError as error:
            log.warning("control_group_kept", driver=self._driver, reason=str(error))
        self._layout.tidy()
        self._folders = ()


def _killed(path: Path) -> bool:
    try:
        lines = path.read_text().splitlines()
    except OSError:  # the file of the other version
        return False
    return any(line.startswith("oom_kill ") and line.split()[1] != "0" for line in lines)
