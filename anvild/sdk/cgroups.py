"""Control groups for drivers whose devices are processes of this host: limits, the freezer and counters.

Linux hosts keep them in version 1 (a hierarchy for each controller), in version 2 (one for all), or in both at once.
A driver calls :func:`find_layout` with a folder name of its own; the groups of its devices lie in that folder, below
the daemon's own group, which the operator (or systemd, by ``Delegate=``) has given to it.

All functions do short file I/O and are called in threads.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import time
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

import msgspec

__all__ = ["Group", "Layout", "Limits", "Placement", "Usage", "find_layout"]

PROC = Path("/proc")
CONTROLLERS = ("memory", "cpu", "cpuacct", "pids", "blkio", "freezer")
SECOND_CONTROLLERS = ("memory", "cpu", "pids", "io")
LIMITED = ("memory", "cpu", "pids")
NOT_OFFERED = "the host offers no such controller here"
DAEMON_LEAF = "daemon"
"""The name that a unit gives to the daemon's own leaf (``DelegateSubgroup=``), so that groups may lie beside it."""
UNIT_SUFFIXES = (".service", ".scope")

PERIOD = 100_000  # microseconds of a CPU quota's period
SWAP_FILES = ("memory.memsw.limit_in_bytes", "memory.swap.max")
FREEZE_SECONDS = 5.0
REMOVE_SECONDS = 5.0
UNLIMITED = 1 << 60


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What the processes of one group may use together: bytes of memory, without swap; processors, where 1.5 is one
    and a half; processes and threads."""

    memory: int
    processors: float
    processes: int


class Usage(msgspec.Struct, frozen=True):
    """Counters of a group: seconds of CPU, bytes of memory, bytes read and written."""

    cpu: float
    memory: int
    read: int
    written: int


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """Where a process was put: its groups' folders, and which limits could not be set, in words."""

    folders: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


class Layout(msgspec.Struct, frozen=True):
    """Where a driver may make groups: version 1 by controller, and version 2 with its enabled controllers.

    ``refusals`` says in words why a controller cannot be used. A layout without folders is that of a host where no
    group can be made: groups in it keep no limit and count nothing.
    """

    first: Mapping[str, Path] = {}
    second: Path | None = None
    second_controllers: frozenset[str] = frozenset()
    refusals: Mapping[str, str] = {}

    @property
    def folders(self) -> tuple[Path, ...]:
        """The driver's folder in each hierarchy."""
        return tuple(dict.fromkeys((*self.first.values(), *([self.second] if self.second else []))))

    @property
    def missing(self) -> dict[str, str]:
        """The limits that cannot be kept here (``memory``, ``cpu``, ``pids``), and why, in words."""
        there = {*self.first, *self.second_controllers}
        return {name: self.refusals.get(name, NOT_OFFERED) for name in LIMITED if name not in there}

    @property
    def can_freeze(self) -> bool:
        """True when processes can be stopped and let go on."""
        return self.second is not None or "freezer" in self.first

    def restore(self) -> None:
        """Have the folders: another process that shares them may have tidied them away. Raises OSError."""
        for folder in self.folders:
            if not folder.is_dir():
                folder.mkdir(exist_ok=True)
                if folder == self.second:
                    for name in self.second_controllers:
                        _hand_down(name, folder)

    def tidy(self) -> None:
        """Remove the folders that hold no group any more. For the end of a driver."""
        for folder in self.folders:
            with contextlib.suppress(OSError):  # in use, or gone
                folder.rmdir()


