"""A device's own world: a root file system, processes and a network that have nothing of the host in them.

One bubblewrap holds the namespaces for as long as the device is switched on. Every command enters them by nsenter, so
that all commands see one another's processes, as on a phone. When the simulator ends, in whatever way, the first
process reads the end of its input, and ends all others and itself.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Self

import msgspec
import trio

from anvild.sdk import Unavailable

from .files import Files

__all__ = ["CALLS", "ENVIRONMENT", "Root"]

CALLS = "/dev/calls"
BUSYBOX = "/system/bin/busybox"
SHELL = "/system/bin/sh"
USER = "2000"
FOLDERS = ("local/tmp", "media/0/Download", "app", "data", "tombstones")
DEVICES = ("null", "zero", "full", "random", "urandom")
HOLD = "echo up; read never; kill -9 -1"  # a world ends when nothing runs in it any more
START_SECONDS = 10.0
END_SECONDS = 5.0
# What a phone has and busybox does not. A name is the program's, or with -f a part of its command line.
_FIND = """#!/system/bin/sh
s=-TERM; f=
while :; do case $1 in -f) f=1;; -l) shift; s=-$1;; -?*) s=$1;; *) break;; esac; shift; done
if [ "$f" ]; then p=$(cd /proc && grep -ls -- "$1" [0-9]*/cmdline | cut -d/ -f1 | grep -vx $$); else p=$(pidof "$1"); fi
[ "$p" ] || exit 1
"""
SCRIPTS = {"pkill": f"{_FIND}exec kill $s $p\n", "pgrep": f'{_FIND}printf "%s\\n" $p\n'}
ENVIRONMENT = {
    "PATH": "/system/bin:/system/xbin",
    "HOME": "/data/local/tmp",
    "TMPDIR": "/data/local/tmp",
    "ANDROID_ROOT": "/system",
    "ANDROID_DATA": "/data",
    "EXTERNAL_STORAGE": "/sdcard",
    "USER": "shell",
    "LOGNAME": "shell",
    "SHELL": SHELL,
    "HOSTNAME": "localhost",
}


class _Info(msgspec.Struct, frozen=True):
    child_pid: int = msgspec.field(name="child-pid")


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise Unavailable(
            f"a simulated Android device needs {name}, which is missing; install the packages bubblewrap, "
            "busybox-static and util-linux"
        )
    return found


class Root:
    """The file system, the processes and the network of one device, as the context of :meth:`standing`."""

    def __init__(self, directory: Path, quota: int | None) -> None:
        self._directory = directory
        self._quota = quota
        self._enter: tuple[str, ...] = ()
        self._first = 0
        self._alive = -1
        self._nursery: trio.Nursery | None = None
        self.files = Files(-1)

    @contextlib.asynccontextmanager
    async def standing(self, tools: Sequence[str], front: str) -> AsyncIterator[Self]:
        """Make the world, with ``front`` as the program of each of ``tools``, and end all that is in it at the end.

        Raises Unavailable, with one sentence, when the host lacks something.
        """
        if platform.system() != "Linux":
            raise Unavailable(f"a simulated Android device needs Linux, and this is {platform.system()}")
        bwrap, busybox, nsenter = _tool("bwrap"), _tool("busybox"), _tool("nsenter")
        await trio.to_thread.run_sync(self._lay_out, busybox, tools, front)
        holder = await self._hold(bwrap, busybox)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            target = ("-t", str(self._first), "-U", "-m", "-n", "-u", "-i", "-p", "-r", "-w")
            self._enter = (nsenter, "--preserve-credentials", *target)
            try:
                yield self
            finally:
                self._enter = ()
                with trio.CancelScope(shield=True):
                    await self._end(holder)

    # making it

    def _lay_out(self, busybox: str, tools: Sequence[str], front: str) -> None:
        """Write the system's files, and the folders that a device has from the start."""
        system = self._directory / "system"
        shutil.rmtree(system, ignore_errors=True)
        programs = system / "bin"
        programs.mkdir(parents=True)
        listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True, timeout=START_SECONDS)
        for name in {*listed.stdout.split(), "sh"} - {"busybox", *tools, *SCRIPTS}:
            (programs / name).symlink_to("busybox")
        (programs / "busybox").touch()
        first, *others = tools
        (programs / first).write_text(front)
        (programs / first).chmod(0o755)
        for name in others:
            (programs / name).hardlink_to(programs / first)
        for name, script in SCRIPTS.items():
            (programs / name).write_text(script)
            (programs / name).chmod(0o755)
        (system / "etc").mkdir()
        (system / "etc" / "passwd").write_text(f"shell:x:{USER}:{USER}:shell:/data/local/tmp:{SHELL}\n")
        (system / "etc" / "group").write_text(f"shell:x:{USER}:\n")
        (system / "etc" / "hosts").write_text("127.0.0.1 localhost\n")
        shutil.rmtree(self._directory / "calls", ignore_errors=True)
        (self._directory / "calls").mkdir()
        for name in ("door", "idle"):
            os.mkfifo(self._directory / "calls" / name)
        if self._quota is None:
            for name in FOLDERS:
                (self._directory / "data" / name).mkdir(parents=True, exist_ok=True)

    def _options(self, busybox: str) -> list[str]:
        options = ["--unshare-user", "--uid", USER, "--gid", USER, "--hostname", "localhost", "--clearenv"]
        options += ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
        options += ["--ro-bind", str(self._directory / "system"), "/system", "--ro-bind", busybox, BUSYBOX]
        options += ["--symlink", "system/bin", "/bin", "--symlink", "system/etc", "/etc"]
        options += ["--symlink", "/data/media/0", "/sdcard", "--dir", "/storage/emulated"]
        options += ["--symlink", "/data/media/0", "/storage/emulated/0"]
        # The kernel lets user 0 of the host write settings by their mode alone: show them read-only.
        options += ["--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys", "--perms", "0755", "--dir", "/dev"]
        for name in DEVICES:
            options += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
        options += ["--bind", str(self._directory / "calls"), CALLS]
        if self._quota is None:
            options += ["--bind", str(self._directory / "data"), "/data"]
        else:
            options += ["--size", str(self._quota), "--tmpfs", "/data"]
            for name in FOLDERS:
                options += ["--dir", f"/data/{name}"]
        return [*options, "--remount-ro", "/", "--chdir", "/"]

    async def _hold(self, bwrap: str, busybox: str) -> trio.Process:
        """Start the process that holds the namespaces. Its command line, which the device sees, tells no host path."""
        options = os.memfd_create("options")
        told, telling = os.pipe()
        try:
            os.write(options, b"".join(os.fsencode(option) + b"\0" for option in self._options(busybox)))
            os.lseek(options, 0, os.SEEK_SET)
            command = [bwrap, "--args", str(options), "--info-fd", str(telling), SHELL, "-c", HOLD]
            holder = await trio.lowlevel.open_process(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(options, telling),
                start_new_session=True,
                env={"PATH": os.defpath},
            )
        except BaseException:
            os.close(told)
            raise
        finally:
            os.close(options)
            os.close(telling)
        try:
            await self._look_in(holder, told)
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._end(holder)
            raise
        return holder

    async def _look_in(self, holder: trio.Process, told: int) -> None:
        """Wait until the first program runs, and with it the root stands."""
        assert holder.stdout is not None
        assert holder.stderr is not None
        info = bytearray()
        said = bytearray()
        async with trio.lowlevel.FdStream(told) as stream, holder.stdout, holder.stderr:
            with trio.move_on_after(START_SECONDS):
                if await holder.stdout.receive_some():
                    while not info.rstrip().endswith(b"}") and (chunk := await stream.receive_some()):
                        info += chunk
                    self._first = msgspec.json.decode(bytes(info), type=_Info).child_pid
                    self._alive = os.pidfd_open(self._first)
                    self.files = Files(os.open(f"/proc/{self._first}/root", os.O_PATH | os.O_DIRECTORY))
                    return
                said += await holder.stderr.receive_some()
        reason = said.decode(errors="replace").strip().splitlines()[-1:] or ["bubblewrap said nothing"]
        raise Unavailable(
            f"a simulated Android device could not be made: {reason[0]}; it needs bubblewrap, busybox-static and "
            "user namespaces"
        )

    async def _end(self, holder: trio.Process) -> None:
        """Kill the first process: the kernel ends all the others with it, and its parent is still there to bury it."""
        if self._alive >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._alive, signal.SIGKILL)
            await trio.lowlevel.wait_readable(self._alive)
            os.close(self._alive)
            self._alive = -1
        assert holder.stdin is not None
        await holder.stdin.aclose()
        with trio.move_on_after(END_SECONDS):
            await holder.wait()
        if holder.returncode is None:
            holder.kill()
            await holder.wait()
        self.files.close()

    # what runs in it

    async def start(
        self,
        command: Sequence[str],
        *,
        stdin: int | None = subprocess.DEVNULL,
        stdout: int | None = subprocess.DEVNULL,
        stderr: int | None = subprocess.DEVNULL,
        env: Mapping[str, str] | None = None,
    ) -> trio.Process:
        """Start a program in the device. The caller closes its pipes; the process itself is waited for here.

        Raises Unavailable when the device is switched off.
        """
        if not self._enter or self._nursery is None:
            raise Unavailable("the device is switched off")
        process = await trio.lowlevel.open_process(
            [*self._enter, *command],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            env={**ENVIRONMENT, **(env or {})},
        )
        self._nursery.start_soon(_reap, process)
        return process

    def in_network(self, command: Sequence[str]) -> list[str]:
        """Return what runs a program of the host in the device's network. Raises Unavailable."""
        if not self._enter:
            raise Unavailable("the device is switched off")
        return [self._enter[0], "--preserve-credentials", "-t", str(self._first), "-U", "-n", *command]

    def signal(self, process: trio.Process, number: int) -> None:
        """Send a signal to a program that :meth:`start` has started. One that has ended is no error."""
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        with contextlib.suppress(OSError):
            for pid in children.read_text().split():
                os.kill(int(pid), number)

    def end_all(self) -> None:
        """Kill all that runs in the device, as a reboot does. Blocks for a moment."""
        world = os.readlink(f"/proc/{self._first}/ns/pid")  # noqa: PTH115 the link's text is no path
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                pid = int(folder.name)
                if os.readlink(folder / "ns" / "pid") == world and _number_inside(folder) > 2:  # noqa: PTH115 likewise
                    os.kill(pid, signal.SIGKILL)


def _number_inside(process: Path) -> int:
    """The process's number in its own namespace; the first two hold a device's world."""
    found = re.search(r"^NSpid:.*\s(\d+)$", (process / "status").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


async def _reap(process: trio.Process) -> None:
    """Wait for a program, which ends with the device at the latest, so that nothing is left of it."""
    with trio.CancelScope(shield=True):
        await process.wait()
