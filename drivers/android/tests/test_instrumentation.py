"""The parser of ``am instrument -r``, on recorded output and on anything."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from anvild.sdk import TestCase, TestProgress, TestStatus, TestSummary
from anvild_android.instrumentation import InstrumentationParser

ALL_WELL = """\
INSTRUMENTATION_STATUS: class=com.example.LoginTest
INSTRUMENTATION_STATUS: current=1
INSTRUMENTATION_STATUS: id=AndroidJUnitRunner
INSTRUMENTATION_STATUS: numtests=2
INSTRUMENTATION_STATUS: stream=
com.example.LoginTest:
INSTRUMENTATION_STATUS: test=accepts
INSTRUMENTATION_STATUS_CODE: 1
INSTRUMENTATION_STATUS: class=com.example.LoginTest
INSTRUMENTATION_STATUS: current=1
INSTRUMENTATION_STATUS: id=AndroidJUnitRunner
INSTRUMENTATION_STATUS: numtests=2
INSTRUMENTATION_STATUS: stream=.
INSTRUMENTATION_STATUS: test=accepts
INSTRUMENTATION_STATUS_CODE: 0
INSTRUMENTATION_STATUS: class=com.example.LoginTest
INSTRUMENTATION_STATUS: current=2
INSTRUMENTATION_STATUS: numtests=2
INSTRUMENTATION_STATUS: stream=
INSTRUMENTATION_STATUS: test=refuses
INSTRUMENTATION_STATUS_CODE: 1
INSTRUMENTATION_STATUS: class=com.example.LoginTest
INSTRUMENTATION_STATUS: current=2
INSTRUMENTATION_STATUS: numtests=2
INSTRUMENTATION_STATUS: stack=java.lang.AssertionError: expected:<403> but was:<200>
\tat org.junit.Assert.fail(Assert.java:89)
\tat com.example.LoginTest.refuses(LoginTest.kt:31)

INSTRUMENTATION_STATUS: stream=
Error in refuses(com.example.LoginTest):
INSTRUMENTATION_STATUS: test=refuses
INSTRUMENTATION_STATUS_CODE: -2
INSTRUMENTATION_RESULT: stream=

