"""What the verbs for apps do on a phone, and what is left when they do not."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio
from junitparser import JUnitXml

from anvild.devicetests.workload import PipelineWorkload
from anvild.sdk import Outcome, RunFailed, Severity, TestStatus, Verdict
from tests.support.lab import Lab as Hardware
from tests.support.phones import PNG, Phone, Scripted, package

APP, TESTS = "org.example.app", "org.example.app.test"
HEAD = "[inputs.app]\n[inputs.tests]\nrequired = false\n"
INSTALL = "[[steps]]\nverb = 'install'\ninput = 'app'\n[[steps]]\nverb = 'install'\ninput = 'tests'\n"
TEST = f"[[steps]]\nverb = 'test'\nname = 'ui'\ntarget = '{TESTS}'\n"
GOOD = Scripted(suite="Login", name="opens")
BAD = Scripted(
    suite="Login", name="refuses", status=TestStatus.FAILED, message="expected <no> but was: yes", trace="at Login:17"
)
BROKEN = Scripted(suite="Cart", name="pays", status=TestStatus.ERROR, message="NullPointer\x00", trace="at Cart:3")
SKIPPED = Scripted(suite="Cart", name="later", status=TestStatus.SKIPPED, message="not yet")


@pytest.fixture
def app(phones: Any) -> Any:
    """The lab, with an app whose tests a test may choose."""
    phones.files = {"app": package(APP), "tests": package(TESTS, GOOD)}
    return phones


def with_tests(lab: Any, *tests: Scripted) -> None:
    lab.files["tests"] = package(TESTS, *tests)


async def failure(lab: Any, text: str, **metadata: Any) -> str:
    with pytest.raises(RunFailed) as caught:
        await lab.run(text, **metadata)
    assert caught.value.code == "expectation_failed"
    return caught.value.message


async def test_an_app_is_installed_driven_and_looked_at(app: Any, phone: Phone) -> None:
    phone.log.append("from before the run")
    text = (
        "[parameters.package]\ndefault = 'org.example.app'\n"
        + HEAD
        + INSTALL
        + "[[steps]]\nverb = 'record'\nname = 'video'\n"
        "[[steps]]\nverb = 'push'\ninput = 'app'\npath = '/sdcard/copy'\n"
        "[[steps]]\nverb = 'launch'\nname = 'start'\napp = '{{ package }}'\narguments = ['-v', '{{ package }}']\n"
        "env = { LANG = '{{ attempt }}' }\n"
        "[[steps]]\nverb = 'screenshot'\nname = 'shot'\n"
        "[[steps]]\nverb = 'record'\nstop = true\n"
        "[[steps]]\nverb = 'stop'\napp = '{{ package }}'\n"
        "[[steps]]\nverb = 'clear'\napp = '{{ package }}'\n"
        "[[steps]]\nverb = 'wait'\nseconds = 0.01\n"
        "[[steps]]\nverb = 'logs'\nname = 'device'\n"
        "[[steps]]\nverb = 'logs'\nname = 'later'\nsince = 'start'\n"
        "[[steps]]\nverb = 'uninstall'\napp = '{{ package }}'\n"
        "[[steps]]\nverb = 'uninstall'\napp = '{{ package }}'\nmissing = 'ok'\n"
        "[[steps]]\nverb = 'pull'\nname = 'back'\npath = '/sdcard/copy'\n"
        "[[on_failure]]\nverb = 'screenshot'\nname = 'never'\n"
        "[[always]]\nverb = 'assert'\nvalue = '{{ package }}'\nequals = 'org.example.app'\n"
        "contains = ['org', 'app']\nmatches = '^org[.]'\n"
    )
    outcome = await app.run(text)
    assert outcome == Outcome(verdict=Verdict.PASSED, reason="16 of 16 steps passed")
    assert phone.launched == [(APP, ("-v", APP), {"LANG": "1"})]
    assert list(phone.apps) == [TESTS]
    kept = app.kept.artifacts
    assert kept["shot.png"] == PNG
    assert (kept["video-1.mp4"], kept["video-2.mp4"]) == (b"video 1", b"video 2")
    assert kept["back-copy"] == package(APP)
    whole = [f"installed {APP}", f"installed {TESTS}", f"launched {APP}", f"cleared {APP}"]
    assert kept["device.log"].decode().splitlines() == whole
    assert kept["later.log"].decode().splitlines() == whole[2:]
    assert "never.png" not in kept
    report = json.loads(kept["report.json"])
    assert report["reason"] == outcome.reason
    assert "never" not in {step["step"] for step in report["steps"]}
    assert JUnitXml.fromstring(kept["junit.xml"]).skipped == 0
    numbers = [data["number"] for kind, data in app.kept.events if kind == "step" and data["state"] == "begun"]
    assert numbers == list(range(1, 17))
    assert {data["of"] for kind, data in app.kept.events if kind == "step"} == {16}


async def test_results_become_findings_and_files(app: Any) -> None:
    with_tests(app, GOOD, BAD, BROKEN, SKIPPED, Scripted(suite="Cart", name="shows", attachment="a screen"))
    tail = "[[on_failure]]\nverb = 'screenshot'\nname = 'failed'\n[[always]]\nverb = 'logs'\nname = 'device'\n"
    reason = await failure(app, HEAD + INSTALL + TEST + "[[steps]]\nverb = 'reboot'\n" + tail)
    assert reason == "step 'ui': 5 tests: 2 passed, 1 failed, 1 broken, 1 skipped"
    assert app.kept.findings == [
        (Severity.CRITICAL, "Cart#pays: NullPointer\x00", "test", "at Cart:3"),
        (Severity.HIGH, "Login#refuses: expected <no> but was: yes", "test", "at Login:17"),
        (Severity.INFO, "a test was skipped", "test", "Cart#later: not yet"),
    ]
    kept = app.kept.artifacts
    assert kept["failed.png"] == PNG
    assert kept["ui-shows.txt"] == b"a screen"
    assert kept["ui.log"].count(b"INSTRUMENTATION_STATUS") == 5
    assert b"testing Login#opens" in kept["device.log"]
    told = [data for kind, data in app.kept.events if kind == "test"]
    assert [data["test"] for data in told] == ["Login#opens", "Login#refuses", "Cart#pays", "Cart#later", "Cart#shows"]
    assert (told[1]["status"], told[1]["number"], told[1]["of"]) == ("failed", 2, 5)
    xml = JUnitXml.fromstring(kept["junit.xml"])
    assert (xml.tests, xml.failures, xml.errors, xml.skipped) == (10, 1, 1, 2)
    suites = {suite.name: suite for suite in xml}
    assert {name: suite.tests for name, suite in suites.items()} == {"Cart": 3, "Login": 2, "test": 5}
    assert suites["Cart"].hostname == "Fake p1"
    refused = next(case for case in suites["Login"] if case.name == "refuses")
    (result,) = refused.result
    assert (type(result).__name__, result.message, result.text) == (
        "Failure",
        "expected <no> but was: yes",
        "at Login:17",
    )
    report = json.loads(kept["report.json"])
    assert (report["verdict"], report["reason"]) == ("failed", reason)
    assert [test["test"] for test in report["failed_tests"]] == ["Login#refuses", "Cart#pays"]
    assert b"expected &lt;no&gt; but was: yes" in kept["report.html"]


@pytest.mark.parametrize(
    ("tests", "expect", "reason"),
    [
        ((), "", "0 tests ran, at least 1 expected"),
        ((SKIPPED,), "", "0 tests ran, at least 1 expected"),
        ((), "min_tests = 0", None),
        ((GOOD, BAD), "allow_failures = 1", None),
        ((GOOD, BAD, BROKEN), "allow_failures = 1", "3 tests: 1 passed, 1 failed, 1 broken"),
        ((GOOD, GOOD), "max_tests = 1", "2 tests ran, at most 1 expected"),
        ((GOOD, Scripted(suite="A", name="b", crash=True)), "allow_failures = 9", "the process of the app crashed"),
    ],
)
async def test_what_is_expected_of_tests(
    app: Any, tests: tuple[Scripted, ...], expect: str, reason: str | None
) -> None:
    with_tests(app, *tests)
    text = HEAD + INSTALL + TEST + f"expect = {{ {expect} }}\n"
    if reason is None:
        await app.run(text)
    else:
        assert await failure(app, text) == f"step 'ui': {reason}"


async def test_a_crash_is_critical_and_its_report_is_kept(app: Any, phone: Phone) -> None:
    phone.crashes.append((datetime.now(UTC) - timedelta(hours=1), "of another time"))
    with_tests(app, GOOD, Scripted(suite="Cart", name="pays", crash=True, message="Process crashed"), BAD)
    reports = "[[always]]\nverb = 'crash_reports'\nname = 'crashes'\nmax = 0\nrequired = false\nseverity = 'medium'\n"
    await failure(app, HEAD + INSTALL + TEST + reports)
    assert [(severity, title) for severity, title, _, _ in app.kept.findings] == [
        (Severity.CRITICAL, "Cart#pays: Process crashed"),
        (Severity.CRITICAL, "ui: the process of the app crashed"),
        (Severity.MEDIUM, "crashes: there is a crash report, at most 0 expected"),
    ]
    assert app.kept.artifacts["crashes-crash-1.txt"] == b"Cart crashed"
    assert "crashes-crash-2.txt" not in app.kept.artifacts
    cases = {case.name: case for suite in JUnitXml.fromstring(app.kept.artifacts["junit.xml"]) for case in suite}
    assert cases["ui"].result[0].message == "the process of the app crashed"
    assert type(cases["crashes"].result[0]).__name__ == "Skipped"


async def test_findings_are_bounded_and_the_rest_is_told(app: Any) -> None:
    many = [Scripted(suite="S", name=f"t{n:04}", status=TestStatus.FAILED, trace="x" * 30_000) for n in range(1100)]
    with_tests(app, *many)
    assert await failure(app, HEAD + INSTALL + TEST) == "step 'ui': 1100 tests: 1100 failed"
    findings = app.kept.findings
    assert len(findings) == 51
    assert findings[0][1] == "S#t0000: it failed"
    assert findings[-1][1] == "1050 more tests failed"
    assert findings[-1][3].startswith("S#t0050\n")
    assert sum(kind == "test" for kind, _ in app.kept.events) == 1000
    xml = JUnitXml.fromstring(app.kept.artifacts["junit.xml"])
    assert xml.failures == 1100
    assert len(app.kept.artifacts["junit.xml"]) < 20 * 2**20


async def test_what_is_chosen_reaches_the_runner(app: Any, phone: Phone) -> None:
    with_tests(app, GOOD, BAD, SKIPPED)
    text = TEST + (
        f"app = '{APP}'\nonly = ['{{{{ suite }}}}']\nskip = ['Login#refuses']\n"
        "arguments = { size = '{{ suite }}' }\nenv = { LOCALE = 'de' }\n"
    )
    await app.run("[parameters.suite]\n" + HEAD + INSTALL + text, parameters={"suite": "Login"})
    (request,) = phone.requests
    assert (request.app, request.only, request.skip) == (APP, ("Login",), ("Login#refuses",))
    assert (request.arguments, request.env) == ({"size": "Login"}, {"LOCALE": "de"})


async def test_tests_that_hang_are_ended_and_what_they_said_is_kept(app: Any, phone: Phone) -> None:
    with_tests(app, GOOD, Scripted(suite="Cart", name="hangs", wait="never"), BAD)
    reason = await failure(app, HEAD + INSTALL + TEST + "timeout = 0.05\n")
    assert reason == "step 'ui': the tests did not end within 0.05 s and have been ended"
    assert phone.testing == 0
    assert app.kept.findings[0][1].startswith("Cart#hangs: the tests did not end within")
    assert app.kept.artifacts["ui.log"].count(b"\n") == 2
    assert JUnitXml.fromstring(app.kept.artifacts["junit.xml"]).errors == 1


@pytest.mark.parametrize(
    ("files", "step", "reason"),
    [
        ({"app": b"no package"}, "", "Failure [INSTALL_PARSE_FAILED_NOT_APK]"),
        ({"app": package(APP, platform="tablet")}, "", "the package is for tablet, and this is a phone"),
        ({"app": package(APP, padding=200_000)}, "", "no space left on the device for an app"),
        ({"app": package(APP)}, f"verb = 'launch'\napp = '{TESTS}'", f"{TESTS} is not installed"),
        ({"app": package(APP)}, f"verb = 'test'\ntarget = '{TESTS}'", f"{TESTS} is not installed"),
        ({"app": package(APP)}, "verb = 'install'\ninput = 'app'\nreplace = false", f"{APP} is installed"),
        ({"app": package(APP)}, "verb = 'uninstall'\napp = 'x.y'", "x.y is not installed"),
        ({"app": package(APP)}, "verb = 'assert'\nvalue = 'a {{ run_id }}'\nequals = 'b'", "'a 0190-run' is not 'b'"),
        (
            {"app": package(APP)},
            "verb = 'assert'\nvalue = 'abc'\ncontains = ['b', 'x']",
            "'abc' does not contain 'x'",
        ),
        ({"app": package(APP)}, "verb = 'assert'\nvalue = 'abc'\nmatches = '^b'", "'abc' does not match '^b'"),
    ],
)
async def test_bad_input_is_a_sentence_and_leaves_nothing(
    phones: Any, phone: Phone, files: dict[str, bytes], step: str, reason: str
) -> None:
    phone.capacity = 100_000
    phones.files = files
    text = "[inputs.app]\n[[steps]]\nverb = 'install'\nname = 'in'\ninput = 'app'\n"
    text += f"[[steps]]\nname = 'then'\n{step}\n" if step else ""
    assert await failure(phones, text) == f"step '{'then' if step else 'in'}': {reason}"
    assert phones.kept.findings[0][1].endswith(reason)
    if not step:
        assert phone.apps == {}
        assert phone.used == {}


async def test_a_file_larger_than_the_room_leaves_nothing(phones: Any, phone: Phone) -> None:
    phone.capacity = 100_000
    phones.files = {"data": bytes(300_000)}
    text = "[inputs.data]\n[[steps]]\nverb = 'push'\nname = 'big'\ninput = 'data'\npath = '/sdcard/data'\n"
    assert await failure(phones, text) == "step 'big': no space left on the device for /sdcard/data"
    assert phone.files == {}


async def test_inputs_that_are_not_there(phones: Any) -> None:
    phones.files = {"app": package(APP)}
    outcome = await phones.run(HEAD + INSTALL)
    assert outcome.reason == "1 of 2 steps passed"
    (reason,) = [data["reason"] for kind, data in phones.kept.events if kind == "step" and data["state"] == "skipped"]
    assert reason == "it needs the input 'tests', which was not given"
    phones.forget()
    context = phones.context(phones.frozen(HEAD + INSTALL))
    del phones.kept.artifacts["app"]
    with pytest.raises(RunFailed, match=r"the input 'app' is not kept any more: upload app\.pkg again"):
        await PipelineWorkload().run(context)


async def test_a_log_after_a_restart_begins_there(app: Any) -> None:
    await app.run(HEAD + INSTALL + "[[steps]]\nverb = 'reboot'\n[[steps]]\nverb = 'logs'\nname = 'device'\n")
    assert app.kept.artifacts["device.log"] == b"booted\n"
    (reason,) = [data["reason"] for _, data in app.kept.events if data.get("verb") == "logs" and "reason" in data]
    assert reason == "device.log, 7 bytes since the device started"


async def test_a_recording_that_nobody_ends_is_kept(app: Any) -> None:
    for rest in ("", "[[steps]]\nverb = 'reboot'\n"):
        app.forget()
        await app.run(HEAD + "[[steps]]\nverb = 'record'\nname = 'video'\n" + rest)
        assert app.kept.artifacts["video-2.mp4"] == b"video 2"
        assert not [data for kind, data in app.kept.events if kind == "log"]


WHOLE = (
    HEAD
    + INSTALL
    + "[[steps]]\nverb = 'record'\nname = 'video'\n"
    + TEST
    + "[[on_failure]]\nverb = 'screenshot'\nname = 'failed'\n[[always]]\nverb = 'logs'\nname = 'device'\n"
)


async def test_wherever_the_daemon_dies_the_run_tells_the_same(app: Any, phone: Phone) -> None:
    """Die at every durable act, before and after it, and go on: the findings are those of one go, once each. Only
    a recording ends with the session that made it."""
    with_tests(app, GOOD, BAD, SKIPPED)
    context = app.context(app.frozen(WHOLE))
    with pytest.raises(RunFailed):
        await PipelineWorkload().run(context)
    findings, names = app.kept.findings, {name for name in app.kept.artifacts if not name.startswith("video")}
    again = 0
    for crash_at in range(1, context.acts + 1):
        for after in (False, True):
            app.forget()
            with pytest.RaisesGroup(app.crash, allow_unwrapped=True, flatten_subgroups=True):
                await PipelineWorkload().run(app.context(app.frozen(WHOLE), crash_at=crash_at, after=after))
            with pytest.raises(RunFailed, match="3 tests: 1 passed, 1 failed, 1 skipped"):
                await PipelineWorkload().run(app.context(app.frozen(WHOLE)))
            assert app.kept.findings == findings
            assert names <= app.kept.artifacts.keys()
            assert app.kept.steps("begun") == ["step-1", "step-2", "video", "ui", "failed", "device"]
            assert len(phone.requests) in (1, 2)
            again += len(phone.requests) == 2
    assert 0 < again < 2 * context.acts


async def test_tests_that_were_cut_off_begin_again(app: Any, phone: Phone, hardware: Hardware) -> None:
    """The daemon stops in the middle of the tests; the same attempt runs them all, and only those results count."""
    with_tests(app, GOOD, Scripted(suite="Cart", name="slow", wait="go"), BAD)
    context = app.context(app.frozen(WHOLE))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(PipelineWorkload().run, context)
        with trio.fail_after(60):
            while phone.log[-1:] != ["testing Cart#slow"]:
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert phone.testing == 0
    assert app.kept.findings == []
    hardware.gate("go").set()
    with pytest.raises(RunFailed, match="3 tests: 2 passed, 1 failed"):
        await PipelineWorkload().run(app.context(app.frozen(WHOLE)))
    logged = [data["message"] for kind, data in app.kept.events if kind == "log"]
    assert logged == [
        "the recording of the screen begins again: the daemon was away",
        "the tests of step 'ui' begin again: the daemon was away",
    ]
    assert JUnitXml.fromstring(app.kept.artifacts["junit.xml"]).failures == 1
