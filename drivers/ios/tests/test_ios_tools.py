"""What tools serve: tests, pictures, starting and stopping of apps, the tunnel. A stub replays their output."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import trio

from anvild.sdk import (
    DeviceLost,
    InvalidArgument,
    NotFound,
    Remedy,
    TestProgress,
    TestRequest,
    TestStatus,
    Unavailable,
)
from anvild_ios.simulator import SimulatedDevice, Simulator
from anvild_ios.simulator.device import KINDS
from anvild_ios.tools import Tool, find_tool
from anvild_ios.xctest import XcTestReader

Bench = Any
DATA = Path(__file__).parent / "data"
RUNNER = "com.example.demo.xctrunner"
REQUEST = TestRequest(target=RUNNER, app="com.example.demo")


class Stub:
    """The stub program and what it was called with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "ios"
        self.path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{DATA / "stub_ios.py"}" "$@"\n')
        self.path.chmod(0o755)
        shutil.copy(DATA / "runtest.txt", folder / "runtest.txt")

    def calls(self, command: str) -> list[list[str]]:
        return [each["argv"] for each in self._calls() if each["argv"][0] == command]

    def pids(self) -> list[int]:
        return [each["pid"] for each in self._calls()]

    def _calls(self) -> list[dict[str, Any]]:
        path = self.folder / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stub:
    folder = tmp_path / "stub"
    folder.mkdir()
    monkeypatch.setenv("STUB_IOS", str(folder))
    return Stub(folder)


def device(version: int) -> SimulatedDevice:
    made = SimulatedDevice("00008110-00A5000000000000", "Simulated iPhone 1", product=KINDS[version])
    made._add("com.example.demo", "Demo", "1.0", system=False)
    made._add(RUNNER, "DemoUITests-Runner", "1.0", system=False)
    return made


@pytest.fixture
async def old(
    start_simulator: Callable[..., AbstractAsyncContextManager[Simulator]],
    make_driver: Callable[..., Any],
    running: Callable[..., Any],
    make_bench: Any,
    stub: Stub,
) -> AsyncIterator[Bench]:
    """A device of iOS 16, and a driver with the stub: no tunnel is needed."""
    async with start_simulator([device(0)]) as simulator:
        driver = make_driver(usbmuxd=simulator.address, tool=str(stub.path))
        async with running(driver) as watched:
            yield make_bench(simulator, driver, watched)


@pytest.fixture
async def new(
    start_simulator: Callable[..., AbstractAsyncContextManager[Simulator]],
    make_driver: Callable[..., Any],
    running: Callable[..., Any],
    make_bench: Any,
    stub: Stub,
) -> AsyncIterator[Bench]:
    """A device of iOS 17, which needs the tunnel."""
    async with start_simulator([device(1)]) as simulator:
        driver = make_driver(usbmuxd=simulator.address, tool=str(stub.path))
        async with running(driver) as watched:
            yield make_bench(simulator, driver, watched)


class Told:
    """What a run of tests reported."""

    def __init__(self) -> None:
        self.all: list[TestProgress] = []

    async def report(self, progress: TestProgress) -> None:
        await trio.lowlevel.checkpoint()
        self.all.append(progress)

    @property
    def statuses(self) -> dict[str, TestStatus]:
        return {each.ended.name: each.ended.status for each in self.all if each.ended is not None}


