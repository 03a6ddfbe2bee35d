"""What the executor of a step works with, and how it says that the step failed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import msgspec
import trio

from anvild.sdk import (
    AlreadyExists,
    AnvilError,
    CapabilityMissing,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    RunContext,
    Session,
    Severity,
    WrongState,
)

from .pipelines import Frozen, Given
from .pipelines.text import fill
from .progress import Progress

__all__ = ["JUDGED", "MissingInput", "StepFailed", "Work", "file_name", "pieces"]

CHUNK = 64 * 1024
LARGEST = 64 * 2**20
LONGEST_NAME = 180

JUDGED: tuple[type[AnvilError], ...] = (
    AlreadyExists,
    CapabilityMissing,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    WrongState,
)
"""The errors of a verb that say something of the thing under test; all others say something of the device."""


class StepFailed(Exception):
    """The step did not do what was expected: ``reason`` is one sentence, ``detail`` more for a person.

    ``severity`` stands in for the step's own; ``told`` says that findings tell of it already.
    """

    def __init__(
        self, reason: str, detail: str | None = None, *, severity: Severity | None = None, told: bool = False
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail
        self.severity = severity
        self.told = told


class MissingInput(LookupError):
    """The step needs an input that the run did not bring."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Work:
    """One attempt of a run: its context, its frozen pipeline and how far it has come."""

    def __init__(self, context: RunContext, frozen: Frozen, progress: Progress) -> None:
        self.context = context
        self.frozen = frozen
        self.progress = progress

    @property
    def session(self) -> Session:
        return self.context.session

    @property
    def values(self) -> Mapping[str, str]:
        """Every value that a text may name now."""
        run = self.context.run
        builtins = {"pipeline": self.frozen.pipeline.name, "run_id": run.run_id, "attempt": str(run.attempt)}
        return {**self.frozen.parameters, **self.progress.values, **builtins}

    def fill(self, text: str) -> str:
        """Return ``text`` with the values of this run. Raises MissingValue."""
        return fill(text, self.values)

    def environment(self, own: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of an exec step: the pipeline's, the run's, the step's ``own``."""
        given = {**self.frozen.pipeline.env, **self.frozen.env, **own}
        return {name: self.fill(value) for name, value in given.items()}

    @asynccontextmanager
    async def input(self, name: str) -> AsyncIterator[tuple[Given, AsyncIterator[bytes]]]:
        """Open a file that the run has brought. Raises MissingInput, and StepFailed for one that is gone."""
        given = self.frozen.inputs.get(name)
        if given is None:
            raise MissingInput(name)
        async with AsyncExitStack() as held:
            try:
                content = await held.enter_async_context(self.context.open_artifact(given.artifact))
            except NotFound:
                raise StepFailed(f"the input {name!r} is not kept any more: upload {given.name} again") from None
            yield given, content

    async def keep(
        self, name: str, stream: trio.abc.ReceiveStream, *, media_type: str, largest: int | None = None
    ) -> int:
        """Store what a device sends as an artifact of the run, and return its size; a log ends at ``largest``."""
        counted = _Counted(stream, largest)
        async with stream, aclosing(counted.pieces()) as content:
            await self.context.artifact(name, content, media_type=media_type)
        return counted.size

    async def save(
        self, kind: str | None = None, data: Mapping[str, Any] | None = None, *, phase: str | None = None
    ) -> None:
        """Save the progress; in the same transaction append an event, and enter a phase, where they are given."""
        await self.context.checkpoint(msgspec.to_builtins(self.progress), kind=kind, data=data, phase=phase)


class _Counted:
    def __init__(self, stream: trio.abc.ReceiveStream, largest: int | None) -> None:
        self._stream = stream
        self._largest = largest
        self.size = 0

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        async with aclosing(pieces(self._stream)) as content:
            async for data in content:
                left = len(data) if self._largest is None else self._largest - self.size
                self.size += min(len(data), left)
                yield data[:left]
                if len(data) > left:
                    yield b"\n[the log ends here: it has reached its largest size]\n"
                    return


async def pieces(stream: trio.abc.ReceiveStream) -> AsyncGenerator[bytes, None]:
    """Yield what a stream brings, to its end."""
    while data := await stream.receive_some(CHUNK):
        yield bytes(data)


def file_name(path: str) -> str:
    """Return the last part of a path of a device as the name of an artifact."""
    return "".join(c if c.isprintable() else "_" for c in path.rpartition("/")[2])[:LONGEST_NAME]
