"""The verbs for apps: installing and driving them, their tests, what a screen and a log show. The docstrings here are
their reference. An app is named by its package name or bundle identifier."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from .parts import Count, Environment, Line, Name, Part, Seconds, Step, Text, Variable

__all__ = [
    "Clear",
    "CrashReportsStep",
    "Install",
    "Launch",
    "LogsStep",
    "Record",
    "Screenshot",
    "Stop",
    "Test",
    "TestExpectation",
    "Uninstall",
]

Tests = Annotated[tuple[Line, ...], Meta(max_length=1000)]


class Install(Step, frozen=True, kw_only=True, tag="install"):
    """Install an app from the ``input`` of that name. Unless ``replace`` is false, one that is there is replaced and
    keeps its data."""

    capabilities = ("apps",)

    input: Variable
    replace: bool = True
    timeout: Seconds = 600.0


class Uninstall(Step, frozen=True, kw_only=True, tag="uninstall"):
    """Remove an app with its data. One that is not there fails the step unless ``missing`` is ``"ok"``."""

    capabilities = ("apps",)

    app: Line
    missing: Literal["fail", "ok"] = "fail"


class Launch(Step, frozen=True, kw_only=True, tag="launch"):
    """Start an app and wait until the device says that it runs."""

    capabilities = ("apps",)

    app: Line
    arguments: Annotated[tuple[Text, ...], Meta(max_length=100)] = ()
    env: Environment = field(default_factory=dict)


class Stop(Step, frozen=True, kw_only=True, tag="stop"):
    """End an app. One that does not run is no failure."""

    capabilities = ("apps",)

    app: Line


class Clear(Step, frozen=True, kw_only=True, tag="clear"):
    """Bring an app's data back to that of a fresh installation."""

    capabilities = ("apps",)

    app: Line


class TestExpectation(Part, frozen=True, kw_only=True):
    """How many tests must run at least and at most (skipped ones do not count), and how many of them may fail."""

    __test__ = False  # no test class, whatever a collector of tests thinks of its name

    min_tests: Count = 1
    max_tests: Count | None = None
    allow_failures: Count = 0


class Test(Step, frozen=True, kw_only=True, tag="test"):
    """Run the tests of an app with the platform's own runner.

    ``target`` is the runner in the platform's own terms, ``app`` the app under test where the runner does not know
    it. ``only`` and ``skip`` name suites, or single tests as ``SUITE#TEST``. ``arguments`` go to the runner, ``env``
    to the app under test.
    """

    __test__ = False

    capabilities = ("app_tests",)

    target: Line
    app: Line | None = None
    only: Tests = ()
    skip: Tests = ()
    arguments: dict[Line, Text] = field(default_factory=dict)
    env: Environment = field(default_factory=dict)
    expect: TestExpectation = TestExpectation()
    timeout: Seconds = 1800.0


class Screenshot(Step, frozen=True, kw_only=True, tag="screenshot"):
    """Keep a picture of the screen."""

    capabilities = ("screen",)


class Record(Step, frozen=True, kw_only=True, tag="record"):
    """Record the screen from here on, until a ``record`` step with ``stop``, a ``reboot`` or the end of the run."""

    capabilities = ("screen", "attachments")

    stop: bool = False
    timeout: Seconds = 180.0


class LogsStep(Step, frozen=True, kw_only=True, tag="logs"):
    """Keep the device's log ``since`` the beginning of the run, or of the step with that name."""

    capabilities = ("logs",)

    since: Name = "run"
    timeout: Seconds = 120.0


class CrashReportsStep(Step, frozen=True, kw_only=True, tag="crash_reports"):
    """Keep the device's reports of programs that have crashed since the run began; more than ``max`` fail the step."""

    capabilities = ("crash_reports", "attachments")

    max: Count | None = None
    timeout: Seconds = 180.0