class TestTests:
    """``runtest`` of go-ios as cases."""

    async def test_cases_are_told_as_they_come(self, old: Bench, stub: Stub) -> None:
        told = Told()
        async with old.session() as session:
            summary = await session.run_tests(REQUEST, told.report)
            assert (summary.complete, summary.cases) == (True, 4)
            assert told.statuses == {
                "testGreets": TestStatus.PASSED,
                "testRefusesWrongPassword": TestStatus.FAILED,
                "testOnlyOnPad": TestStatus.SKIPPED,
                "testRaises": TestStatus.ERROR,
            }
            order = [each.begun or each.ended.name for each in told.all if each.begun or each.ended]
            assert order[:2] == ["LoginTests#testGreets", "testGreets"]
            (failed,) = [each.ended for each in told.all if each.ended and each.ended.status is TestStatus.FAILED]
            assert failed.suite == "LoginTests"
            assert failed.seconds == 2.5
            assert failed.message.startswith("XCTAssertEqual failed")
            assert "LoginTests.swift:31" in failed.trace
            assert "Start Test at" in failed.trace
            assert "Executed 4 tests" in "".join(each.output for each in told.all if each.output)
            (attachment,) = [each.attachment for each in told.all if each.attachment]
            assert attachment.media_type == "image/png"
            async with await session.fetch(attachment.reference) as stream:
                assert (await stream.receive_some()).startswith(b"\x89PNG")
        (call,) = stub.calls("runtest")
        assert f"--test-runner-bundle-id={RUNNER}" in call
        assert "--bundle-id=com.example.demo" in call
        assert "--xctest-config=DemoUITests.xctest" in call

    async def test_tests_are_chosen(self, old: Bench, stub: Stub) -> None:
        request = TestRequest(target=RUNNER, only=("A#one",), skip=("B",), env={"K": "v"}, arguments={"kind": "unit"})
        async with old.session() as session:
            await session.run_tests(request, Told().report)
        (call,) = stub.calls("runtest")
        assert {"--test-to-run=A/one", "--test-to-skip=B", "--env=K=v", "--xctest"} < set(call)

    async def test_a_runner_that_crashes_is_told_with_its_test(self, old: Bench, stub: Stub) -> None:
        shutil.copy(DATA / "runtest_crashed.txt", stub.folder / "runtest.txt")
        (stub.folder / "status").write_text("1")
        told = Told()
        async with old.session() as session:
            summary = await session.run_tests(REQUEST, told.report)
        assert not summary.complete
        assert told.statuses == {"testGreets": TestStatus.PASSED, "testTakesItDown": TestStatus.ERROR}

    async def test_results_without_a_log_are_read(self, old: Bench, stub: Stub) -> None:
        shutil.copy(DATA / "runtest_silent.txt", stub.folder / "runtest.txt")
        told = Told()
        async with old.session() as session:
            assert (await session.run_tests(REQUEST, told.report)).complete
        assert told.statuses == {"testGreets": TestStatus.PASSED, "testStalls": TestStatus.ERROR}

    async def test_a_missing_developer_image_is_said(self, old: Bench, stub: Stub) -> None:
        (stub.folder / "fail").touch()
        async with old.session() as session:
            summary = await session.run_tests(REQUEST, Told().report)
        assert not summary.complete
        assert "ios image auto" in summary.reason

    async def test_what_a_listener_raises_comes_back_as_it_is(self, old: Bench, stub: Stub) -> None:
        async def report(_progress: TestProgress) -> None:
            raise ZeroDivisionError

        async with old.session() as session:
            with pytest.raises(ZeroDivisionError):
                await session.run_tests(REQUEST, report)
        for pid in stub.pids():
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)

    async def test_wrong_requests_are_refused(self, old: Bench) -> None:
        async with old.session() as session:
            with pytest.raises(NotFound, match="stranger"):
                await session.run_tests(TestRequest(target="com.example.stranger"), Told().report)
            with pytest.raises(InvalidArgument, match="colour"):
                await session.run_tests(TestRequest(target=RUNNER, arguments={"colour": "red"}), Told().report)
            with pytest.raises(InvalidArgument, match="runner of tests"):
                await session.run_tests(TestRequest(target="com.example.demo"), Told().report)

    async def test_cancelling_ends_the_tool_and_the_apps(
        self, old: Bench, stub: Stub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("anvild_ios.testing.END_SECONDS", 20.0)  # this machine may be busy
        (stub.folder / "hang").touch()
        begun = trio.Event()

        async def report(progress: TestProgress) -> None:
            await trio.lowlevel.checkpoint()
            if progress.output and "Executed" in progress.output:
                begun.set()

        async with old.session() as session, trio.open_nursery() as nursery:
            nursery.start_soon(session.run_tests, REQUEST, report)
            await begun.wait()
            nursery.cancel_scope.cancel()
        assert {call[1] for call in stub.calls("kill")} == {"com.example.demo", RUNNER}
        for pid in stub.pids():
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)

    async def test_a_device_that_goes_ends_the_tool(self, old: Bench, stub: Stub) -> None:
        (stub.folder / "hang").touch()
        begun = trio.Event()

        async def report(progress: TestProgress) -> None:
            await trio.lowlevel.checkpoint()
            if progress.output and "Executed" in progress.output:
                begun.set()

        async def expect(session: Any) -> None:
            with pytest.raises(DeviceLost):
                await session.run_tests(REQUEST, report)

        async with old.session() as session, trio.open_nursery() as nursery:
            nursery.start_soon(expect, session)
            await begun.wait()
            old.simulator.unplug(old.udid)
        for pid in stub.pids():
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


