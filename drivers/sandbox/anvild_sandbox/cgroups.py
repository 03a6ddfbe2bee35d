"""Control groups of sandboxes: limits, the freezer and counters, on version 1, version 2 and hybrid hosts.

All functions do short file I/O and are called in threads.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

FOLDER = "anvil-sandbox"
CONTROLLERS = ("memory", "cpu", "cpuacct", "pids", "blkio", "freezer")
PERIOD = 100_000  # microseconds of a CPU quota's period
FREEZE_SECONDS = 5.0
REMOVE_SECONDS = 5.0
UNLIMITED = 1 << 60


class Layout(msgspec.Struct, frozen=True):
    """Where this process may make groups: version 1 by controller, and version 2 with its enabled controllers."""

    first: Mapping[str, Path] = {}
    second: Path | None = None
    second_controllers: frozenset[str] = frozenset()

    @property
    def missing(self) -> tuple[str, ...]:
        """The limits that cannot be kept here."""
        there = {*self.first, *self.second_controllers}
        return tuple(name for name in ("memory", "cpu", "pids") if name not in there)

    def tidy(self) -> None:
        """Remove the folders of our groups that hold none any more."""
        for folder in (*self.first.values(), *([self.second] if self.second else [])):
            with contextlib.suppress(OSError):  # in use, or gone
                folder.rmdir()

    @property
    def can_freeze(self) -> bool:
        return self.second is not None or "freezer" in self.first


class Limits(msgspec.Struct, frozen=True):
    """What a sandbox may use."""

    vcpus: int
    memory: int
    processes: int


class Usage(msgspec.Struct, frozen=True):
    """Counters of a group: seconds of CPU, bytes of memory, bytes read and written."""

    cpu: float
    memory: int
    read: int
    written: int


def find_layout() -> Layout:
    """Find the hierarchies in which groups can be made, below the daemon's own group."""
    mounts = _mounts()
    own = _own_groups()
    first: dict[str, Path] = {}
    for name in CONTROLLERS:
        if name in mounts and name in own:
            folder = _prepare(mounts[name] / own[name].lstrip("/"))
            if folder is not None:
                first[name] = folder
    second, controllers = None, frozenset[str]()
    if "" in mounts and "" in own:
        base = mounts[""] / own[""].lstrip("/")
        if base.parent.suffix in (".service", ".scope"):  # the daemon sits in a leaf of its delegated unit
            base = base.parent
        second = _prepare(base)
        if second is not None:
            controllers = _enable(base, second)
    return Layout(first=first, second=second, second_controllers=controllers)


def _mounts() -> dict[str, Path]:
    """Return where each version 1 controller is mounted, and version 2 under the empty name."""
    found: dict[str, Path] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split()[:3]
        if kind == "cgroup2":
            found.setdefault("", Path(before.split()[4]))
        elif kind == "cgroup":
            for name in options.split(","):
                if name in CONTROLLERS:
                    found.setdefault(name, Path(before.split()[4]))
    return found


def _own_groups() -> dict[str, str]:
    found: dict[str, str] = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            found[name] = path
    return found


