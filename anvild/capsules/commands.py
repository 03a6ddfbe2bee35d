"""Programs in capsules: run to their end, followed, left running, found, ended."""

from __future__ import annotations

import codecs
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Literal

import msgspec

from anvild.core.errors import InvalidRequest
from anvild.sdk import AnvilError, Command, Completed, Exec, Exit, NotFound, Process, ProcessInfo, Stream, run

__all__ = [
    "Told",
    "TooMuchOutput",
    "checked",
    "exit_code",
    "find",
    "first_error",
    "follow",
    "run_to_end",
    "start_tagged",
    "told_as",
]

OUTPUT_LIMIT = 16 * 2**20
LARGEST_PID = 2**31 - 1


class TooMuchOutput(AnvilError):
    """A program has written more than fits into an answer."""

    code = "agent_error"
    http = 502


def told_as(cmd: str, args: Sequence[str], envs: Mapping[str, str], cwd: str | None, tag: str | None = None) -> Command:
    """Return the command that a request tells of. Raises InvalidRequest."""
    return checked(Command(argv=(cmd, *args), env=dict(envs), cwd=cwd, tag=tag))


def checked(command: Command) -> Command:
    """Return a command whose parts are in order. Raises InvalidRequest."""
    try:
        return msgspec.convert(msgspec.to_builtins(command), Command)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"this command cannot be: {error}") from None


async def run_to_end(session: Exec, command: Command, timeout: float) -> Completed:
    """Run a program; it is ended after ``timeout`` seconds. Raises DeadlineExceeded, TooMuchOutput, as Exec.start."""
    done = await run(session, command, limit=OUTPUT_LIMIT, deadline=timeout)
    if done.truncated:
        raise TooMuchOutput(f"the program wrote more than {OUTPUT_LIMIT >> 20} MiB: stream it, or write to a file")
    return done


async def start_tagged(session: Exec, command: Command, prefix: str) -> tuple[int, str]:
    """Start a program that stays, and return its pid and its tag. Without a tag it gets one."""
    tag = command.tag or f"{prefix}-{secrets.token_hex(4)}"
    process = await session.start(msgspec.structs.replace(command, tag=tag))
    await process.aclose()
    return process.pid, tag


async def find(session: Exec, selector: str) -> ProcessInfo:
    """Return the process that a selector names: a number is a pid, anything else a tag. Raises NotFound."""
    number = int(selector) if selector.isascii() and selector.isdigit() and len(selector) < 12 else None
    for process in await session.processes():
        if process.pid == number or (number is None and process.tag == selector):
            return process
    raise NotFound(f"the capsule runs no process {selector!r}")


def first_error(group: BaseExceptionGroup[AnvilError]) -> AnvilError:
    """Return the first of the errors that a group of tasks has ended with."""
    error: AnvilError | BaseExceptionGroup[AnvilError] = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def exit_code(ended: Exit) -> int:
    """Return the exit code; one that a signal has ended has -1."""
    return -1 if ended.code is None else ended.code


class Told(msgspec.Struct, frozen=True):
    """A piece of output as text."""

    type: Literal["stdout", "stderr"]
    data: str


async def follow(process: Process) -> AsyncGenerator[Told, None]:
    """Iterate over a program's output as text; what is no UTF-8 is replaced. Letters are never cut in two."""
    decoders = {stream: codecs.getincrementaldecoder("utf-8")("replace") for stream in Stream}
    outputs = aiter(process)
    try:
        async for chunk in outputs:
            text = decoders[chunk.stream].decode(chunk.data)
            if text:
                yield Told(chunk.stream.value, text)
        for stream, decoder in decoders.items():
            if rest := decoder.decode(b"", final=True):
                yield Told(stream.value, rest)
    finally:
        if isinstance(outputs, AsyncGenerator):
            await outputs.aclose()