class TestScreenAndApps:
    """Pictures, and apps that are started and stopped, from iOS 17 on."""

    async def test_a_picture_comes_as_a_stream(self, new: Bench) -> None:
        async with new.session() as session:
            async with await session.screenshot() as stream:
                assert (await stream.receive_some()).startswith(b"\x89PNG")
            assert [path.name for path in session.folder.iterdir()] == []

    async def test_apps_are_started_and_stopped(self, new: Bench, stub: Stub) -> None:
        async with new.session() as session:
            await session.launch_app("com.example.demo", arguments=["-x", "a b"], env={"K": "v"})
            await session.stop_app("com.example.demo")
            with pytest.raises(NotFound):
                await session.launch_app("com.example.stranger")
        (call,) = stub.calls("launch")
        assert call[1:5] == ["com.example.demo", "--kill-existing", "--arg=-x", "--arg=a b"]
        assert stub.calls("kill")[0][1] == "com.example.demo"

    async def test_failures_are_told_in_the_tools_words(self, new: Bench, stub: Stub) -> None:
        (stub.folder / "fail").touch()
        async with new.session() as session:
            with pytest.raises(Unavailable, match=r"go-ios 1\.2\.0 could not start .*Developer Disk Image"):
                await session.launch_app("com.example.demo")
            with pytest.raises(Unavailable, match="Developer Disk Image"):
                await session.screenshot()


class TestTunnel:
    """iOS 17 and later."""

    async def test_one_child_serves_all_commands(self, new: Bench, stub: Stub) -> None:
        async with new.session() as session:
            await session.launch_app("com.example.demo")
            await (await session.screenshot()).aclose()
        (tunnel,) = stub.calls("tunnel")
        (port,) = [each for each in tunnel if each.startswith("--tunnel-info-port=")]
        assert "--userspace" in tunnel
        assert port in stub.calls("launch")[0]
        assert port in stub.calls("screenshot")[0]

    async def test_it_is_restarted_as_a_remedy(self, new: Bench, stub: Stub) -> None:
        async with new.session() as session:
            await session.launch_app("com.example.demo")
            assert Remedy.RESTART_HELPER in await new.driver.remedies(new.udid)
            await new.driver.mend(new.udid, Remedy.RESTART_HELPER)
            assert Remedy.RESTART_HELPER not in await new.driver.remedies(new.udid)
            await session.launch_app("com.example.demo")
        assert len(stub.calls("tunnel")) == 2

    async def test_one_that_died_is_started_again(self, new: Bench, stub: Stub) -> None:
        async with new.session() as session:
            await session.launch_app("com.example.demo")
            tunnel = next(each for each in stub._calls() if each["argv"][0] == "tunnel")
            os.kill(tunnel["pid"], signal.SIGKILL)
            await new.driver._tunnel._ended.wait()
            await session.launch_app("com.example.demo")
        assert len(stub.calls("tunnel")) == 2

    async def test_it_ends_with_the_driver(
        self,
        start_simulator: Callable[..., AbstractAsyncContextManager[Simulator]],
        make_driver: Callable[..., Any],
        running: Callable[..., Any],
        make_bench: Any,
        stub: Stub,
    ) -> None:
        async with start_simulator([device(1)]) as simulator:
            driver = make_driver(usbmuxd=simulator.address, tool=str(stub.path))
            async with running(driver) as watched, make_bench(simulator, driver, watched).session() as session:
                await session.launch_app("com.example.demo")
        for pid in stub.pids():
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


