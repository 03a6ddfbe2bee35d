"""The workload ``pipeline``: does the steps of a run, one after the other, so that it can be interrupted anywhere."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import ClassVar

import msgspec
import trio

from anvild.sdk import (
    AlreadyExists,
    AnvilError,
    CapabilityMissing,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    Outcome,
    PermissionDenied,
    ResourceExhausted,
    RunContext,
    RunFailed,
    Verdict,
    Workload,
    WrongState,
)

from .pipelines import FindingStep, Frozen, Step
from .pipelines.text import MissingValue
from .progress import Begun, Progress, Record, Result
from .report import write_report
from .steps import execute
from .work import StepFailed, Work

__all__ = ["KIND", "PipelineWorkload"]

KIND = "pipeline"
LONGEST_REASON = 300
LONGEST_TITLE = 200

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


class PipelineWorkload(Workload):
    """Executes pipelines. An attempt goes on after a pause or a restart of the daemon where it was."""

    kind: ClassVar[str] = KIND
    pausable: ClassVar[bool] = True
    adoptable: ClassVar[bool] = True

    async def run(self, context: RunContext) -> Outcome:
        """Do the steps that are not done yet. Raises RunFailed when a required step failed."""
        frozen = msgspec.convert(context.run.spec, Frozen)
        saved = context.run.checkpoint
        progress = Progress() if saved is None else msgspec.convert(saved, Progress)
        return await _Attempt(Work(context, frozen, progress)).run()


class _Attempt:
    """Walks through the steps; its place is the number of records."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._context = work.context
        self._progress = work.progress
        pipeline = work.frozen.pipeline
        self._steps: tuple[Step, ...] = (*pipeline.steps, *pipeline.always)
        self._always = len(pipeline.steps)

    async def run(self) -> Outcome:
        for index in range(len(self._progress.records), len(self._steps)):
            step = self._steps[index]
            if self._progress.failed is not None and index < self._always:
                await self._done(step, "skipped", "a required step before it failed", 0.0)
            else:
                await self._step(index, step)
        await write_report(self._work, self._steps)
        if self._progress.failed is not None:
            raise RunFailed("expectation_failed", self._progress.failed)
        passed = sum(record.result == "passed" for record in self._progress.records)
        return Outcome(verdict=Verdict.PASSED, reason=f"{passed} of {len(self._steps)} steps passed")

    async def _step(self, index: int, step: Step) -> None:
        begun = self._progress.begun
        resumed = begun is not None and begun.index == index
        if begun is None or not resumed:
            await self._context.pause_point()
            run = self._context.run
            begun = self._progress.begun = Begun(index=index, tag=f"{run.run_id}.{run.attempt}.{index + 1}")
            await self._work.save("step", self._event(step, "begun"), phase=step.name)
        async with AsyncExitStack() as holding:
            await self._do(step, begun, holding, resumed=resumed)

    async def _do(self, step: Step, begun: Begun, holding: AsyncExitStack, *, resumed: bool) -> None:
        started = trio.current_time()
        try:
            reason = await execute(self._work, step, begun, holding, resumed=resumed)
        except MissingValue as error:
            await self._done(step, "skipped", f"it needs {error.name!r}, which no step has captured", 0.0)
        except StepFailed as error:
            await self._failed(step, error.reason, error.detail, trio.current_time() - started)
        except JUDGED as error:
            await self._failed(step, error.message, None, trio.current_time() - started)
        else:
            await self._done(step, "passed", reason, trio.current_time() - started)

    async def _failed(self, step: Step, reason: str, detail: str | None, seconds: float) -> None:
        title = f"{step.name}: {reason}"
        if step.title is not None and not isinstance(step, FindingStep):
            try:
                title = self._work.fill(step.title)
            except MissingValue:
                title = step.title
        title = title[:LONGEST_TITLE]
        text = reason if detail is None else f"{reason}\n\n{detail}"
        await self._context.finding(step.severity, title=title, category=step.category, detail=text)
        if step.required and self._progress.failed is None:
            self._progress.failed = f"step {step.name!r}: {reason}"[:LONGEST_REASON]
        await self._done(step, "failed", reason, seconds, finding=title)

    async def _done(self, step: Step, result: Result, reason: str, seconds: float, finding: str | None = None) -> None:
        record = Record(
            step=step.name, result=result, reason=reason[:LONGEST_REASON], finding=finding, seconds=round(seconds, 3)
        )
        self._progress.records.append(record)
        self._progress.begun = None
        told = {**self._event(step, result), "reason": record.reason, "seconds": record.seconds}
        last = len(self._progress.records) == len(self._steps)
        await self._work.save("step", told, phase="report" if last else None)

    def _event(self, step: Step, state: str) -> dict[str, str | int | float]:
        verb = step.__struct_config__.tag
        number = next(place for place, other in enumerate(self._steps, start=1) if other is step)
        return {"step": step.name, "verb": str(verb), "state": state, "number": number, "of": len(self._steps)}
