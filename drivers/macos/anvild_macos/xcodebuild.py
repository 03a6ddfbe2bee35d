"""The command line of ``xcodebuild``, and what its output says while tests run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import msgspec

from anvild.sdk import InvalidArgument, TestCase, TestRequest, TestStatus

RUNNER_OPTIONS = (
    "testPlan",
    "configuration",
    "only-test-configuration",
    "skip-test-configuration",
    "parallel-testing-enabled",
    "test-iterations",
    "test-timeouts-enabled",
    "maximum-test-execution-time-allowance",
)
"""The arguments of a request: options of xcodebuild that take a value and choose how tests run."""

SUITE_BEGAN = re.compile(r"Test Suite '(.+)\.xctest' started")
CASE = re.compile(
    r"Test Case '-\[(?:(?P<module>[^\s.]+)\.)?(?P<suite>[^\s\]]+) (?P<name>[^\]]+)\]' "
    r"(?P<what>started|passed|failed|skipped)(?: \((?P<seconds>[0-9.]+) seconds\))?"
)
FAILURE = re.compile(r"^(?P<place>.+?:\d+): error: -\[(?:[^\s.\]]+\.)?(?P<suite>\S+) (?P<name>[^\]]+)\] : (?P<why>.*)")
ERROR = re.compile(r"^(?:xcodebuild: error: |.*?\berror: )(.+)")
STATUSES = {"passed": TestStatus.PASSED, "failed": TestStatus.FAILED, "skipped": TestStatus.SKIPPED}
LINE_LIMIT = 64 * 1024


def command_line(request: TestRequest, target: str, udid: str | None, bundle: str) -> list[str]:
    """Return the command that runs a request. ``target`` is an absolute path on the Mac; ``udid`` is None for the Mac
    itself; the results go to ``bundle``. Raises InvalidArgument."""
    path, _, scheme = target.partition("#")
    if path.endswith(".xctestrun") and not scheme:
        words = ["xcodebuild", "test-without-building", "-xctestrun", path]
    elif path.endswith((".xcodeproj", ".xcworkspace")) and scheme:
        option = "-project" if path.endswith(".xcodeproj") else "-workspace"
        words = ["xcodebuild", "test", option, path, "-scheme", scheme]
    else:
        raise InvalidArgument(
            f"the target {request.target!r} is no test of Xcode: name an .xctestrun file, or PROJECT.xcodeproj#SCHEME "
            "or WORKSPACE.xcworkspace#SCHEME"
        )
    words += ["-destination", "platform=macOS" if udid is None else f"id={udid}", "-resultBundlePath", bundle]
    for name, value in request.arguments.items():
        if name not in RUNNER_OPTIONS:
            raise InvalidArgument(f"the argument {name!r} is not passed to xcodebuild: use {', '.join(RUNNER_OPTIONS)}")
        words += [f"-{name}", value]
    words += [f"-only-testing:{_test(name)}" for name in request.only]
    return words + [f"-skip-testing:{_test(name)}" for name in request.skip]


def _test(name: str) -> str:
    """Turn ``BUNDLE/CLASS#TEST`` into Xcode's form. Raises InvalidArgument."""
    path = name.replace("#", "/")
    if not path or path.startswith("/") or path.count("/") > 2:
        raise InvalidArgument(f"{name!r} names no test: write BUNDLE, BUNDLE/CLASS or BUNDLE/CLASS#TEST")
    return path


class Told(msgspec.Struct, frozen=True):
    """What a line of output told: a test has begun, or has ended."""

    begun: str | None = None
    ended: TestCase | None = None


class OutputReader:
    """Reads xcodebuild's output line by line.

    It tells only of tests that the output names beyond doubt, with their bundle; the results of all others come from
    the result bundle. ``error`` is the last complaint of xcodebuild itself.
    """

    def __init__(self) -> None:
        self.error: str | None = None
        self._bundle: str | None = None
        self._failures: dict[tuple[str, str], list[str]] = {}
        self._rest = ""

    def feed(self, text: str) -> Iterator[Told]:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            told = self._line(line.rstrip("\r"))
            if told is not None:
                yield told
        if len(self._rest) > LINE_LIMIT:  # no line of a test is that long
            self._rest = ""

    def _line(self, line: str) -> Told | None:
        suite = SUITE_BEGAN.search(line)
        if suite is not None:
            self._bundle = suite[1]
            return None
        case = CASE.search(line)
        if case is not None:
            return self._case(case)
        failure = FAILURE.match(line)
        if failure is not None:
            text = f"{failure['why']}\n  at {failure['place']}"
            self._failures.setdefault((failure["suite"], failure["name"]), []).append(text)
            return None
        error = ERROR.match(line)
        if error is not None:
            self.error = error[1].strip()[:500]
        return None

    def _case(self, found: re.Match[str]) -> Told | None:
        if self._bundle is None:
            return None
        suite, name, what = f"{self._bundle}/{found['suite']}", found["name"], found["what"]
        if what == "started":
            return Told(begun=f"{suite}#{name}")
        failures = self._failures.pop((found["suite"], name), [])
        return Told(
            ended=TestCase(
                suite=suite,
                name=name,
                status=STATUSES[what],
                seconds=float(found["seconds"] or 0),
                message=failures[0].partition("\n")[0] if failures else None,
                trace="\n".join(failures) or None,
            )
        )


def check_xcode(version: Sequence[int] | None, said: str, oldest: int) -> str | None:
    """Say why tests cannot be run with this version of Xcode; None when they can."""
    if version is None:
        return f"tests need Xcode {oldest} or later, and this Mac has none: {said}"
    if version[0] < oldest:
        whole = ".".join(map(str, version))
        return f"tests need Xcode {oldest} or later, whose xcresulttool tells results in full; this Mac has {whole}"
    return None
