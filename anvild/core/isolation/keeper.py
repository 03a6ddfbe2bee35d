"""Keeps one child of the daemon: starts it in a group of its own, and ends it with its whole group, whatever happens
to the daemon.

This is a program, run by its path with the standard library alone: ``python -I -S keeper.py FD COMMAND...``. Its
standard input, output and error become the child's. FD is a socket to the daemon, with lines in both directions:

- from here: ``started PID`` when the child has its group and waits; ``refused WHY`` when the command cannot be run;
  ``exited CODE`` or ``signal NUMBER`` when the child has ended, and its group was killed with it;
- from the daemon: ``go BYTES`` lets the command begin, with so much memory for its data (0: no limit); ``term`` and
  ``kill`` send that signal to the group. The end of the stream is the end of the daemon, and kills the group.

The child is not the daemon's own, because the kernel tells a child of the death of a thread, and a thread of the daemon
ends long before the daemon does.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Sequence


def main() -> None:
    """Keep the child until it has ended or the daemon has."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    awake, waker = os.pipe()
    os.set_blocking(waker, False)
    for number in (signal.SIGCHLD, signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _heard)  # ended by the daemon's word alone
    signal.set_wakeup_fd(waker)
    child, gate = _start(sys.argv[2:])
    null = os.open(os.devnull, os.O_RDWR)
    for own in (0, 1, 2):
        os.dup2(null, own)  # the child's ends of the pipes shall be the only ones
    status: int | None = None
    try:
        control.sendall(f"started {child}\n".encode())
        status = _serve(child, control, gate, awake)
    except OSError:  # the daemon has gone in the middle of a word
        status = None
    if status is None:
        _signal(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return
    # The rest of the group goes with its leader. Nobody can have got the leader's number since the line before.
    _signal(child, signal.SIGKILL)
    with contextlib.suppress(OSError):
        control.sendall(_told(status))


def _heard(number: int, frame: object) -> None:
    """Nothing to do: the wake-up descriptor has told of the signal."""


def _start(command: Sequence[str]) -> tuple[int, socket.socket]:
    """Fork the child, which leads a group of its own when this returns, and waits for its start."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        ours.close()
        _become(command, theirs)
    theirs.close()
    ours.recv(1)
    return child, ours


def _become(command: Sequence[str], gate: socket.socket) -> None:
    """Be the command, or tell why not. Never returns."""
    try:
        os.setsid()
        gate.send(b"\n")
        allowed = int(gate.recv(64) or b"-1")
        if allowed >= 0:
            if allowed:
                resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))
            for number in signal.valid_signals():
                if signal.getsignal(number) is signal.SIG_IGN:  # by Python, or by the shell that started the daemon
                    signal.signal(number, signal.SIG_DFL)
            os.execvp(command[0], list(command))  # noqa: S606  # an argument list of the operator's
    except (OSError, ValueError) as error:
        gate.send(f"{getattr(error, 'strerror', None) or error}: {command[0]}".encode())
    finally:
        os._exit(127)


def _serve(child: int, control: socket.socket, gate: socket.socket, awake: int) -> int | None:
    """Do what the daemon says until the child has ended, and return its status; None when the daemon has gone."""
    poll = select.poll()
    for waited in (control.fileno(), gate.fileno(), awake):
        poll.register(waited, select.POLLIN)
    while True:
        for ready, _ in poll.poll():
            if ready == awake:
                os.read(awake, 512)
                ended, status = os.waitpid(child, os.WNOHANG)
                if ended:
                    return status
            elif ready == gate.fileno():
                poll.unregister(gate.fileno())
                if why := gate.recv(1000):
                    control.sendall(b"refused " + why.replace(b"\n", b" ") + b"\n")
            elif not (words := control.recv(4096)):
                return None
            else:
                for line in words.decode().splitlines():
                    _obey(line, child, gate)


def _obey(line: str, child: int, gate: socket.socket) -> None:
    match line.split():
        case ["go", allowed]:
            gate.send(allowed.encode())
        case ["term"]:
            _signal(child, signal.SIGTERM)
        case ["kill"]:
            _signal(child, signal.SIGKILL)


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _told(status: int) -> bytes:
    code = os.waitstatus_to_exitcode(status)
    return f"exited {code}\n".encode() if code >= 0 else f"signal {-code}\n".encode()


if __name__ == "__main__":
    main()
