"""What the executor of a step works with, and how it says that the step failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from anvild.sdk import RunContext, Session

from .pipelines import Frozen
from .pipelines.text import fill
from .progress import Progress

__all__ = ["StepFailed", "Work"]


class StepFailed(Exception):
    """The step did not do what was expected: ``reason`` is one sentence, ``detail`` more for a person."""

    def __init__(self, reason: str, detail: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


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

    async def save(
        self, kind: str | None = None, data: Mapping[str, Any] | None = None, *, phase: str | None = None
    ) -> None:
        """Save the progress; in the same transaction append an event, and enter a phase, where they are given."""
        await self.context.checkpoint(msgspec.to_builtins(self.progress), kind=kind, data=data, phase=phase)
