"""What is known of one sandbox, kept in its folder so that a restarted daemon finds it again."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from datetime import datetime
from pathlib import Path

import msgspec

from anvild.sdk import DeviceRequest

from .cgroups import Limits

RECORD = "device.json"


class ProcessId(msgspec.Struct, frozen=True):
    """A process that cannot be mistaken for a later one with the same number."""

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """Look a living process up. Raises ProcessLookupError."""
        started = _read_start(pid, dead=False)
        if started is None:
            raise ProcessLookupError(pid)
        return cls(pid=pid, started=started, boot=_boot_id())

    def open(self) -> int:
        """Return a descriptor of the process, which the caller closes. Raises ProcessLookupError when it has ended."""
        if self.boot != _boot_id():
            raise ProcessLookupError(self.pid)
        descriptor = os.pidfd_open(self.pid)
        if _read_start(self.pid, dead=False) == self.started:
            return descriptor
        os.close(descriptor)
        raise ProcessLookupError(self.pid)

    def alive(self) -> bool:
        try:
            os.close(self.open())
        except ProcessLookupError:
            return False
        return True

    def end(self, seconds: float) -> None:
        """Kill the process and wait until it has gone. Blocks. Raises TimeoutError."""
        try:
            descriptor = self.open()
        except ProcessLookupError:
            return
        try:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            if not poll.poll(seconds * 1000):
                raise TimeoutError(f"process {self.pid} did not end within {seconds:g} s of being killed")
        finally:
            os.close(descriptor)

    def reap(self) -> None:
        """Take the exit status of a process that has ended, if it was a child of this one."""
        if self.boot == _boot_id() and _read_start(self.pid, dead=True) == self.started:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, os.WNOHANG)


class Sandbox(msgspec.Struct, frozen=True):
    """One sandbox: what was asked for, what it is made of, and its processes.

    ``init`` is the guest agent, the first process inside; ``outer`` is bubblewrap, which waits for it.
    """

    request: DeviceRequest
    layers: tuple[str, ...]
    limits: Limits
    created: datetime
    init: ProcessId
    outer: ProcessId

    @property
    def identity(self) -> str:
        return self.request.identity

    def save(self, folder: Path) -> None:
        partial = folder / f"{RECORD}.part"
        partial.write_bytes(msgspec.json.encode(self))
        partial.rename(folder / RECORD)

    @classmethod
    def load(cls, folder: Path) -> Sandbox | None:
        """Read the record of a folder; None where there is none that can be read."""
        try:
            return msgspec.json.decode((folder / RECORD).read_bytes(), type=cls)
        except (OSError, msgspec.DecodeError):
            return None


def descendants(root: int) -> list[int]:
    """Return the processes below one, itself included, parents first."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(folder.name)] = int((folder / "stat").read_bytes().rpartition(b")")[2].split()[1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def _read_start(pid: int, *, dead: bool) -> int | None:
    """Return when a process started, in ticks since the boot; None when it is gone, or ended and not ``dead``."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return int(fields[19]) if dead or fields[0] not in (b"Z", b"X") else None


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
