"""The output of an XCTest run as results of tests.

Two things are read. The runner's own log tells of each test as it begins and ends. The list of results that go-ios
prints at the end fills in what the log did not tell: attachments, and all of it where a runner writes no log.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Awaitable, Callable

import msgspec

from anvild.sdk import TestCase, TestProgress, TestStatus

__all__ = ["ReportedAttachment", "XcTestReader"]

CASE = re.compile(r"^\s*Test Case '(?:-\[(?P<a>\S+) (?P<b>[^\]]+)\]|(?P<c>\S+)\.(?P<d>[^.']+))' (?P<rest>.*)$")
ENDED = re.compile(r"^(?P<how>passed|failed|skipped) \((?P<seconds>[\d.]+) seconds\)")
ISSUE = re.compile(r"^\s*(?P<where>\S.*?:\d+): error: -\[(?P<a>\S+) (?P<b>[^\]]+)\] : (?P<words>.*)$")
SHORT = re.compile(r"^\[case\]\s+(?P<what>start|finish|FAIL)\s+(?P<a>[^/\s]+)/(?P<b>\S+)(?P<rest>.*)$")
SHORT_END = re.compile(r"status=(?P<how>.+?) dur=(?P<seconds>[\d.]+)s")
CRASHED = re.compile(r"^(?:failed: caught|.*\bcrashed in\b|Crash:)", re.IGNORECASE)
RESULTS = '[{"Name":'
NANOSECONDS = 1e9
MAX_TRACE = 64 * 1024
STATUS = {
    "passed": TestStatus.PASSED,
    "expected failure": TestStatus.PASSED,
    "failed": TestStatus.FAILED,
    "skipped": TestStatus.SKIPPED,
    "stalled": TestStatus.ERROR,
}

Report = Callable[[TestProgress], Awaitable[None]]


class _Error(msgspec.Struct, rename="pascal"):
    message: str = ""
    file: str = ""
    line: int = 0


class ReportedAttachment(msgspec.Struct, rename="pascal"):
    """A file that a test has attached, where the tool has put it on this host."""

    name: str = ""
    path: str = ""
    uniform_type_identifier: str = ""


class _Case(msgspec.Struct, rename="pascal"):
    class_name: str
    method_name: str
    status: str = ""
    err: _Error = msgspec.field(default_factory=_Error)
    duration: int = 0
    attachments: list[ReportedAttachment] | None = None


class _Suite(msgspec.Struct, rename="pascal"):
    name: str
    test_cases: list[_Case] | None = None


class _Running:
    """The test that runs now."""

    def __init__(self, key: tuple[str, str]) -> None:
        self.key = key
        self.issues: list[str] = []
        self.text: list[str] = []


class XcTestReader:
    """Takes the output line by line and reports what it means.

    ``attached`` is awaited for each attachment that the final results name.
    """

    def __init__(self, report: Report, attached: Callable[[ReportedAttachment], Awaitable[None]]) -> None:
        self.told: set[tuple[str, str]] = set()
        self.concluded = False
        self._report = report
        self._attached = attached
        self._running: _Running | None = None

    async def line(self, text: str) -> None:
        """Read one line."""
        place = 0 if text == "[]" else text.find(RESULTS)
        if place >= 0 and (suites := _suites(text[place:])) is not None:
            await self._results(suites)
            return
        await self._report(TestProgress(output=text + "\n"))
        if self._running is not None:
            self._running.text.append(text)
        if found := CASE.match(text):
            await self._case(_key(found["a"] or found["c"], found["b"] or found["d"]), found["rest"])
        elif found := ISSUE.match(text):
            self._issue(f"{found['words']} ({found['where']})")
        elif found := SHORT.match(text):
            await self._short(_key(found["a"], found["b"]), found["what"], found["rest"].strip())
        elif text.strip().startswith(("Executed ", "[plan] finish")):
            self.concluded = True

    async def end(self) -> None:
        """The output has ended: a test that had not is the one that took the runner down."""
        if self._running is not None:
            self._running.issues.append("the runner ended before the test did")
            await self._ended(self._running.key, TestStatus.ERROR, 0.0)
            self.concluded = False

    async def _case(self, key: tuple[str, str], rest: str) -> None:
        if rest.startswith("started"):
            await self._begun(key)
        elif ended := ENDED.match(rest):
            await self._ended(key, STATUS[ended["how"]], float(ended["seconds"]))

    async def _short(self, key: tuple[str, str], what: str, rest: str) -> None:
        if what == "start":
            await self._begun(key)
        elif what == "FAIL":
            self._issue(rest)
        elif ended := SHORT_END.search(rest):
            await self._ended(key, STATUS.get(ended["how"], TestStatus.ERROR), float(ended["seconds"]))

    def _issue(self, words: str) -> None:
        if self._running is not None and words not in self._running.issues:
            self._running.issues.append(words)

    async def _begun(self, key: tuple[str, str]) -> None:
        if self._running is None or self._running.key != key:
            self._running = _Running(key)
            await self._report(TestProgress(begun=f"{key[0]}#{key[1]}"))

    async def _ended(self, key: tuple[str, str], status: TestStatus, seconds: float) -> None:
        if key in self.told and (self._running is None or self._running.key != key):
            return  # two sources tell of the same test
        running = self._running if self._running is not None and self._running.key == key else _Running(key)
        self._running = None
        failed = status in (TestStatus.FAILED, TestStatus.ERROR)
        message = running.issues[0] if running.issues else None
        if status is TestStatus.FAILED and message is not None and CRASHED.match(message):
            status = TestStatus.ERROR
        trace = "\n".join([*running.issues, *running.text])[-MAX_TRACE:] if failed else None
        await self._tell(key, status, seconds, message if failed else None, trace)

    async def _results(self, suites: list[_Suite]) -> None:
        self.concluded = self.concluded or bool(suites)
        for suite in suites:
            for case in suite.test_cases or ():
                key = _key(case.class_name, case.method_name)
                if key not in self.told:
                    await self._late(key, case)
                for each in case.attachments or ():
                    await self._attached(each)

    async def _late(self, key: tuple[str, str], case: _Case) -> None:
        await self._begun(key)
        if case.err.message:
            self._issue(f"{case.err.message} ({case.err.file}:{case.err.line})")
        await self._ended(key, STATUS.get(case.status, TestStatus.ERROR), case.duration / NANOSECONDS)

    async def _tell(
        self, key: tuple[str, str], status: TestStatus, seconds: float, message: str | None, trace: str | None
    ) -> None:
        self.told.add(key)
        line = None if message is None else message.splitlines()[0]
        case = TestCase(suite=key[0], name=key[1], status=status, seconds=seconds, message=line, trace=trace or None)
        await self._report(TestProgress(ended=case))


def _suites(text: str) -> list[_Suite] | None:
    with contextlib.suppress(msgspec.DecodeError):
        return msgspec.json.decode(text, type=list[_Suite])
    return None


def _key(suite: str, name: str) -> tuple[str, str]:
    """The log names a class with its module and the results do not; a method may come with its parentheses."""
    return suite.rpartition(".")[2], name.strip().removesuffix("()")
