"""The rules about apps, tests, screen, logs, ports, reports and remedies: they can be kept and be broken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
import trio

from anvild.sdk import App, Driver, Remedy, TestSummary
from anvild.sdk.testing import RULES, InProcess, Level, Profile, Report, Verdict, examine

Kit = Callable[..., Any]


@pytest.fixture
def tried(pocket: ModuleType, tmp_path: Path) -> Kit:
    """Try the driver with some members of its session, or its own, replaced; by one rule, or by all."""

    async def call(rule: str | None = None, *, profile: Profile | None = None, **members: Any) -> Report:
        own = {name: member for name, member in members.items() if hasattr(pocket.PocketDriver, name)}
        session = type("Changed", (pocket.PocketSession,), members)
        kind: type[Driver] = type("ChangedDriver", (pocket.PocketDriver,), {"session": session, **own})
        chosen = [msgspec.structs.replace(each, seconds=5) for each in RULES if rule in (None, each.name)]
        return await examine(InProcess(kind), profile or pocket.pocket_profile(tmp_path), rules=chosen)

    return call


async def test_a_driver_of_phones_can_keep_all_rules(tried: Kit) -> None:
    report: Report = await tried()
    assert report.failures == ()
    assert report.grade is Level.PLATINUM
    passed = {each.rule.partition(".")[0] for each in report.results if each.verdict is Verdict.PASSED}
    offered = {
        "apps",
        "app_tests",
        "screen",
        "logs",
        "ports",
        "reverse_ports",
        "crash_reports",
        "attachments",
        "power",
        "mend",
    }
    assert offered <= passed


async def test_what_the_profile_does_not_name_cannot_be_shown(tried: Kit) -> None:
    for rule in ("apps.install", "app_tests.run", "ports.connect"):
        report: Report = await tried(rule, profile=Profile())
        assert "the profile names no" in (report.failures[0].reason or "")


def answers(value: Any) -> Callable[..., Any]:
    """A verb that answers the same to everything."""

    async def verb(self: Any, *words: Any, **more: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return value

    return verb


def bytes_of(pocket: ModuleType, data: bytes) -> Callable[..., Any]:
    async def verb(self: Any, *words: Any, **more: Any) -> Any:
        return await pocket.stream_of(data)

    return verb


async def cut_short(self: Any, source: Any, *, size: int, replace: bool = True) -> App:
    """Installs what has come, when it is cancelled."""
    app = App(identifier="org.example.app")
    try:
        async for _ in source:
            pass
    finally:
        self.apps[app.identifier] = app
    return app


async def silent(self: Any, request: Any, report: Any) -> TestSummary:
    return TestSummary(complete=True, reason="all tests ran", cases=3)


async def deaf(self: Any, request: Any, report: Any) -> TestSummary:
    with trio.CancelScope(shield=True):
        await trio.sleep(2.4)
    return TestSummary(complete=True, reason="all tests ran")


async def all_remedies(self: Any, identity: str) -> Sequence[Remedy]:
    return list(reversed(Remedy))


@pytest.mark.parametrize(
    ("rule", "verb", "defect", "told"),
    [
        ("apps.list", "list_apps", answers([App(identifier="b"), App(identifier="a")]), "not sorted"),
        ("apps.install", "list_apps", answers([]), "not listed after its installation"),
        ("apps.unknown", "stop_app", answers(None), "stopping no app must raise NotFound"),
        ("apps.broken-package", "install_app", answers(None), "must raise InvalidArgument"),
        ("apps.install-cancelled", "install_app", cut_short, "half an app"),
        ("app_tests.run", "run_tests", silent, "counts 3 tests of 0"),
        ("app_tests.only", "run_tests", silent, "no test ended"),
        ("app_tests.unknown", "run_tests", silent, "came back as"),
        ("app_tests.cancelled", "run_tests", deaf, "within 1 s of being cancelled"),
        ("screen.screenshot", "screenshot", b"\xff\xd8 a picture of another kind", "begins with"),
        ("screen.recording", "start_recording", answers(None), "must raise WrongState"),
        ("logs.read", "logs", b"\xff\xfe", "no UTF-8"),
        ("logs.since", "logs", b"a line\n", "must raise InvalidArgument"),
        ("logs.follow", "logs", b"a line\n", "came to an end"),
        ("ports.closed", "connect_port", answers(None), "must raise Unavailable"),
        ("reverse_ports.reverse", "reverse_port", answers(4000), "must raise AlreadyExists"),
        ("crash_reports.list", "crash_reports", answers(["a report"]), "crash_reports returned"),
        ("attachments.unknown", "fetch", b"root:x:0", "must raise NotFound"),
        ("mend.remedies", "remedies", all_remedies, "the remedies are"),
        ("mend.mend", "mend", answers("done"), "was told as"),
        ("mend.wrong-input", "mend", answers("it was done"), "must raise CapabilityMissing"),
    ],
)
async def test_a_defect_breaks_its_rule(
    tried: Kit, pocket: ModuleType, rule: str, verb: str, defect: Any, told: str, mock_clock: Any
) -> None:
    mock_clock.rate = 20  # threads make directories, so the clock must not jump
    report: Report = await tried(rule, **{verb: bytes_of(pocket, defect) if isinstance(defect, bytes) else defect})
    assert [each.verdict for each in report.results] == [Verdict.FAILED], report.results
    assert told in (report.results[0].reason or ""), report.results
