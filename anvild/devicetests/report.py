"""The report of a run: ``report.json`` for programs, ``report.html``, one file without any other, for people, and
``junit.xml`` for CI systems."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from html import escape

import msgspec
import trio

from anvild.sdk import TestCase, TestStatus

from .app_tests import Results, name_of, read_results
from .junit import Suite, junit, suites_of
from .pipelines import Step
from .progress import Record, Result
from .work import Work

__all__ = ["Report", "ReportedStep", "html", "write_report"]

MOST_TESTS = 100

STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 3rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; } h1 span { font-weight: 400; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.5rem; margin: 1.5rem 0; }
dt { opacity: .65; } dd { margin: 0; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; margin-bottom: 2rem; }
th, td { text-align: left; vertical-align: top; padding: .4rem .8rem .4rem 0; border-top: 1px solid #8884; }
td:nth-child(5), th:nth-child(5) { text-align: right; } td { overflow-wrap: anywhere; }
.passed { color: #197a3b; } .failed { color: #c22f2f; } .skipped { opacity: .6; }
@media (prefers-color-scheme: dark) { .passed { color: #5fce86; } .failed { color: #ff8080; } }
"""


class ReportedStep(msgspec.Struct, frozen=True, kw_only=True):
    """One step of the report; ``seconds`` is how long it took."""

    step: str
    verb: str
    result: Result
    reason: str
    seconds: float
    required: bool
    severity: str
    finding: str | None


class FailedTest(msgspec.Struct, frozen=True, kw_only=True):
    """A test that failed, of the step that ran it."""

    step: str
    test: str
    status: str
    message: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The report of one attempt of a run. ``failed_tests`` are the first ones."""

    run: str
    attempt: int
    pipeline: str
    description: str
    verdict: str
    reason: str
    device: str
    platform: str
    parameters: dict[str, str]
    values: dict[str, str]
    steps: list[ReportedStep]
    failed_tests: list[FailedTest]


async def write_report(work: Work, done: Sequence[tuple[Step, Record]], reason: str) -> None:
    """Store all forms as artifacts of the run, which ended with ``reason``. Done again, they replace the first ones."""
    tests = [
        (step.name, await read_results(work, work.progress.tests[step.name])) for step, _ in done if _tested(work, step)
    ]
    report = _report(work, done, tests, reason)
    data = msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"
    results = junit(
        report.pipeline,
        [suite for step, result in tests for suite in suites_of(step, result.cases)] + _own_suite(work, done),
        at=work.progress.started,
        device=report.device,
        properties={"run": report.run, "platform": report.platform, **report.parameters},
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_store, work, "report.json", data, "application/json")
        nursery.start_soon(_store, work, "report.html", html(report).encode(), "text/html; charset=utf-8")
        nursery.start_soon(_store, work, "junit.xml", results, "application/xml")


def _tested(work: Work, step: Step) -> bool:
    return step.name in work.progress.tests


def _own_suite(work: Work, done: Sequence[tuple[Step, Record]]) -> list[Suite]:
    """Return the steps as a suite, without those whose tests have told all there is to tell."""
    name = work.frozen.pipeline.name
    cases = [
        _as_case(name, step, record)
        for step, record in done
        if not _tested(work, step) or (record.result == "failed" and record.finding is not None)
    ]
    return [Suite(name=name, cases=cases)] if cases else []


def _as_case(pipeline: str, step: Step, record: Record) -> TestCase:
    """Return a step as a result; only a required one fails."""
    status = TestStatus(record.result)
    if status is TestStatus.FAILED and not step.required:
        status = TestStatus.SKIPPED
    message = None if status is TestStatus.PASSED else record.reason
    return TestCase(suite=pipeline, name=step.name, status=status, seconds=record.seconds, message=message)


def _report(
    work: Work, done: Sequence[tuple[Step, Record]], tests: Sequence[tuple[str, Results]], reason: str
) -> Report:
    run, pipeline, progress = work.context.run, work.frozen.pipeline, work.progress
    failed = [
        FailedTest(step=step, test=name_of(case), status=case.status.value, message=case.message or "")
        for step, results in tests
        for case in results.cases
        if case.status in (TestStatus.FAILED, TestStatus.ERROR)
    ]
    return Report(
        run=run.run_id,
        attempt=run.attempt,
        pipeline=pipeline.name,
        description=pipeline.description,
        verdict="passed" if progress.failed is None else "failed",
        reason=reason,
        device=work.session.device.name,
        platform=work.session.device.platform,
        parameters=work.frozen.parameters,
        values=progress.values,
        steps=[
            ReportedStep(
                step=step.name,
                verb=str(step.__struct_config__.tag),
                result=record.result,
                reason=record.reason,
                seconds=record.seconds,
                required=step.required,
                severity=step.severity.value,
                finding=record.finding,
            )
            for step, record in done
        ],
        failed_tests=failed[:MOST_TESTS],
    )


async def _store(work: Work, name: str, data: bytes, media_type: str) -> None:
    async def content() -> AsyncGenerator[bytes, None]:
        yield data

    async with aclosing(content()) as source:
        await work.context.artifact(name, source, media_type=media_type)


def html(report: Report) -> str:
    """Return the report as one HTML document."""
    facts = {
        "Run": f"{report.run}, attempt {report.attempt}",
        "Device": f"{report.device} ({report.platform})",
        "Result": report.reason,
        **report.parameters,
        **report.values,
    }
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    rows = "".join(
        f'<tr><td>{escape(step.step)}</td><td>{escape(step.verb)}</td><td class="{step.result}">{step.result}</td>'
        f"<td>{escape(step.finding or step.reason)}</td><td>{step.seconds:.2f} s</td></tr>"
        for step in report.steps
    )
    tests = "".join(
        f'<tr><td>{escape(test.test)}</td><td>{escape(test.step)}</td><td class="failed">{test.status}</td>'
        f"<td>{escape(test.message)}</td></tr>"
        for test in report.failed_tests
    )
    if tests:
        head = "<thead><tr><th>Failed test</th><th>Step</th><th>Result</th><th></th></tr></thead>"
        tests = f"<table>{head}<tbody>{tests}</tbody></table>"
    title = f"{escape(report.pipeline)}: {report.verdict}"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{title}</title><style>{STYLE}</style></head>"
        f'<body><h1>{escape(report.pipeline)} <span class="{report.verdict}">{report.verdict}</span></h1>'
        f"<p>{escape(report.description)}</p><dl>{listed}</dl>"
        "<table><thead><tr><th>Step</th><th>Verb</th><th>Result</th><th></th><th>Time</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>{tests}</body></html>\n"
    )
