"""The raw output of ``am instrument -r``, as test cases.

A test is two blocks of ``INSTRUMENTATION_STATUS`` lines, each closed by an ``INSTRUMENTATION_STATUS_CODE``: one when it
begins (1), one when it has ended (0, -1 … -4). A value goes on over lines that begin with no such word. At the end
comes an ``INSTRUMENTATION_CODE`` with its ``INSTRUMENTATION_RESULT`` lines, or a word of failure.
"""

from __future__ import annotations

from collections.abc import Callable

from anvild.sdk import TestCase, TestProgress, TestStatus, TestSummary

__all__ = ["InstrumentationParser"]

STATUS, STATUS_CODE = "INSTRUMENTATION_STATUS: ", "INSTRUMENTATION_STATUS_CODE: "
RESULT, CODE = "INSTRUMENTATION_RESULT: ", "INSTRUMENTATION_CODE: "
FAILED, ABORTED, ON_ERROR = "INSTRUMENTATION_FAILED: ", "INSTRUMENTATION_ABORTED: ", "onError: "

STARTED, OK = 1, 0
ENDED = {
    0: TestStatus.PASSED,
    -1: TestStatus.ERROR,
    -2: TestStatus.FAILED,
    -3: TestStatus.SKIPPED,
    -4: TestStatus.SKIPPED,
}
"""Codes of the end of a test. -3 is ignored, and -4 an assumption that did not hold."""
RESULT_OK = -1
VALUE_LIMIT = 2**20
LINE_LIMIT = 2**20
ASSERTIONS = ("AssertionError", "AssertionFailedError", "ComparisonFailure", "AssertionFailure")


class InstrumentationParser:
    """Takes the runner's output line by line; ``clock`` gives seconds, for the time that a test took."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._values: dict[str, str] = {}
        self._result: dict[str, str] = {}
        self._open: tuple[dict[str, str], str] | None = None
        self._running: tuple[str, str, float] | None = None
        self._total: int | None = None
        self._code: int | None = None
        self._failure: str | None = None
        self.cases = 0

    def feed(self, line: str) -> list[TestProgress]:
        """Take one line without its end, and return what it tells."""
        line = line.rstrip("\r")[:LINE_LIMIT]
        word, found = self._word(line)
        if word is None:
            self._go_on(line)
            return []
        self._open = None
        if word in (STATUS, RESULT):
            name, _, value = found.partition("=")
            table = self._values if word == STATUS else self._result
            table[name] = value
            self._open = (table, name)
        elif word == STATUS_CODE:
            return self._status(_integer(found))
        elif word == CODE:
            self._code = _integer(found)
        else:
            self._failure = self._failure or found
        return []

    @staticmethod
    def _word(line: str) -> tuple[str | None, str]:
        for word in (STATUS, STATUS_CODE, RESULT, CODE, FAILED, ABORTED, ON_ERROR):
            if line.startswith(word):
                return word, line[len(word) :]
            if line.startswith("INSTRUMENTATION_") and line == word.rstrip():
                return word, ""
        return None, line

    def _go_on(self, line: str) -> None:
        if self._open is not None:
            table, name = self._open
            if len(table[name]) < VALUE_LIMIT:
                table[name] += "\n" + line

    def _status(self, code: int | None) -> list[TestProgress]:
        values, self._values = self._values, {}
        told: list[TestProgress] = []
        suite, name = values.get("class", ""), values.get("test", "")
        if code is None or not (suite or name):
            if "Error" in values:
                self._failure = self._failure or values["Error"]
            return told
        total = _integer(values.get("numtests", ""))
        if total is not None and self._total is None:
            self._total = total
            told.append(TestProgress(total=total))
        if code == STARTED:
            told += self._cut_short("the next test began without its end")
            self._running = (suite, name, self._clock())
            told.append(TestProgress(begun=f"{suite}#{name}"))
        elif code in ENDED:
            told.append(self._end(suite, name, ENDED[code], values.get("stack", "").strip()))
        return told

    def _end(self, suite: str, name: str, status: TestStatus, trace: str) -> TestProgress:
        seconds = 0.0
        if self._running is not None and self._running[:2] == (suite, name):
            seconds = max(self._clock() - self._running[2], 0.0)
            self._running = None
        first = trace.split("\n", 1)[0].strip()
        if status is TestStatus.FAILED and trace and not any(each in first.split(":")[0] for each in ASSERTIONS):
            status = TestStatus.ERROR  # newer runners give every exception the code of a failure
        self.cases += 1
        case = TestCase(
            suite=suite, name=name, status=status, seconds=seconds, message=first or None, trace=trace or None
        )
        return TestProgress(ended=case)

    def _cut_short(self, why: str) -> list[TestProgress]:
        if self._running is None:
            return []
        suite, name, _ = self._running
        return [self._end(suite, name, TestStatus.ERROR, why)]

    def finish(self, ended: str | None = None) -> tuple[list[TestProgress], TestSummary]:
        """Take the end of the output; ``ended`` says why it came early. Return what is left to tell, and the sum."""
        crash = self._result.get("longMsg") or self._result.get("shortMsg")
        why = ended or self._failure or crash
        if why is None and self._code is None:
            why = "the runner ended without saying that it is done"
        if why is None and self._code != RESULT_OK:
            why = f"the runner ended with the code {self._code}"
        if why is None and self._total is not None and self.cases < self._total and self._running is not None:
            why = "the runner ended in the middle of a test"
        told = self._cut_short(_line(why or "the runner ended in the middle of the test"))
        if why is None:
            return told, TestSummary(complete=True, reason=f"{self.cases} tests were run", cases=self.cases)
        return told, TestSummary(complete=False, reason=_line(why), cases=self.cases)


def _integer(text: str) -> int | None:
    try:
        return int(text.strip())
    except ValueError:
        return None


def _line(text: str) -> str:
    return " ".join(text.split())[:1000]
