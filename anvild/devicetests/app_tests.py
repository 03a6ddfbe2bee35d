"""The ``test`` step: the tests of an app, told case by case, judged at their end.

Tests that had not ended when the daemon went away begin again, because nothing can be known of what was missed. Once
they have ended, their results are an artifact, so that findings are made of one and the same results whatever happens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec
import trio

from anvild.sdk import (
    AnvilError,
    AppTests,
    Attachment,
    Attachments,
    Severity,
    TestCase,
    TestProgress,
    TestRequest,
    TestStatus,
    TestSummary,
)

from .pipelines import Test, TestExpectation
from .progress import Begun
from .work import JUDGED, LARGEST, StepFailed, Work, file_name

__all__ = ["Results", "name_of", "read_results", "run_app_tests", "words"]

MOST_CASES = 100_000
MOST_EVENTS = 1000
MOST_FINDINGS = 50
MOST_ATTACHMENTS = 200
LONGEST_TRACE = 16 * 1024
LONGEST_MESSAGE = 1000
LONGEST_DETAIL = 4000
LONGEST_TITLE = 200
ALL_TRACES = 16 * 2**20
BAD = (TestStatus.FAILED, TestStatus.ERROR)
SEVERITIES = {TestStatus.FAILED: Severity.HIGH, TestStatus.ERROR: Severity.CRITICAL}


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """How the tests of a step went. ``complete`` is False when the runner did not reach its end; ``reason`` is its
    own sentence."""

    __test__ = False

    complete: bool
    reason: str
    seconds: float
    cases: list[TestCase]


async def run_app_tests(work: Work, step: Test, begun: Begun, *, resumed: bool) -> str:
    """Run the step and return how many tests there were. Raises StepFailed, and what the device raises."""
    if begun.results is None:
        if resumed:
            await work.context.log(f"the tests of step {step.name!r} begin again: the daemon was away")
        results = await _Tests(work, step).run()
        await _store(work, step, begun, results)
    else:
        results = await read_results(work, begun.results)
    await _findings(work, results.cases)
    _judge(step.expect, results)
    return words(results.cases)


async def read_results(work: Work, artifact: str) -> Results:
    """Read results back that were stored by an earlier step."""
    async with work.context.open_artifact(artifact) as content:
        data = b"".join([piece async for piece in content])
    return msgspec.json.decode(data, type=Results)


async def _store(work: Work, step: Test, begun: Begun, results: Results) -> None:
    async def content() -> AsyncGenerator[bytes, None]:
        yield msgspec.json.encode(results)

    async with aclosing(content()) as source:
        name = f"{step.name}-tests.json"
        begun.results = await work.context.artifact(name, source, media_type="application/json")
    work.progress.tests[step.name] = begun.results
    await work.save()


def words(cases: Sequence[TestCase]) -> str:
    """Count tests in words: ``12 tests: 10 passed, 2 failed``."""
    counts = Counter(case.status for case in cases)
    told = ", ".join(f"{counts[status]} {_WORDS[status]}" for status in TestStatus if counts[status])
    return f"{len(cases)} {'test' if len(cases) == 1 else 'tests'}" + (f": {told}" if told else "")


_WORDS = {
    TestStatus.PASSED: "passed",
    TestStatus.FAILED: "failed",
    TestStatus.ERROR: "broken",
    TestStatus.SKIPPED: "skipped",
}


def _judge(expect: TestExpectation, results: Results) -> None:
    ran = sum(case.status is not TestStatus.SKIPPED for case in results.cases)
    bad = sum(case.status in BAD for case in results.cases)
    counted = words(results.cases)
    if not results.complete:
        raise StepFailed(results.reason, counted, severity=Severity.CRITICAL)
    if ran < expect.min_tests:
        raise StepFailed(f"{ran} tests ran, at least {expect.min_tests} expected", results.reason)
    if expect.max_tests is not None and ran > expect.max_tests:
        raise StepFailed(f"{ran} tests ran, at most {expect.max_tests} expected", results.reason)
    if bad > expect.allow_failures:
        raise StepFailed(counted, told=True)


async def _findings(work: Work, cases: Sequence[TestCase]) -> None:
    """Record a finding for each test that failed, up to a number, one for the rest, and one for what was skipped."""
    bad = sorted((case for case in cases if case.status in BAD), key=lambda case: case.status is TestStatus.FAILED)
    for case in bad[:MOST_FINDINGS]:
        title = f"{name_of(case)}: {case.message or 'it failed'}"[:LONGEST_TITLE]
        detail = (case.trace or case.message or "")[:LONGEST_DETAIL]
        await work.context.finding(SEVERITIES[case.status], title=title, category="test", detail=detail or None)
    if rest := bad[MOST_FINDINGS:]:
        detail = "\n".join(map(name_of, rest))[:LONGEST_DETAIL]
        severity = SEVERITIES[rest[0].status]
        await work.context.finding(severity, title=f"{len(rest)} more tests failed", category="test", detail=detail)
    if skipped := [case for case in cases if case.status is TestStatus.SKIPPED]:
        told = "\n".join(f"{name_of(case)}: {case.message}" if case.message else name_of(case) for case in skipped)
        title = "a test was skipped" if len(skipped) == 1 else f"{len(skipped)} tests were skipped"
        await work.context.finding(Severity.INFO, title=title, category="test", detail=told[:LONGEST_DETAIL])


def name_of(case: TestCase) -> str:
    """Return the name of a test as ``SUITE#TEST``."""
    return f"{case.suite}#{case.name}" if case.suite else case.name


