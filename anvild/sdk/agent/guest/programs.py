"""How a program is started."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import struct

from .accounts import account_of
from .refusals import Refused, refused
from .wire import DATA, EXTRA

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from .accounts import Account
    from .agent import Agent
    from .wire import Message

TIOCSCTTY = 0x540E
TIOCSWINSZ = 0x5414
PATH_DEFAULT = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def start_process(agent: Agent, request: Message) -> tuple[int, int | None, dict[int, int]]:
    """Fork and execute; return the pid, the descriptor of its input or None, and its outputs with their frame kinds."""
    argv = [os.fsencode(word) for word in request["argv"]]
    name = request.get("user") or agent.defaults.get("user")
    account = account_of(name) if name else account_of(str(os.geteuid()))
    env = {"PATH": PATH_DEFAULT, "HOME": account.pw_dir, "USER": account.pw_name, "LOGNAME": account.pw_name}
    env["SHELL"] = account.pw_shell or "/bin/sh"
    env["LANG"] = "C.UTF-8"
    size = request.get("terminal")
    if size:
        env["TERM"] = "xterm-256color"
    env.update(agent.defaults.get("environment") or {})
    env.update(request.get("env") or {})
    folder = request.get("cwd") or (account.pw_dir if os.path.isdir(account.pw_dir) else "/")
    groups = None if account.pw_uid == os.geteuid() else os.getgrouplist(account.pw_name, account.pw_gid)
    mine, theirs, outputs, stdin = [], [], {}, None
    try:
        if size:
            master, slave = os.openpty()
            mine, theirs = [master], [slave, slave, slave]
            set_size(slave, size)
            if groups is not None:
                os.fchown(slave, account.pw_uid, -1)
            stdin = os.dup(master)
            mine.append(stdin)
            outputs = {master: DATA}
        else:
            if request.get("stdin"):
                ours, stdin = os.pipe()
                theirs.append(ours)
                mine.append(stdin)
            else:
                theirs.append(os.open("/dev/null", os.O_RDONLY))
            for kind in (DATA, EXTRA):
                output, ours = os.pipe()
                theirs.append(ours)
                mine.append(output)
                outputs[output] = kind
        report, reporter = os.pipe()
        theirs.append(reporter)
        mine.append(report)
        for fd in mine[:-1]:
            os.set_blocking(fd, False)
        pid = os.fork()
        if pid == 0:
            become(agent, argv, env, folder, account, groups, theirs, bool(size))
        close_all(theirs)
        theirs = []
        trouble = os.read(report, 4096)
        os.close(report)
        mine.remove(report)
        if trouble:
            os.waitpid(pid, 0)
            stage, number = trouble[:1], int(trouble[1:])
            what = {b"d": f"directory {folder!r}", b"u": f"user {account.pw_name!r}"}.get(stage, f"program {argv[0]!r}")
            raise refused(OSError(number, os.strerror(number)), "cannot start: " + what.replace("b'", "'"))
    except OSError as error:
        close_all(mine + theirs)
        raise refused(error, "cannot start {!r}".format(request["argv"][0])) from None
    except Refused:
        close_all(mine)
        raise
    return pid, stdin, outputs


def close_all(fds: list[int]) -> None:
    for fd in set(fds):
        os.close(fd)


def become(
    agent: Agent,
    argv: list[bytes],
    env: dict[str, str],
    folder: str,
    account: Account,
    groups: list[int] | None,
    fds: list[int],
    terminal: bool,
) -> NoReturn:
    """In the child: become the program. What fails is told through the last descriptor as a stage and an errno."""
    stage = b"p"
    try:
        os.setsid()
        for target in range(3):
            os.dup2(fds[target], target)
        if terminal:
            fcntl.ioctl(0, TIOCSCTTY, 0)
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        if agent.protected:
            with open("/proc/self/oom_score_adj", "w") as score:
                score.write("0")
        stage = b"u"
        if groups is not None:
            os.setgroups(groups)
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)
        stage = b"d"
        os.chdir(folder)
        stage = b"p"
        trouble = errno.ENOENT
        for place in env["PATH"].split(":") if b"/" not in argv[0] else [""]:
            try:
                os.execve(os.path.join(os.fsencode(place), argv[0]), argv, env)  # noqa: S606 no shell is wanted here
            except OSError as error:
                trouble = trouble if error.errno in (errno.ENOENT, errno.ENOTDIR) else error.errno or trouble
        os.write(fds[-1], stage + str(trouble).encode())
    except OSError as error:
        os.write(fds[-1], stage + str(error.errno).encode())
    except BaseException:
        os.write(fds[-1], stage + str(errno.EINVAL).encode())
    finally:
        os._exit(127)


def set_size(fd: int, size: list[int]) -> None:
    columns, rows = size
    fcntl.ioctl(fd, TIOCSWINSZ, struct.pack("<HHHH", rows, columns, 0, 0))
