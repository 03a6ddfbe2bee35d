"""Processes of this Linux host that a driver starts and that may outlive the daemon: known again beyond doubt, ended.

A process id alone is given to another process sooner or later; with the moment of its start, and the boot of the host
in which that was, it is not.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
from pathlib import Path

import msgspec

__all__ = ["ProcessIdentity"]

ENDED_STATES = (b"Z", b"X")


class ProcessIdentity(msgspec.Struct, frozen=True):
    """A process that cannot be mistaken for a later one with the same number, to be kept in a driver's records.

    ``started`` is in clock ticks since the host's boot, and ``boot`` the id of that boot; None, in an old record, is
    any boot.
    """

    pid: int
    started: int
    boot: str | None = None

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity:
        """Look a living process up. Raises ProcessLookupError."""
        started = _read_start(pid, dead=False)
        if started is None:
            raise ProcessLookupError(pid)
        return cls(pid=pid, started=started, boot=_boot_id())

    def open(self) -> int:
        """Return a descriptor of the process, which the caller closes. It can be read when the process has ended.

        Raises ProcessLookupError when it has ended already.
        """
        if not self._of_this_boot():
            raise ProcessLookupError(self.pid)
        try:
            descriptor = os.pidfd_open(self.pid)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):  # the number is a thread's by now
                raise ProcessLookupError(self.pid) from None
            raise
        if _read_start(self.pid, dead=False) == self.started:
            return descriptor
        os.close(descriptor)
        raise ProcessLookupError(self.pid)

    def alive(self) -> bool:
        """Tell whether the process runs."""
        try:
            os.close(self.open())
        except ProcessLookupError:
            return False
        return True

    def end(self, seconds: float) -> None:
        """Kill the process and wait until it has ended. Blocks. Raises TimeoutError."""
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
        if self._of_this_boot() and _read_start(self.pid, dead=True) == self.started:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, os.WNOHANG)

    def _of_this_boot(self) -> bool:
        return self.boot is None or self.boot == _boot_id()


def _read_start(pid: int, *, dead: bool) -> int | None:
    """Return when a process started, in ticks since the boot; None when it is gone, or ended and not ``dead``."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError, PermissionError):  # the last: another user's by now
        return None
    return int(fields[19]) if dead or fields[0] not in ENDED_STATES else None


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
