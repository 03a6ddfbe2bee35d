"""The workload ``pipeline``: does the steps of a run, one after the other, so that it can be interrupted anywhere."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import ClassVar

import msgspec
import trio

from anvild.core.clock import utcnow
from anvild.sdk import Logs, Outcome, RunContext, RunFailed, Severity, Verdict, Workload

from .app_steps import record_again, stop_recording
from .pipelines import FindingStep, Frozen, LogsStep, Step
from .pipelines.rules import RUN
from .pipelines.text import MissingValue
from .progress import Begun, Progress, Record, Result
from .report import write_report
from .steps import execute
from .work import JUDGED, MissingInput, StepFailed, Work

__all__ = ["KIND", "PipelineWorkload"]

KIND = "pipeline"
LONGEST_REASON = 300
LONGEST_TITLE = 200


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
        self._steps: list[Step] = []
        self._sections: list[str] = []
        for section, steps in work.frozen.pipeline.sections():
            self._steps += steps
            self._sections += [section] * len(steps)
        self._marked = {step.since for step in self._steps if isinstance(step, LogsStep)}

    async def run(self) -> Outcome:
        await self._begin()
        for index in range(len(self._progress.records), len(self._steps)):
            reason = self._left_out(index)
            if reason is not None:
                await self._skipped(index, reason)
            else:
                await self._step(index, self._steps[index])
        await self._end()
        told = self._told()
        done = [pair for pair in zip(self._steps, self._progress.records, strict=True) if pair[0] in told]
        passed = sum(record.result == "passed" for _, record in done)
        failed = self._progress.failed
        await write_report(self._work, done, failed or f"{passed} of {len(done)} steps passed")
        if failed is not None:
            raise RunFailed("expectation_failed", failed)
        return Outcome(verdict=Verdict.PASSED, reason=f"{passed} of {len(done)} steps passed")

    def _told(self) -> list[Step]:
        """The steps that people read of: those for a failure only when something has failed."""
        failed = self._progress.failed is not None
        return [
            step for step, section in zip(self._steps, self._sections, strict=True) if failed or section != "on_failure"
        ]

    async def _begin(self) -> None:
        """Note when and where in the device's log the run begins. A recording that was going on goes on."""
        if self._progress.started is None:
            self._progress.started = utcnow()
            await self._mark(RUN)
        elif self._progress.recording is not None and len(self._progress.records) < len(self._steps):
            await record_again(self._work)

    async def _end(self) -> None:
        """Keep a recording that no step has ended. What becomes of it is no verdict on the thing under test."""
        try:
            await stop_recording(self._work)
        except JUDGED as error:
            await self._context.log(f"the recording could not be kept: {error.message}")

    async def _mark(self, name: str) -> None:
        if name in self._marked:
            self._progress.marks[name] = await self._work.session.require(Logs).log_mark()

    def _left_out(self, index: int) -> str | None:
        """Say why a step is not to be done."""
        section, failed = self._sections[index], self._progress.failed is not None
        if section == "steps" and failed:
            return "a required step before it failed"
        if section == "on_failure" and not failed:
            return "nothing has failed"
        return None

    async def _step(self, index: int, step: Step) -> None:
        begun = self._progress.begun
        resumed = begun is not None and begun.index == index
        if begun is None or not resumed:
            await self._context.pause_point()
            run = self._context.run
            await self._mark(step.name)
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
        except MissingInput as error:
            await self._done(step, "skipped", f"it needs the input {error.name!r}, which was not given", 0.0)
        except StepFailed as error:
            await self._failed(step, error, trio.current_time() - started)
        except JUDGED as error:
            await self._failed(step, StepFailed(error.message), trio.current_time() - started)
        else:
            await self._done(step, "passed", reason, trio.current_time() - started)

    async def _failed(self, step: Step, failure: StepFailed, seconds: float) -> None:
        title = None if failure.told else self._title(step, failure.reason)
        if title is not None:
            text = failure.reason if failure.detail is None else f"{failure.reason}\n\n{failure.detail}"
            severity = _graver(step.severity, failure.severity)
            await self._context.finding(severity, title=title, category=step.category, detail=text)
        if step.required and self._progress.failed is None:
            self._progress.failed = f"step {step.name!r}: {failure.reason}"[:LONGEST_REASON]
        await self._done(step, "failed", failure.reason, seconds, finding=title)

    def _title(self, step: Step, reason: str) -> str:
        title = f"{step.name}: {reason}"
        if step.title is not None and not isinstance(step, FindingStep):
            try:
                title = self._work.fill(step.title)
            except MissingValue:
                title = step.title
        return title[:LONGEST_TITLE]

    async def _skipped(self, index: int, reason: str) -> None:
        """Note a step that is left out. That nothing has failed is no news, and is saved with what comes next."""
        step = self._steps[index]
        if self._sections[index] == "on_failure":
            self._progress.records.append(Record(step=step.name, result="skipped", reason=reason))
        else:
            await self._done(step, "skipped", reason, 0.0)

    async def _done(self, step: Step, result: Result, reason: str, seconds: float, finding: str | None = None) -> None:
        record = Record(
            step=step.name, result=result, reason=reason[:LONGEST_REASON], finding=finding, seconds=round(seconds, 3)
        )
        self._progress.records.append(record)
        self._progress.begun = None
        told = {**self._event(step, result), "reason": record.reason, "seconds": record.seconds}
        done = len(self._progress.records)
        last = all(self._left_out(index) for index in range(done, len(self._steps)))
        await self._work.save("step", told, phase="report" if last else None)

    def _event(self, step: Step, state: str) -> dict[str, str | int | float]:
        told = self._told()
        number = next(place for place, other in enumerate(told, start=1) if other is step)
        verb = str(step.__struct_config__.tag)
        return {"step": step.name, "verb": verb, "state": state, "number": number, "of": len(told)}


def _graver(one: Severity, other: Severity | None) -> Severity:
    return one if other is None else min(one, other, key=list(Severity).index)
