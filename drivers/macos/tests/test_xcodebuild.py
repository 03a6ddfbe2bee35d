"""The command lines of xcodebuild, and its output read as it comes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anvild.sdk import InvalidArgument, TestRequest, TestStatus
from anvild_macos.app_tests import judge
from anvild_macos.xcodebuild import OutputReader, Told, check_xcode, command_line
from anvild_macos.xcresult import test_cases as read_cases

RECORDED = Path(__file__).with_name("recorded")
OUTPUT = (RECORDED / "xcodebuild-output.txt").read_text()


def command(target: str, **more: object) -> list[str]:
    request = TestRequest(target=target, **more)  # type: ignore[arg-type]
    return command_line(request, target, "UDID", "/r.xcresult")


def test_a_test_run_file() -> None:
    assert command("/a/Demo.xctestrun", only=("T/S", "T/S#m"), skip=("U",), arguments={"test-iterations": "2"}) == [
        *("xcodebuild", "test-without-building", "-xctestrun", "/a/Demo.xctestrun"),
        *("-destination", "id=UDID", "-resultBundlePath", "/r.xcresult", "-test-iterations", "2"),
        *("-only-testing:T/S", "-only-testing:T/S/m", "-skip-testing:U"),
    ]


def test_schemes() -> None:
    assert command("/a/Demo.xcodeproj#Smoke")[:6] == [
        *("xcodebuild", "test", "-project", "/a/Demo.xcodeproj", "-scheme", "Smoke")
    ]
    assert "-workspace" in command("/a/Demo.xcworkspace#Smoke")
    mac = command_line(TestRequest(target="/a.xctestrun"), "/a.xctestrun", None, "/r.xcresult")
    assert "platform=macOS" in mac


@pytest.mark.parametrize("target", ["/a/Demo.app", "/a/Demo.xcodeproj", "/a/Demo.xctestrun#Scheme"])
def test_other_targets_are_refused(target: str) -> None:
    with pytest.raises(InvalidArgument, match="no test of Xcode"):
        command(target)


def test_arguments_and_names_that_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="'derivedDataPath' is not passed"):
        command("/a.xctestrun", arguments={"derivedDataPath": "/"})
    for name in ("", "/a", "a/b/c/d"):
        with pytest.raises(InvalidArgument, match="names no test"):
            command("/a.xctestrun", only=(name,))


def read(text: str, size: int) -> tuple[list[Told], str | None]:
    reader = OutputReader()
    told = [each for at in range(0, len(text), size) for each in reader.feed(text[at : at + size])]
    return told, reader.error


@given(size=st.integers(1, 300))
def test_output_in_pieces(size: int) -> None:
    told, _ = read(OUTPUT, size)
    assert next(each.begun for each in told if each.begun) == "DemoTests/LoginTests#testGoodPassword"
    ended = {each.ended.name: each.ended for each in told if each.ended}
    assert {name: case.status for name, case in ended.items()} == {
        "testGoodPassword": TestStatus.PASSED,
        "testWrongPassword": TestStatus.FAILED,
        "testLater": TestStatus.SKIPPED,
        "testKnownBug": TestStatus.PASSED,
    }
    wrong = ended["testWrongPassword"]
    assert wrong.message == 'XCTAssertEqual failed: ("200") is not equal to ("401") - the server must refuse'
    assert wrong.trace is not None
    assert wrong.trace.endswith("at /Users/lab/Demo/DemoTests/LoginTests.swift:42")
    assert wrong.seconds == 0.245


def test_the_output_names_tests_as_the_results_do() -> None:
    told, _ = read(OUTPUT, 1000)
    truth = {
        (case.suite, case.name): case.status for case in read_cases((RECORDED / "xcresult-tests.json").read_bytes())
    }
    for each in told:
        if each.ended:
            assert truth[each.ended.suite, each.ended.name] is each.ended.status


@given(text=st.text())
def test_any_output_can_be_read(text: str) -> None:
    read(text + "\n" + OUTPUT, 50)


def test_a_complaint_of_xcodebuild_is_kept() -> None:
    assert read("xcodebuild: error: no such scheme\n", 100)[1] == "no such scheme"


def test_a_line_without_an_end_is_not_kept() -> None:
    reader = OutputReader()
    for _ in range(10):
        assert list(reader.feed("x" * 60_000)) == []
    assert len(reader._rest) <= 64 * 1024


def test_how_a_run_is_judged() -> None:
    cases = read_cases((RECORDED / "xcresult-tests.json").read_bytes())
    passed = [case for case in cases if case.status is TestStatus.PASSED]
    assert judge(65, None, cases, "Failed").complete
    assert judge(65, None, cases, "Failed").reason == "6 tests, 2 failed, 1 skipped"
    assert judge(0, None, passed, "Passed").complete
    assert not judge(65, "the runner quit", passed, "Failed").complete
    assert not judge(70, None, cases, "Failed").complete
    assert "no test ran" in judge(0, None, [], "unknown").reason


def test_which_xcode_will_do() -> None:
    assert check_xcode((16, 2), "", 16) is None
    assert "this Mac has 15.4" in str(check_xcode((15, 4), "", 16))
    assert "has none: xcode-select" in str(check_xcode(None, "xcode-select: error", 16))
