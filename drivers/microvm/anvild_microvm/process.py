"""QEMU's process: started as an unprivileged user in a session of its own, known again after a restart, ended."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec
import trio

from anvild.sdk import Unavailable
from anvild.sdk.processes import ProcessIdentity

__all__ = [
    "Account",
    "Hypervisor",
    "end_processes",
    "guest_account",
    "processes_in",
]

PROC = Path("/proc")
DEDICATED_USER = "anvild-guest"
FALLBACK_USER = "nobody"


class Account(msgspec.Struct, frozen=True):
    """The system user that QEMU runs as. ``own`` means: the daemon's own user, nothing is changed."""

    name: str
    uid: int
    gid: int
    own: bool

    def give(self, *paths: Path) -> None:
        """Make files the account's own, to read and write."""
        for path in paths:
            path.chmod(0o600)
            if not self.own:
                os.chown(path, self.uid, self.gid)

    def share(self, *paths: Path) -> None:
        """Let the account read files, or enter folders without listing them, that stay the daemon's."""
        for path in paths:
            path.chmod(0o710 if path.is_dir() else 0o640)
            if not self.own:
                os.chown(path, os.geteuid(), self.gid)


def guest_account(setting: str | None) -> Account:
    """Return the account that QEMU runs as. Raises Unavailable when the setting cannot be followed."""
    uid = os.geteuid()
    candidates = (setting,) if setting is not None else (DEDICATED_USER, FALLBACK_USER)
    if uid != 0:
        own = Account(user_name(uid), uid, os.getegid(), True)
        if setting not in (None, own.name):
            raise Unavailable(
                f"the daemon runs as {own.name} and cannot start guests as {setting}: leave the setting user out"
            )
        return own
    for name in candidates:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(name, entry.pw_uid, entry.pw_gid, entry.pw_uid == uid)
    raise Unavailable(f"there is no system user {candidates[-1]!r}: adduser --system --group {candidates[-1]}")


def user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def processes_in(folder: Path) -> list[ProcessIdentity]:
    """Return the processes whose working directory is ``folder``: every QEMU is started in its guest's own."""
    found = []
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "cwd").readlink() == folder:
                    found.append(ProcessIdentity.of(int(entry.name)))
    return found


async def end_processes(folder: Path) -> None:
    """End every QEMU of a guest's folder, whoever has started it. Not cancelled half-way."""
    with trio.CancelScope(shield=True):
        for identity in await trio.to_thread.run_sync(processes_in, folder):
            hypervisor = Hypervisor.adopt(identity)
            if hypervisor is not None:
                await hypervisor.kill()
                hypervisor.close()


class Hypervisor:
    """One QEMU process, our child or one that an earlier daemon has started. Close it to let go; that ends nothing."""

    def __init__(self, identity: ProcessIdentity, pidfd: int) -> None:
        self.identity = identity
        self._pidfd = pidfd

    @property
    def pid(self) -> int:
        return self.identity.pid

    @classmethod
    def spawn(
        cls, argv: Sequence[str], *, folder: Path, account: Account, inherit: Sequence[int], log: Path
    ) -> Hypervisor:
        """Start QEMU in ``folder``. Call it in a thread. It lives on when the daemon ends."""
        with log.open("ab") as output:
            child = subprocess.Popen(
                argv,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=inherit,
                start_new_session=True,
                umask=0o077,
                user=None if account.own else account.uid,
                group=None if account.own else account.gid,
                extra_groups=None if account.own else (),
            )
        pidfd = os.pidfd_open(child.pid)
        try:
            identity = ProcessIdentity.of(child.pid)
        except ProcessLookupError:  # it has ended already
            identity = ProcessIdentity(child.pid, 0)
        child.returncode = 0  # it outlives this object: its end is awaited and collected by wait()
        return cls(identity, pidfd)

    @classmethod
    def adopt(cls, identity: ProcessIdentity) -> Hypervisor | None:
        """Take a process up that was started earlier; None when it has ended or is another one by now."""
        try:
            return cls(identity, identity.open())
        except ProcessLookupError:
            return None

    async def wait(self) -> None:
        """Return when the process has ended. Cancelling leaves it alone."""
        await trio.lowlevel.wait_readable(self._pidfd)
        self._collect()

    def _collect(self) -> None:
        """Take the end of a child away, so that the host forgets it; another's child is its own parent's matter."""
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal. A process that has ended is no error."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    async def kill(self) -> None:
        """End the process for certain and return when it has ended. Not cancelled half-way."""
        self.signal(signal.SIGKILL)
        with trio.CancelScope(shield=True):
            await self.wait()

    def close(self) -> None:
        """Let go of the process. Closing twice is fine."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
