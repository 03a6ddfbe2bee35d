"""Limits of memory, processor time and processes for one QEMU, in both layouts of control groups.

The groups live under the daemon's own group, which the operator (or systemd, by ``Delegate=``) has given to it. Where
a controller cannot be used, its limit is left out and said so: a guest without limits is better than no guest, but the
operator must see it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

__all__ = ["Limits", "Placement", "place", "remove"]

PROC = Path("/proc")
PERIOD_MICROSECONDS = 100_000
DAEMON_LEAF = "daemon"
"""The name that a unit gives to the daemon's own leaf (``DelegateSubgroup=``), so that groups may lie beside it."""
REMOVAL_PAUSES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds. The kernel tells nobody when a group's last process, which has ended, has left it."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one QEMU may use: bytes, processors (1.5 is one and a half), threads."""

    memory: int
    processors: float
    threads: int = 256


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """Where a process was put: its groups' folders, and which limits could not be set, in words."""

    folders: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


def mounts(proc: Path = PROC) -> dict[str, Path]:
    """Return where each controller is mounted; the unified hierarchy has the empty name."""
    found: dict[str, Path] = {}
    for line in (proc / "self" / "mounts").read_text().splitlines():
        _, place, kind, options, *_ = line.split()
        if kind == "cgroup2":
            found.setdefault("", Path(place))
        elif kind == "cgroup":
            for option in options.split(","):
                found.setdefault(option, Path(place))
    return found


def own_groups(proc: Path = PROC) -> dict[str, str]:
    """Return the daemon's own group in each hierarchy, by controller; the unified one has the empty name."""
    found: dict[str, str] = {}
    for line in (proc / "self" / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller.removeprefix("name=")] = path
    return found


def place(pid: int, name: str, limits: Limits, proc: Path = PROC) -> Placement:
    """Put a process into groups of its own called ``name`` with these limits. Never raises OSError."""
    where, own = mounts(proc), own_groups(proc)
    quota = int(limits.processors * PERIOD_MICROSECONDS)
    unified: dict[str, Mapping[str, str]] = {
        "memory": {"memory.max": str(limits.memory), "memory.swap.max": "0"},
        "cpu": {"cpu.max": f"{quota} {PERIOD_MICROSECONDS}"},
        "pids": {"pids.max": str(limits.threads)},
    }
    split: dict[str, Mapping[str, str]] = {
        "memory": {"memory.limit_in_bytes": str(limits.memory)},
        "cpu": {"cpu.cfs_period_us": str(PERIOD_MICROSECONDS), "cpu.cfs_quota_us": str(quota)},
        "pids": {"pids.max": str(limits.threads)},
    }
    folders: list[str] = []
    missing: list[str] = []
    for controller in split:
        if controller in where:
            base, settings = base_of(where[controller], own.get(controller, "/")), split[controller]
        elif "" in where:
            base, settings = base_of(where[""], own.get("", "/")), unified[controller]
        else:
            missing.append(f"{controller}: the host has no such controller")
            continue
        try:
            if controller not in where:
                enable(base, controller)
            folder = base / name
            folder.mkdir(exist_ok=True)
            if str(folder) not in folders:
                folders.append(str(folder))
            for file, value in settings.items():
                if file != "memory.swap.max" or (folder / file).exists():
                    (folder / file).write_text(value)
            (folder / "cgroup.procs").write_text(str(pid))
        except OSError as error:
            missing.append(f"{controller}: {error.strerror}")
    return Placement(folders=tuple(folders), missing=tuple(missing))


def base_of(mount: Path, own: str) -> Path:
    """Return the group under which ours are made: the daemon's own, or the one above its leaf."""
    group = mount / own.lstrip("/")
    return group.parent if group.name == DAEMON_LEAF else group


def enable(base: Path, controller: str) -> None:
    """Let the children of ``base`` in the unified hierarchy use a controller."""
    control = base / "cgroup.subtree_control"
    if controller not in control.read_text().split():
        control.write_text(f"+{controller}")


def remove(name: str, folders: Iterable[str] = (), proc: Path = PROC) -> None:
    """Remove the groups ``name`` of a process that has ended, and those ``folders`` that it was put into by an earlier
    daemon, which may have had another place. A group may be busy for a moment after its last process."""
    own = own_groups(proc)
    here = (str(base_of(mount, own.get(controller, "/")) / name) for controller, mount in mounts(proc).items())
    for folder in {*here, *folders}:
        for pause in REMOVAL_PAUSES:
            try:
                os.rmdir(folder)  # noqa: PTH106 - a group is removed by rmdir alone, files in it are not real
            except FileNotFoundError:
                break
            except OSError:
                time.sleep(pause)
            else:
                break
