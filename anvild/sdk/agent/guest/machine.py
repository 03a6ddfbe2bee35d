"""The machine as a whole: its facts, its memory, and the identity of a copied one."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import time

from .refusals import Refused
from .wire import VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .agent import Agent
    from .streams import Steps
    from .wire import Message

RNDADDENTROPY = 0x40085203
RNDRESEEDCRNG = 0x5207
RUN_DIR = "/run/anvil-agent"
BOOT_ID = "/proc/sys/kernel/random/boot_id"


def facts(agent: Agent) -> Message:
    release = os.uname()
    return {
        "version": VERSION,
        "pid": os.getpid(),
        "host": release.nodename,
        "kernel": release.release,
        "machine": release.machine,
        "tags": sorted(agent.tags)[:1024],
    }


def ping(_agent: Agent) -> Steps:
    yield None
    return {"uptime": time.monotonic()}


def memory_info(_agent: Agent) -> Steps:
    found = {}
    with open("/proc/meminfo") as file:
        for line in file:
            name, _, rest = line.partition(":")
            found[name] = int(rest.split()[0]) * (1024 if rest.rstrip().endswith("kB") else 1)
    yield None
    return {"memory": found}


def set_identity(agent: Agent, message: Message) -> Steps:
    """Make this copy of a machine a machine of its own. What could not be done is told by name, with the reason."""
    for key in ("environment", "user"):
        if key in message:
            agent.defaults[key] = message[key]
    if "generation" in message:
        agent.close_ports()  # they are those of the machine that this is a copy of
    steps: dict[str, Callable[[Any], object]] = {
        "entropy": reseed,
        "time": lambda nanoseconds: time.clock_settime_ns(time.CLOCK_REALTIME, nanoseconds),
        "hostname": set_hostname,
        "machine_id": lambda value: put_line("/etc/machine-id", value),
        "boot_id": set_boot_id,
        "generation": lambda value: put_line(RUN_DIR + "/generation", str(value)),
    }
    failed = {}
    for key, step in steps.items():
        if key in message:
            try:
                step(message[key])
            except (OSError, Refused) as error:
                failed[key] = str(error)
            yield None
    return {"failed": failed}


def set_hostname(name: str) -> None:
    socket.sethostname(name)
    put_line("/etc/hostname", name)


def set_boot_id(value: str) -> None:
    """The kernel's boot id is fixed: a file is mounted over it. A copied machine has the mount; the file changes."""
    place = RUN_DIR + "/boot_id"
    mounted = os.path.exists(place) and os.stat(place).st_ino == os.stat(BOOT_ID).st_ino
    put_line(place, value)
    if not mounted:
        pid = os.fork()
        if pid == 0:
            try:
                os.execvp("mount", ["mount", "--bind", place, BOOT_ID])  # noqa: S606 a fixed program
            finally:
                os._exit(127)
        if os.waitpid(pid, 0)[1]:
            raise Refused("unavailable", f"mount refused to put {place} over {BOOT_ID}")


def put_line(path: str, text: str) -> None:
    """Write a small file in place: emptying it first would make some file systems write it to the disk at once."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path))
        fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.ftruncate(fd, os.write(fd, os.fsencode(text) + b"\n"))
    finally:
        os.close(fd)


def reseed(entropy: bytes) -> None:
    with open("/dev/urandom", "wb", buffering=0) as random:
        fcntl.ioctl(random, RNDADDENTROPY, struct.pack("<ii", 8 * len(entropy), len(entropy)) + entropy)
        fcntl.ioctl(random, RNDRESEEDCRNG)