Time: 0.413
There was 1 failure:
INSTRUMENTATION_CODE: -1
"""

CRASH = """\
INSTRUMENTATION_STATUS: class=com.example.T
INSTRUMENTATION_STATUS: numtests=3
INSTRUMENTATION_STATUS: test=dies
INSTRUMENTATION_STATUS_CODE: 1
INSTRUMENTATION_RESULT: shortMsg=Process crashed.
INSTRUMENTATION_CODE: 0
"""

NO_RUNNER = """\
INSTRUMENTATION_STATUS: Error=Unable to find instrumentation info for: ComponentInfo{com.example/no.Runner}
INSTRUMENTATION_STATUS: id=ActivityManagerService
INSTRUMENTATION_STATUS_CODE: -1
android.util.AndroidException: INSTRUMENTATION_FAILED: com.example/no.Runner
\tat com.android.commands.am.Instrument.run(Instrument.java:519)
"""

ABORTED = """\
INSTRUMENTATION_STATUS: class=com.example.T
INSTRUMENTATION_STATUS: test=one
INSTRUMENTATION_STATUS_CODE: 1
INSTRUMENTATION_ABORTED: System has crashed.
"""


def parse(text: str, *, ended: str | None = None) -> tuple[list[TestProgress], TestSummary]:
    time = iter(range(10**6))
    parser = InstrumentationParser(lambda: float(next(time)))
    told = [each for line in text.split("\n") for each in parser.feed(line)]
    left, summary = parser.finish(ended)
    return told + left, summary


def cases(told: Iterable[TestProgress]) -> list[TestCase]:
    return [each.ended for each in told if each.ended is not None]


def test_a_run_with_a_failure() -> None:
    told, summary = parse(ALL_WELL)
    assert told[0] == TestProgress(total=2)
    assert [each.begun for each in told if each.begun] == [
        "com.example.LoginTest#accepts",
        "com.example.LoginTest#refuses",
    ]
    first, second = cases(told)
    assert (first.status, first.seconds, first.trace) == (TestStatus.PASSED, 1.0, None)
    assert second.status is TestStatus.FAILED
    assert second.message == "java.lang.AssertionError: expected:<403> but was:<200>"
    assert second.trace is not None
    assert second.trace.endswith("(LoginTest.kt:31)")
    assert summary == TestSummary(complete=True, reason="2 tests were run", cases=2)


def test_carriage_returns_are_no_part_of_the_text() -> None:
    assert parse(ALL_WELL.replace("\n", "\r\n")) == parse(ALL_WELL)


def test_a_crash_ends_the_test_that_ran() -> None:
    told, summary = parse(CRASH)
    (dead,) = cases(told)
    assert (dead.suite, dead.name, dead.status) == ("com.example.T", "dies", TestStatus.ERROR)
    assert dead.message == "Process crashed."
    assert summary == TestSummary(complete=False, reason="Process crashed.", cases=1)


def test_a_runner_that_is_not_there() -> None:
    told, summary = parse(NO_RUNNER)
    assert cases(told) == []
    assert not summary.complete
    assert summary.reason.startswith("Unable to find instrumentation info")


def test_an_abort() -> None:
    told, summary = parse(ABORTED)
    assert [case.status for case in cases(told)] == [TestStatus.ERROR]
    assert (summary.complete, summary.reason) == (False, "System has crashed.")


def test_the_codes() -> None:
    for code, status in ((0, "passed"), (-1, "error"), (-2, "failed"), (-3, "skipped"), (-4, "skipped")):
        text = f"INSTRUMENTATION_STATUS: class=a.B\nINSTRUMENTATION_STATUS: test=c\nINSTRUMENTATION_STATUS_CODE: {code}"
        (case,) = cases(parse(text)[0])
        assert case.status == status, code


def test_an_exception_that_is_no_assertion_is_an_error() -> None:
    text = (
        "INSTRUMENTATION_STATUS: class=a.B\nINSTRUMENTATION_STATUS: test=c\n"
        "INSTRUMENTATION_STATUS: stack=java.lang.NullPointerException: on a AssertionError\n\tat a.B.c\n"
        "INSTRUMENTATION_STATUS_CODE: -2"
    )
    (case,) = cases(parse(text)[0])
    assert case.status is TestStatus.ERROR


def test_an_output_that_stops() -> None:
    half = ALL_WELL.rpartition("_CODE: 1\n")[0] + "_CODE: 1\nINSTRUMENTATION_STATUS: class=com"
    told, summary = parse(half, ended="the device was drawn off")
    assert [case.name for case in cases(told)] == ["accepts", "refuses"]
    assert cases(told)[1].message == "the device was drawn off"
    assert (summary.complete, summary.reason) == (False, "the device was drawn off")
    assert parse("")[1] == TestSummary(
        complete=False, reason="the runner ended without saying that it is done", cases=0
    )


WORDS = st.sampled_from(
    [
        "INSTRUMENTATION_STATUS: class=a.B",
        "INSTRUMENTATION_STATUS: test=c",
        "INSTRUMENTATION_STATUS: numtests=4",
        "INSTRUMENTATION_STATUS: stack=x",
        "INSTRUMENTATION_STATUS_CODE: 1",
        "INSTRUMENTATION_STATUS_CODE: 0",
        "INSTRUMENTATION_STATUS_CODE: -2",
        "INSTRUMENTATION_STATUS_CODE: nonsense",
        "INSTRUMENTATION_RESULT: shortMsg=Process crashed.",
        "INSTRUMENTATION_CODE: -1",
        "INSTRUMENTATION_ABORTED:",
        "onError: commandError=true",
    ]
)


@given(st.lists(WORDS | st.text(max_size=30), max_size=40))
def test_whatever_comes_is_told_in_order(lines: list[str]) -> None:
    told, summary = parse("\n".join(lines))
    running = None
    for each in told:
        assert sum(value is not None for value in (each.total, each.begun, each.ended)) == 1
        if each.begun is not None:
            assert running is None, "a test begins before the last has ended"
            running = each.begun
        elif each.ended is not None and running == f"{each.ended.suite}#{each.ended.name}":
            running = None
    assert summary.cases == len(cases(told))
    assert not (summary.complete and running)
    assert "\n" not in summary.reason