def find_layout(folder: str, proc: Path = PROC) -> Layout:
    """Make a folder of this name below the daemon's own group in every hierarchy that lets us.

    Where the daemon sits in a leaf of its delegated unit the folder lies beside the leaf, because in version 2 a group
    with processes hands nothing down. Raises OSError when ``proc`` cannot be read; a hierarchy that refuses is left
    out, with its words in ``refusals``.
    """
    first: dict[str, Path] = {}
    second: Path | None = None
    enabled: set[str] = set()
    refusals: dict[str, str] = {}
    for name, base in _bases(proc).items():
        try:
            place = _prepare(base / folder)
        except OSError as error:
            for refused in (name,) if name else SECOND_CONTROLLERS:
                refusals.setdefault(refused, f"no group can be made in {base}: {error.strerror}")
            continue
        if name:
            first[name] = place
            continue
        second = place
        offered = _read(base / "cgroup.controllers").split()
        for controller in (each for each in SECOND_CONTROLLERS if each in offered):
            try:
                _hand_down(controller, place)
            except OSError as error:
                refusals.setdefault(controller, f"{base} does not hand it down: {error.strerror}")
            else:
                enabled.add(controller)
    return Layout(first=first, second=second, second_controllers=frozenset(enabled), refusals=refusals)


def _bases(proc: Path) -> dict[str, Path]:
    """Return by controller where this process may make groups; version 2 has the empty name and comes last."""
    own: dict[str, str] = {}
    for line in (proc / "self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        own.update(dict.fromkeys(names.split(","), path))
    found: dict[str, Path] = {}
    for line in (proc / "self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        root, mount = before.split()[3:5]
        kind, _, options = after.split()[:3]
        mounted = {"cgroup": options.split(","), "cgroup2": [""]}.get(kind, [])
        for name in mounted:
            if name in own and name in (*CONTROLLERS, ""):
                found.setdefault(name, Path(mount) / _usable_group(own[name], root))
    return {name: found[name] for name in (*CONTROLLERS, "") if name in found}


def _usable_group(own: str, root: str) -> PurePosixPath:
    """Return the group that may be divided, relative to a mount that shows the hierarchy from ``root`` on."""
    whole = PurePosixPath(own)
    group = whole.relative_to(root if whole.is_relative_to(root) else "/")
    leaf = group.name == DAEMON_LEAF or group.parent.suffix in UNIT_SUFFIXES
    return group.parent if leaf else group


def _prepare(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    return folder


def _hand_down(controller: str, folder: Path) -> None:
    """Let the groups in ``folder`` use a controller of version 2. Raises OSError."""
    for group in (folder.parent, folder):
        control = group / "cgroup.subtree_control"
        if controller not in control.read_text().split():
            control.write_text(f"+{controller}")


def _first_files(limits: Limits) -> dict[str, dict[str, str]]:
    """Return what version 1 is told, by controller and file."""
    return {
        "memory": {
            "memory.limit_in_bytes": str(limits.memory),
            "memory.memsw.limit_in_bytes": str(limits.memory),
        },
        "cpu": {"cpu.cfs_period_us": str(PERIOD), "cpu.cfs_quota_us": str(int(limits.processors * PERIOD))},
        "pids": {"pids.max": str(limits.processes)},
    }


def _second_files(limits: Limits) -> dict[str, dict[str, str]]:
    """Return what version 2 is told, by controller and file."""
    return {
        "memory": {"memory.max": str(limits.memory), "memory.swap.max": "0"},
        "cpu": {"cpu.max": f"{int(limits.processors * PERIOD)} {PERIOD}"},
        "pids": {"pids.max": str(limits.processes)},
    }


class Group:
    """The control group of one device, in all hierarchies of the host. ``name`` is its folder's in the driver's own.

    Making an object makes no group: it also stands for one that an earlier daemon has made in the same place.
    """

    def __init__(self, layout: Layout, name: str) -> None:
        self._layout = layout
        self._first = {controller: folder / name for controller, folder in layout.first.items()}
        self._second = None if layout.second is None else layout.second / name
        self._folders = tuple(folder / name for folder in layout.folders)

    def create(self, limits: Limits) -> None:
        """Make the group in all hierarchies and set the limits that the layout can keep. Making it again sets the
        limits anew. Raises OSError."""
        self._layout.restore()
        for folder in self._folders:
            folder.mkdir(exist_ok=True)
        for controller, folder in self._keepers().items():
            self._limit(controller, folder, limits)

    def add(self, pid: int) -> None:
        """Move a process into the group; its later children are born there. Raises OSError."""
        for folder in self._folders:
            (folder / "cgroup.procs").write_text(str(pid))

    def place(self, pid: int, limits: Limits) -> Placement:
        """Make the group where limits are kept and move a process into it, for a driver to which a device without
        limits is better than none. Never raises OSError: what the host refuses is told in words."""
        folders: list[str] = []
        missing = self._layout.missing
        for controller, folder in self._keepers().items():
            try:
                self._layout.restore()
                folder.mkdir(exist_ok=True)
                if str(folder) not in folders:
                    folders.append(str(folder))
                self._limit(controller, folder, limits)
                (folder / "cgroup.procs").write_text(str(pid))
            except OSError as error:
                missing[controller] = error.strerror or str(error)
        return Placement(
            folders=tuple(folders), missing=tuple(f"{controller}: {why}" for controller, why in missing.items())
        )

    def _keepers(self) -> dict[str, Path]:
        """Return the group's folder in which each limit is kept."""
        found = {controller: self._first[controller] for controller in LIMITED if controller in self._first}
        if self._second is not None:
            for controller in LIMITED:
                if controller in self._layout.second_controllers:
                    found.setdefault(controller, self._second)
        return found

    def _limit(self, controller: str, folder: Path, limits: Limits) -> None:
        files = _second_files(limits) if folder == self._second else _first_files(limits)
        for file, value in files[controller].items():
            try:
                (folder / file).write_text(value)
            except OSError:
                if file not in SWAP_FILES:  # a kernel without swap accounting has no such file
                    raise

    def processes(self) -> list[int]:
        """List the processes in the group."""
        for folder in self._folders:
            return [int(line) for line in _read(folder / "cgroup.procs").split()]
        return []

    # standing still

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

    # counters

    def usage(self) -> Usage:
        """Read the counters; what the host does not count is 0."""
        read, written = self._traffic()
        return Usage(cpu=self._cpu(), memory=max(0, self._memory()), read=read, written=written)

    def _cpu(self) -> float:
        if self._second is not None:
            return _field(self._second / "cpu.stat", "usage_usec") / 1e6
        return _number(_read(self._first["cpuacct"] / "cpuacct.usage")) / 1e9 if "cpuacct" in self._first else 0.0

    def _memory(self) -> int:
        """Return the bytes in use without the files that the kernel would give up first."""
        if self._second is not None and "memory" in self._layout.second_controllers:
            folder, total, given_up = self._second, "memory.current", "inactive_file"
        elif "memory" in self._first:
            folder, total, given_up = self._first["memory"], "memory.usage_in_bytes", "total_inactive_file"
        else:
            return 0
        return _number(_read(folder / total)) - _field(folder / "memory.stat", given_up)

    def _traffic(self) -> tuple[int, int]:
        read = written = 0
        if "blkio" in self._first:
            for line in _read(self._first["blkio"] / "blkio.throttle.io_service_bytes").splitlines():
                match line.split():
                    case [_, "Read", number]:
                        read += int(number)
                    case [_, "Write", number]:
                        written += int(number)
        elif self._second is not None:
            for word in _read(self._second / "io.stat").split():
                name, _, value = word.partition("=")
                read += int(value) if name == "rbytes" else 0
                written += int(value) if name == "wbytes" else 0
        return read, written

    # the end

    def remove(self, others: Iterable[str | Path] = ()) -> None:
        """Remove the group; its processes must have been ended. ``others`` are the folders of a :class:`Placement`
        that was made by an earlier daemon, which may have sat in another place.

        What is not there is no error. Waits a moment for the last processes to leave. Raises OSError when a folder
        does not go; the rest has gone then.
        """
        until = time.monotonic() + REMOVE_SECONDS
        failures = []
        for folder in dict.fromkeys((*self._folders, *map(Path, others))):
            try:
                _remove(folder, until)
            except OSError as error:
                failures.append(error)
        if failures:
            raise failures[0]


def _remove(folder: Path, until: float) -> None:
    while True:
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:  # version 1 tells nobody when the last process, which has ended, has left
            if error.errno != errno.EBUSY or time.monotonic() > until:
                raise
            time.sleep(0.002)
        else:
            return


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