class _Tests:
    """One go of the runner: takes what it tells, and keeps its raw output and the attachments of tests."""

    def __init__(self, work: Work, step: Test) -> None:
        self._work = work
        self._step = step
        self._cases: list[TestCase] = []
        self._dropped = 0
        self._traces = 0
        self._total: int | None = None
        self._running: str | None = None
        self._attachments: list[Attachment] = []
        self._output, self._written = trio.open_memory_channel[str](16)
        self._log_error: Exception | None = None

    async def run(self) -> Results:
        """Run the tests to their end or to the step's timeout."""
        request = self._request()
        runner = self._work.session.require(AppTests)
        began = trio.current_time()
        failure: AnvilError | None = None
        summary: TestSummary | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_output, nursery.cancel_scope)
            async with self._output:
                try:
                    with trio.move_on_after(self._step.timeout):
                        summary = await runner.run_tests(request, self._take)
                except AnvilError as error:
                    failure = error  # it leaves the nursery as itself, and after the output is kept
        if self._log_error is not None:
            raise self._log_error
        if failure is not None:
            raise failure
        if summary is None:
            summary = self._late()
        await self._keep_attachments()
        if self._dropped:
            await self._work.context.log(f"{self._dropped} more tests ended than the {MOST_CASES} that are kept")
        return Results(
            complete=summary.complete,
            reason=summary.reason,
            seconds=round(trio.current_time() - began, 3),
            cases=self._cases,
        )

    def _request(self) -> TestRequest:
        step, fill = self._step, self._work.fill
        return TestRequest(
            target=fill(step.target),
            app=None if step.app is None else fill(step.app),
            only=tuple(map(fill, step.only)),
            skip=tuple(map(fill, step.skip)),
            arguments={name: fill(value) for name, value in step.arguments.items()},
            env={name: fill(value) for name, value in step.env.items()},
        )

    def _late(self) -> TestSummary:
        reason = f"the tests did not end within {self._step.timeout:g} s and have been ended"
        if self._running is not None:
            suite, _, name = self._running.rpartition("#")
            self._cases.append(TestCase(suite=suite, name=name, status=TestStatus.ERROR, message=reason))
        return TestSummary(complete=False, reason=reason, cases=len(self._cases))

    async def _take(self, progress: TestProgress) -> None:
        if progress.output is not None:
            await self._output.send(progress.output)
        if progress.total is not None:
            self._total = progress.total
        if progress.begun is not None:
            self._running = progress.begun
        if progress.attachment is not None and len(self._attachments) < MOST_ATTACHMENTS:
            self._attachments.append(progress.attachment)
        if progress.ended is not None:
            self._running = None
            await self._ended(progress.ended)

    async def _ended(self, case: TestCase) -> None:
        if len(self._cases) >= MOST_CASES:
            self._dropped += 1
            return
        room = min(LONGEST_TRACE, ALL_TRACES - self._traces)
        trace = None if case.trace is None else case.trace[:room]
        self._traces += len(trace or "")
        message = None if case.message is None else case.message[:LONGEST_MESSAGE]
        self._cases.append(msgspec.structs.replace(case, trace=trace, message=message))
        number = len(self._cases)
        if number <= MOST_EVENTS:
            told = {"step": self._step.name, "test": name_of(case), "status": case.status.value, "number": number}
            told |= {"seconds": round(case.seconds, 3)} | ({} if self._total is None else {"of": self._total})
            await self._work.context.emit("test", told | ({} if message is None else {"message": message}))
        elif number == MOST_EVENTS + 1:
            await self._work.context.log(f"the other tests of step {self._step.name!r} are in its results alone")

    async def _keep_output(self, scope: trio.CancelScope) -> None:
        """Store the raw output of the runner while it comes. A runner without output leaves no log."""
        async with self._written:
            first = await anext(aiter(self._written), None)
            if first is None:
                return
            try:
                async with aclosing(self._log(first)) as log:
                    name, media_type = f"{self._step.name}.log", "text/plain; charset=utf-8"
                    await self._work.context.artifact(name, log, media_type=media_type)
            except Exception as error:
                self._log_error = error  # it leaves the nursery as itself
                scope.cancel()

    async def _log(self, first: str) -> AsyncGenerator[bytes, None]:
        size = len(data := first.encode(errors="replace"))
        yield data
        async for text in self._written:
            data = text.encode(errors="replace")
            if size < LARGEST <= size + len(data):
                yield data[: LARGEST - size] + b"\n[the log ends here: it has reached its largest size]\n"
            elif size < LARGEST:
                yield data
            size += len(data)

    async def _keep_attachments(self) -> None:
        """Keep what the tests attached. One that cannot be fetched is no verdict on the thing under test."""
        work, names = self._work, set[str]()
        if not self._attachments or not isinstance(work.session, Attachments):
            return
        for attachment in self._attachments:
            own = file_name(attachment.name)
            name = f"{self._step.name}-{own}"
            if name in names:
                name = f"{self._step.name}-{len(names) + 1}-{own}"
            try:
                stream = await work.session.fetch(attachment.reference)
            except JUDGED as error:
                await work.context.log(f"the attachment {own} could not be fetched: {error.message}")
                continue
            await work.keep(name, stream, media_type=attachment.media_type)
            names.add(name)