async def test_a_tunnel_that_does_not_start_is_said(new: Bench, stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    (stub.folder / "no_tunnel").touch()
    async with new.session() as session:
        with pytest.raises(Unavailable, match="did not start its tunnel"):
            await session.launch_app("com.example.demo")


class TestFacts:
    """What is declared follows from the tool and from the device."""

    async def test_the_tool_is_named(self, old: Bench) -> None:
        fact = await old.watched.ready(old.udid)
        assert {"app_tests", "screen", "apps"} < set(fact.capabilities)
        assert fact.facts["tests"] == "by go-ios 1.2.0"
        told = await old.driver.describe()
        assert "go-ios 1.2.0" in told.health.reason
        assert told.facts["tool"] == "go-ios 1.2.0"

    async def test_developer_mode_must_be_on(self, old: Bench) -> None:
        old.device.developer_mode = False
        old.driver._roster.look_again(old.udid)
        sighting = await old.watched.until(
            lambda each: "Developer Mode" in each.device.facts.get("developer_services", "")
        )
        assert "app_tests" not in sighting.device.capabilities

    async def test_a_tool_that_is_installed_later_is_found(
        self, start_simulator: Any, make_driver: Any, running: Any, stub: Stub
    ) -> None:
        later = stub.folder / "later"
        async with start_simulator([device(0)]) as simulator:
            driver = make_driver(usbmuxd=simulator.address, tool=str(later))
            async with running(driver) as watched:
                await watched.until(lambda each: "app_tests" not in each.device.capabilities)
                stub.path.rename(later)
                await driver.describe()
                await watched.until(lambda each: "app_tests" in each.device.capabilities)


async def test_the_real_go_ios_is_recognised(go_ios: str) -> None:
    found = await find_tool(go_ios)
    assert found is not None
    assert found.kind == "go-ios"
    assert found.version[0].isdecimal()


async def test_the_real_go_ios_says_what_it_lacks(
    start_simulator: Any, make_driver: Any, running: Any, make_bench: Any, go_ios: str
) -> None:
    """The simulator does not run tests: the real tool's refusal must come through as it is."""
    async with start_simulator([device(0)]) as simulator:
        driver = make_driver(usbmuxd=simulator.address, tool=go_ios)
        async with running(driver) as watched, make_bench(simulator, driver, watched).session() as session:
            told = Told()
            summary = await session.run_tests(REQUEST, told.report)
            assert not summary.complete
            assert "testmanagerd" in summary.reason
            assert told.statuses == {}


async def test_the_real_go_ios_finds_no_tunnel(
    start_simulator: Any,
    make_driver: Any,
    running: Any,
    make_bench: Any,
    go_ios: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The tunnel child is the real one; the simulated device has no end for it."""
    monkeypatch.setattr("anvild_ios.tunnel.DEVICE_SECONDS", 0.5)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    async with start_simulator([device(1)]) as simulator:
        driver = make_driver(usbmuxd=simulator.address, tool=go_ios)
        async with running(driver) as watched, make_bench(simulator, driver, watched).session() as session:
            with pytest.raises(Unavailable, match="tunnel"):
                await session.launch_app("com.example.demo")
            assert driver._tunnel.runs
    assert list((tmp_path / "work").iterdir()) == []
    keys = driver.context.state_dir / "tunnel"
    assert keys.stat().st_mode & 0o077 == 0
    assert [path.name for path in keys.iterdir()] == ["selfIdentity.plist"]


class TestPymobiledevice3:
    """The second tool: its command lines, and its output."""

    tool = Tool("pymobiledevice3", "/opt/pymobiledevice3", "11.45.0")

    def test_commands(self) -> None:
        words = self.tool.launch("com.example.demo", ["a b"], {"K": "v"})
        assert words == ["developer", "dvt", "launch", "--env", "K=v", "com.example.demo 'a b'"]
        assert self.tool.command("UDID", self.tool.stop("x")) == [
            "/opt/pymobiledevice3",
            "--no-color",
            "developer",
            "dvt",
            "pkill",
            "--bundle",
            "x",
            "--udid",
            "UDID",
        ]
        assert self.tool.run_tests(REQUEST, "DemoUITests.xctest")[-1] == RUNNER
        with pytest.raises(InvalidArgument, match="choose"):
            self.tool.run_tests(TestRequest(target=RUNNER, only=("A",)), "x")

    async def test_output(self) -> None:
        told = Told()

        async def attached(_each: object) -> None:
            await trio.lowlevel.checkpoint()

        reader = XcTestReader(told.report, attached)
        for line in (DATA / "xcuitest_pymobiledevice3.txt").read_text().splitlines():
            await reader.line(line)
        await reader.end()
        assert reader.concluded
        assert told.statuses == {"testGreets": TestStatus.PASSED, "testRefusesWrongPassword": TestStatus.FAILED}