def _prepare(base: Path) -> Path | None:
    """Make our folder in a hierarchy; None where that is not allowed."""
    folder = base / FOLDER
    try:
        folder.mkdir(exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None


def _enable(base: Path, folder: Path) -> frozenset[str]:
    """Hand the controllers of version 2 down to our groups, as far as the host lets us."""
    enabled: set[str] = set()
    for name in ("memory", "cpu", "pids", "io"):
        try:
            (base / "cgroup.subtree_control").write_text(f"+{name}")
            (folder / "cgroup.subtree_control").write_text(f"+{name}")
        except OSError:
            continue
        enabled.add(name)
    return frozenset(enabled)


class Group:
    """The control group of one sandbox, in all hierarchies of the host."""

    def __init__(self, layout: Layout, identity: str) -> None:
        self._layout = layout
        self._first = {name: folder / identity for name, folder in layout.first.items()}
        self._second = None if layout.second is None else layout.second / identity

    def _folders(self) -> Iterator[Path]:
        yield from dict.fromkeys(self._first.values())
        if self._second is not None:
            yield self._second

    def create(self, limits: Limits) -> None:
        """Make the group and set its limits. Raises OSError."""
        for folder in self._folders():
            folder.mkdir(exist_ok=True)
        quota = limits.vcpus * PERIOD
        if self._second is not None:
            values = {
                "memory": ("memory.max", str(limits.memory)),
                "cpu": ("cpu.max", f"{quota} {PERIOD}"),
                "pids": ("pids.max", str(limits.processes)),
            }
            for name, (file, value) in values.items():
                if name in self._layout.second_controllers:
                    (self._second / file).write_text(value)
            if "memory" in self._layout.second_controllers:
                with contextlib.suppress(OSError):  # a kernel without swap accounting has no such file
                    (self._second / "memory.swap.max").write_text("0")
        if "memory" in self._first:
            (self._first["memory"] / "memory.limit_in_bytes").write_text(str(limits.memory))
            with contextlib.suppress(OSError):
                (self._first["memory"] / "memory.memsw.limit_in_bytes").write_text(str(limits.memory))
        if "cpu" in self._first:
            (self._first["cpu"] / "cpu.cfs_period_us").write_text(str(PERIOD))
            (self._first["cpu"] / "cpu.cfs_quota_us").write_text(str(quota))
        if "pids" in self._first:
            (self._first["pids"] / "pids.max").write_text(str(limits.processes))

    def add(self, pid: int) -> None:
        """Move a process into the group. Raises OSError."""
        for folder in self._folders():
            (folder / "cgroup.procs").write_text(str(pid))

    def freeze(self) -> None:
        """Stop all processes of the group and return when they stand. Raises OSError, TimeoutError."""
        self._set_frozen(True)

    def thaw(self) -> None:
        """Let the processes go on. Raises OSError, TimeoutError."""
        self._set_frozen(False)

    def frozen(self) -> bool:
        """Tell whether the group has been frozen."""
        if self._second is not None:
            return _read(self._second / "cgroup.freeze") == "1"
        return "freezer" in self._first and _read(self._first["freezer"] / "freezer.state") != "THAWED"

    def _set_frozen(self, frozen: bool) -> None:
        until = time.monotonic() + FREEZE_SECONDS
        if self._second is not None:
            (self._second / "cgroup.freeze").write_text("1" if frozen else "0")
            _await_event(self._second / "cgroup.events", f"frozen {int(frozen)}", until)
        elif "freezer" in self._first:
            state = self._first["freezer"] / "freezer.state"
            wanted = "FROZEN" if frozen else "THAWED"
            while _read(state) != wanted:  # version 1 does not call out, and wants to be asked again
                if time.monotonic() > until:
                    raise TimeoutError(f"the freezer did not come to {wanted} in {FREEZE_SECONDS:g} s")
                state.write_text(wanted)
                time.sleep(0.001)

    def processes(self) -> list[int]:
        """List the processes in the group."""
        for folder in self._folders():
            return [int(line) for line in _read(folder / "cgroup.procs").split()]
        return []

    def usage(self) -> Usage:
        """Read the counters; what the host does not count is 0."""
        if self._second is not None and "memory" in self._layout.second_controllers:
            memory = _number(_read(self._second / "memory.current")) - _field(
                self._second / "memory.stat", "inactive_file"
            )
        elif "memory" in self._first:
            folder = self._first["memory"]
            memory = _number(_read(folder / "memory.usage_in_bytes")) - _field(
                folder / "memory.stat", "total_inactive_file"
            )
        else:
            memory = 0
        if self._second is not None:
            cpu = _field(self._second / "cpu.stat", "usage_usec") / 1e6
        else:
            cpu = _number(_read(self._first["cpuacct"] / "cpuacct.usage")) / 1e9 if "cpuacct" in self._first else 0.0
        read, written = self._traffic()
        return Usage(cpu=cpu, memory=max(0, memory), read=read, written=written)

    def _traffic(self) -> tuple[int, int]:
        read = written = 0
        if "blkio" in self._first:
            for line in _read(self._first["blkio"] / "blkio.throttle.io_service_bytes").splitlines():
                words = line.split()
                if len(words) == 3 and words[1] in ("Read", "Write"):
                    read, written = (
                        (read + int(words[2]), written) if words[1] == "Read" else (read, written + int(words[2]))
                    )
        elif self._second is not None:
            for word in _read(self._second / "io.stat").split():
                name, _, value = word.partition("=")
                read += int(value) if name == "rbytes" else 0
                written += int(value) if name == "wbytes" else 0
        return read, written

    def remove(self) -> None:
        """Remove the group; its processes must have been ended. Raises OSError when they do not go."""
        until = time.monotonic() + REMOVE_SECONDS
        for folder in self._folders():
            while True:
                try:
                    folder.rmdir()
                except FileNotFoundError:
                    break
                except OSError:  # the last processes are still being put away
                    if time.monotonic() > until:
                        raise
                    time.sleep(0.002)
                    continue
                break


def _await_event(path: Path, line: str, until: float) -> None:
    """Wait until a version 2 events file holds a line; the kernel calls out when it changes."""
    with path.open("rb", buffering=0) as file:
        poll = select.poll()
        poll.register(file, select.POLLPRI)
        while line not in os.pread(file.fileno(), 4096, 0).decode().splitlines():
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{path} did not come to {line!r} in {FREEZE_SECONDS:g} s")
            poll.poll(left * 1000)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _number(text: str) -> int:
    return min(int(text), UNLIMITED) if text.isdigit() else 0


def _field(path: Path, name: str) -> int:
    for line in _read(path).splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return _number(value.strip())
    return 0
