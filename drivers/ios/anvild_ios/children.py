"""Child processes: the programs that speak Apple's developer protocols. Started by argument list, in a group of their
own, and ended with all that they started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

import msgspec
import trio

from anvild.sdk import Unavailable

__all__ = ["Ended", "only_exception", "run_child", "running"]

GRACE_SECONDS = 0.25
KEPT_ERRORS = 64 * 1024
MAX_LINE = 2**20


class Ended(msgspec.Struct, frozen=True):
    """How a child ended, and what it said last on standard error."""

    status: int
    errors: str

    @property
    def reason(self) -> str:
        """The child's own sentence about what went wrong."""
        for line in reversed(self.errors.splitlines()):
            if sentence := _sentence(line):
                return sentence
        return f"it ended with status {self.status} and said nothing"


@contextlib.asynccontextmanager
async def running(argv: Sequence[str], env: Mapping[str, str] | None = None) -> AsyncIterator[trio.Process]:
    """A child with its output in pipes, which is ended with its group when the block is left. Raises Unavailable."""
    try:
        process = await trio.lowlevel.open_process(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
    except OSError as error:
        raise Unavailable(f"{argv[0]} cannot be started: {error.strerror or error}") from error
    try:
        yield process
    finally:
        with trio.CancelScope(shield=True):
            await _end_group(process)
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    await stream.aclose()


async def run_child(
    argv: Sequence[str],
    env: Mapping[str, str] | None = None,
    *,
    line: Callable[[str], Awaitable[None]] | None = None,
) -> Ended:
    """Run a child to its end; ``line`` is awaited with each line of its standard output. Cancelling ends the child."""
    errors = bytearray()
    try:
        async with running(argv, env) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_collect, process.stderr, errors)
                await _read_lines(process.stdout, line or _ignore)
            status = await process.wait()
    except BaseExceptionGroup as group:  # the nursery's, around what the caller's own function raised
        if (own := only_exception(group)) is not None:
            raise own from None
        raise
    return Ended(status, errors.decode(errors="replace"))


async def _collect(stream: trio.abc.ReceiveStream, into: bytearray) -> None:
    async for chunk in stream:
        into += chunk
        del into[:-KEPT_ERRORS]


async def _read_lines(stream: trio.abc.ReceiveStream, line: Callable[[str], Awaitable[None]]) -> None:
    kept = b""
    async for chunk in stream:
        *whole, kept = (kept + chunk).split(b"\n")
        if len(kept) > MAX_LINE:
            whole, kept = [*whole, kept], b""
        for each in whole:
            await line(each.decode(errors="replace"))
    if kept:
        await line(kept.decode(errors="replace"))


async def _ignore(_line: str) -> None:
    await trio.lowlevel.checkpoint()


async def _end_group(process: trio.Process) -> None:
    """End a child's group: politely first, then for certain. The group may outlive the child itself."""
    for number, patience in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, float("inf"))):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        with trio.move_on_after(patience):
            await process.wait()
            if number == signal.SIGTERM and not _alive(process.pid):
                break
    await process.wait()


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _sentence(line: str) -> str | None:
    """Read one line of a log: JSON as go-ios writes it, or plain text. Warnings and chatter are no answer."""
    with contextlib.suppress(msgspec.DecodeError):
        said = msgspec.json.decode(line)
        if isinstance(said, dict):
            cause = said.get("err") or said.get("error")
            level = str(said.get("level", "")).lower()
            if level in ("error", "fatal") or (cause and not level.startswith("warn")):
                return ": ".join(str(each) for each in (said.get("msg"), cause) if each) or None
            return None
    return line.strip() or None


def only_exception(group: BaseException) -> Exception | None:
    """Return the one exception in a group; None when there are several, or a cancellation."""
    while isinstance(group, BaseExceptionGroup):
        if len(group.exceptions) != 1:
            return None
        group = group.exceptions[0]
    return group if isinstance(group, Exception) else None
