"""How a sandbox is started: unshare, an overlay mount, bubblewrap, and the guest agent as its first process.

Mounts are made in a mount namespace of the sandbox's own and go away with it: nothing is ever mounted on the host. As
root, the overlay is mounted by root and bubblewrap runs as an unprivileged user; otherwise a user namespace stands
around both. Either way programs inside have one user identity, which is nobody on the host, and no capability.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import platform
import shutil
import subprocess
import tempfile
import uuid
import zipfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from anvild.sdk import Health, HealthState
from anvild.sdk.agent import guest_archive
from anvild.sdk.cgroups import Layout
from anvild.sdk.sockets import listen_unix

from .seccomp import ARCHITECTURES, build_filter
from .storage import Storage, kernel_message, remove_tree

PYTHON = "/usr/bin/python3"
BUNDLE = Path(__file__).with_name("bundle.py")
AGENT_INSIDE = "/run/anvil/agent.pyc"
SOCKET = "agent.sock"
LOG = "start.log"
HOST_NAME = "sandbox"
TOOLS = ("bwrap", "unshare", "setpriv", "mount", "cp")
PROBE_SECONDS = 8.0

# Parts of the host's /etc that programs in /usr rely on; those that are there are shown.
SHOWN_ETC = (
    "alternatives",
    "ca-certificates.conf",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    "protocols",
    "python3",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
    "terminfo",
)

# $1 the driver's folder, $2 the overlay's options; the rest is the program. A line on standard input lets it begin,
# when the process is in its control group.
SCRIPT = (
    'read -r _ && cd "$1" && mount -t tmpfs -o size=64k,mode=755 tmpfs /mnt && mkdir /mnt/root '
    '&& mount -t overlay -o "$2" overlay /mnt/root && shift 2 && exec "$@" </dev/null'
)

FIRST_FREE_FD = 200
SECCOMP_FD, INFO_FD, AGENT_FD, LISTEN_FD = 100, 101, 102, 103


class Started(msgspec.Struct, frozen=True):
    """A launched bubblewrap: its pid, the pipe on which it tells its child, and the one that lets it begin."""

    pid: int
    info: int
    go: int


class _Info(msgspec.Struct, frozen=True):
    child_pid: int = msgspec.field(name="child-pid")


def child_of(info: bytes) -> int:
    """Read the pid of the sandbox's first process out of what bubblewrap told. Raises ValueError."""
    try:
        return msgspec.json.decode(info, type=_Info).child_pid
    except msgspec.DecodeError:
        raise ValueError("bubblewrap did not tell its child") from None


def compile_agent(cache: Path) -> Path:
    """Compile the guest agent for the Python inside, so that it starts at once. Raises OSError, CalledProcessError."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        with zipfile.ZipFile(io.BytesIO(guest_archive())) as sources:
            names = [name for name in sources.namelist() if name.endswith(".py")]
            sources.extractall(folder, names)
            command = [PYTHON, "-I", "-S", str(BUNDLE), "agent.pyc", *names]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=30)
        return Path(folder, "agent.pyc").replace(cache / "agent.pyc")


def around(owner: int) -> tuple[list[str], list[str]]:
    """Return what stands before the mounts and before bubblewrap, for root and for others."""
    if os.geteuid() == 0:
        drop = ["setpriv", f"--reuid={owner}", f"--regid={owner}", "--clear-groups"]
        return ["unshare", "--mount"], [*drop, "bwrap", "--unshare-user", "--uid", "0", "--gid", "0"]
    return ["unshare", "--user", "--map-root-user", "--mount"], ["bwrap"]


def bubblewrap_options() -> list[str]:
    """Return what every sandbox is given: its file systems and namespaces."""
    options = ["--bind", "/mnt/root", "/", "--ro-bind", "/usr", "/usr"]
    for name in ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"):
        if Path(name).is_dir() and not Path(name).is_symlink():
            options += ["--ro-bind", name, name]
    for name in SHOWN_ETC:
        options += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    # The kernel lets user 0 of the host write settings by their mode alone: show them read-only.
    options += ["--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys", "--dev", "/dev", "--tmpfs", "/run"]
    options += ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net", "--unshare-cgroup-try"]
    options += ["--hostname", HOST_NAME, "--new-session", "--cap-drop", "ALL", "--chdir", "/", "--clearenv"]
    return options


def command_of(storage: Storage, identity: str, layers: tuple[str, ...], inside: Sequence[str]) -> list[str]:
    """Return the command that makes a sandbox; ``inside`` are its last options and its program."""
    before, wrap = around(storage.owner)
    options = storage.overlay_options(identity, layers)
    mounting = ["sh", "-c", SCRIPT, "sh", str(storage.root), options]
    return [*before, *mounting, *wrap, *bubblewrap_options(), *inside]


def launch(storage: Storage, identity: str, layers: tuple[str, ...], agent: Path) -> Started:
    """Start a sandbox that waits for a line on ``go``. Raises OSError."""
    folder = storage.device(identity)
    inside = ["--seccomp", str(SECCOMP_FD), "--info-fd", str(INFO_FD), "--ro-bind-data", str(AGENT_FD), AGENT_INSIDE]
    inside += ["--as-pid-1", PYTHON, "-I", "-S", "-B", AGENT_INSIDE, "listen", str(LISTEN_FD)]
    command = command_of(storage, identity, layers, inside)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listen_unix(folder / SOCKET, backlog=16))
        program = stack.enter_context(agent.open("rb"))
        log = stack.enter_context((folder / LOG).open("wb"))
        rules = os.memfd_create("seccomp")
        stack.callback(os.close, rules)
        os.write(rules, build_filter(platform.machine()))
        os.lseek(rules, 0, os.SEEK_SET)
        waiting, go = os.pipe()
        stack.callback(os.close, waiting)
        info, telling = os.pipe()
        stack.callback(os.close, telling)
        given = {
            0: waiting,
            1: log.fileno(),
            2: log.fileno(),
            SECCOMP_FD: rules,
            INFO_FD: telling,
            AGENT_FD: program.fileno(),
            LISTEN_FD: listener.fileno(),
        }
        try:
            return Started(pid=_spawn(command, given), info=info, go=go)
        except OSError:
            os.close(info)
            os.close(go)
            raise


def _inheritable() -> list[int]:
    """Return the descriptors that this process has itself been given and would hand on."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the listing's own descriptor
            if int(entry.name) > 2 and os.get_inheritable(int(entry.name)):
                found.append(int(entry.name))
    return found


