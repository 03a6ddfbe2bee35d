"""The shell and exec services: programs of the device, with their streams on a stream of adb."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import struct
import subprocess
import termios
from collections.abc import Iterator

import trio

from .packets import Reader
from .root import BUSYBOX, SHELL, Root
from .streams import AdbStream

__all__ = ["serve_exec", "serve_shell"]

STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN, WINDOW_SIZE = range(6)
HEAD = struct.Struct("<BI")
CHUNK = 64 * 1024
# Applets of busybox's own shell would be taken before programs of the same name.
PRELUDE = "".join(f'{name}() {{ /system/bin/{name} "$@"; }}\n' for name in ("reboot", "svc"))


def _command(text: str, *, terminal: bool) -> list[str]:
    shell = [SHELL, "-c", PRELUDE + text] if text else [SHELL]
    # As adbd does: each command leads a session of its own, and with it a group that can be sent signals.
    return [BUSYBOX, "setsid", *(["-c"] if terminal else []), *shell]


async def serve_exec(root: Root, stream: AdbStream, text: str) -> None:
    """Run a command with both its outputs in one, as the services ``exec:`` and the old ``shell:`` do.

    A host that closes before the end closes the program's streams, and nothing else is told to the program.
    """
    stream.accept()
    process = await root.start(
        _command(text, terminal=False), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdin is not None
    assert process.stdout is not None
    async with process.stdin, process.stdout, trio.open_nursery() as nursery:
        nursery.start_soon(_feed_raw, stream, process.stdin, nursery.cancel_scope)
        async for chunk in process.stdout:
            await stream.send_all(chunk)
        await stream.drained()
        nursery.cancel_scope.cancel()


async def _feed_raw(stream: AdbStream, stdin: trio.abc.SendStream, scope: trio.CancelScope) -> None:
    while chunk := await stream.receive_some():
        with contextlib.suppress(trio.BrokenResourceError):  # what comes for a closed input is thrown away
            await stdin.send_all(chunk)
    scope.cancel()


@contextlib.contextmanager
def _hanging_up(root: Root, process: trio.Process) -> Iterator[None]:
    """Hang up on a shell whose host has gone before its end, in whatever way: on the shell alone, as adbd does."""
    try:
        yield
    finally:
        if process.returncode is None:
            root.signal(process, signal.SIGHUP)


async def serve_shell(root: Root, stream: AdbStream, text: str, *, terminal: bool, term: str) -> None:
    """Run a command by the second shell protocol: input, both outputs and the exit code, each told apart."""
    stream.accept()
    if terminal:
        await _on_terminal(root, stream, text, term)
        return
    process = await root.start(
        _command(text, terminal=False), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    async with process.stdin, process.stdout, process.stderr:
        with _hanging_up(root, process):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_feed, stream, process, process.stdin, nursery.cancel_scope)
                async with trio.open_nursery() as outputs:
                    outputs.start_soon(_tell, stream, STDOUT, process.stdout)
                    outputs.start_soon(_tell, stream, STDERR, process.stderr)
                await _tell_exit(stream, process)
                nursery.cancel_scope.cancel()


async def _on_terminal(root: Root, stream: AdbStream, text: str, term: str) -> None:
    ours, theirs = os.openpty()
    async with trio.lowlevel.FdStream(ours) as terminal:
        try:
            process = await root.start(
                _command(text, terminal=True), stdin=theirs, stdout=theirs, stderr=theirs, env={"TERM": term}
            )
        finally:
            os.close(theirs)
        with _hanging_up(root, process):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_feed, stream, process, terminal, nursery.cancel_scope)
                with contextlib.suppress(trio.BrokenResourceError):  # so a terminal tells that its last program ended
                    await _tell(stream, STDOUT, terminal)
                await _tell_exit(stream, process)
                nursery.cancel_scope.cancel()


async def _tell(stream: AdbStream, kind: int, output: trio.abc.ReceiveStream) -> None:
    while chunk := await output.receive_some(CHUNK):
        await stream.send_all(HEAD.pack(kind, len(chunk)) + chunk)


async def _tell_exit(stream: AdbStream, process: trio.Process) -> None:
    code = await process.wait()
    await stream.send_all(HEAD.pack(EXIT, 1) + bytes([code if code >= 0 else 0x80 | -code]))
    await stream.drained()


async def _feed(stream: AdbStream, process: trio.Process, stdin: trio.abc.SendStream, scope: trio.CancelScope) -> None:
    """Hand the host's input to a program until the host has closed."""
    reader = Reader(stream)
    with contextlib.suppress(EOFError):
        while True:
            kind, size = HEAD.unpack(await reader.exactly(HEAD.size))
            content = await reader.exactly(size)
            if kind == STDIN:
                with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await stdin.send_all(content)  # what comes for a closed input is thrown away
            elif kind == CLOSE_STDIN and process.stdin is not None:
                await process.stdin.aclose()
            elif kind == WINDOW_SIZE and isinstance(stdin, trio.lowlevel.FdStream):
                _resize(stdin.fileno(), content)
    scope.cancel()


def _resize(terminal: int, content: bytes) -> None:
    """Take a window's size, as ROWSxCOLUMNS,WIDTHxHEIGHT."""
    told = re.match(rb"(\d{1,4})x(\d{1,4}),(\d{1,4})x(\d{1,4})", content)
    if told:
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", *(int(each) for each in told.groups())))