def _spawn(command: list[str], given: dict[int, int]) -> int:
    """Start a program in a session of its own with exactly the descriptors that it is given."""
    program = shutil.which(command[0])
    if program is None:
        raise FileNotFoundError(f"the program {command[0]} is not installed")
    with contextlib.ExitStack() as stack:
        actions: list[tuple[int, int] | tuple[int, int, int]] = [
            (os.POSIX_SPAWN_CLOSE, fd) for fd in _inheritable() if fd not in given
        ]
        for target, source in given.items():
            # A copy with a high number cannot be overwritten by an earlier target.
            copy = fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, FIRST_FREE_FD)
            stack.callback(os.close, copy)
            actions.append((os.POSIX_SPAWN_DUP2, copy, target))
        return os.posix_spawn(
            program, command, {"PATH": os.environ.get("PATH", os.defpath)}, file_actions=actions, setsid=True
        )


def probe(storage: Storage, layout: Layout) -> Health:
    """Find out what works on this host by making a sandbox, and say it in words. Blocks for some 20 ms."""
    if platform.system() != "Linux" or platform.machine() not in ARCHITECTURES:
        where = f"{platform.system()} on {platform.machine()}"
        return Health(
            state=HealthState.ABSENT, reason=f"sandboxes need Linux on {' or '.join(ARCHITECTURES)}, not {where}"
        )
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        reason = f"missing: {', '.join(missing)}; install the packages bubblewrap and util-linux"
        return Health(state=HealthState.ABSENT, reason=reason)
    if not Path(PYTHON).exists():
        return Health(state=HealthState.ABSENT, reason=f"{PYTHON} is missing, which the guest agent runs on")
    try:
        done = _trial(storage)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Health(state=HealthState.UNHEALTHY, reason=f"a trial sandbox could not be made: {error}")
    if done.returncode:
        reason = f"a trial sandbox could not be made: {kernel_message(done)}; are user namespaces allowed here?"
        return Health(state=HealthState.UNHEALTHY, reason=reason)
    lacks = [f"no limit of {name}" for name in layout.missing]
    if not layout.can_freeze:
        lacks.append("no pause")
    if lacks:
        reason = f"sandboxes work, with {', '.join(lacks)}: the daemon may not make control groups (set Delegate=yes)"
        return Health(state=HealthState.DEGRADED, reason=reason)
    return Health(state=HealthState.HEALTHY, reason="sandboxes work with all limits; they share the host's kernel")


def _trial(storage: Storage) -> subprocess.CompletedProcess[str]:
    """Make a sandbox of the usual kind that ends at once."""
    identity = f".trial-{uuid.uuid4().hex}"
    folder = storage.make_device(identity)
    try:
        command = command_of(storage, identity, (), [PYTHON, "-I", "-S", "-c", "pass"])
        return subprocess.run(command, input="\n", capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)
    finally:
        remove_tree(folder)
