"""App tests on a simulated phone behind the real adb server, with the plug pulled at the worst moment."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import trio

from anvild.core.engine import Actor, Engine
from anvild.core.events import EventLog
from anvild.core.settings import Settings
from anvild.sdk import Apps, Rehearsal
from anvild_android.driver import AndroidDriver
from anvild_android.simulator import TestSpec, build_apk
from tests.daemon import Daemon
from tests.support.wing import Wing, served

pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("adb", "bwrap", "busybox")),
    reason="a simulated phone needs: apt-get install adb bubblewrap busybox-static",
)

PACKAGE = "org.example.notes"
SUITE = f"{PACKAGE}.ListTest"
PHONE = "SIMULATED0001"


def apks(directory: Path, *tests: TestSpec) -> list[str]:
    """Write an app and its tests; return the words that give them to a run."""
    (directory / "app.apk").write_bytes(build_apk(PACKAGE))
    (directory / "tests.apk").write_bytes(build_apk(f"{PACKAGE}.test", target=PACKAGE, instrumentation=tests))
    inputs = [f"--input={name}={directory / name}.apk" for name in ("app", "tests")]
    return [*inputs, "--param", f"package={PACKAGE}", "--param", f"target={PACKAGE}.test"]


def test_the_daemon_is_killed_while_tests_run(daemon_factory: Any, tmp_path: Path) -> None:
    """The attempt goes on: its tests begin again, for they belong together, and the results are whole."""
    daemon: Daemon = daemon_factory(
        "[drivers.microvm]\nenabled = false\n[drivers.sandbox]\nenabled = false\n[drivers.android]\nsimulate = 1\n"
    )
    daemon.bootstrap()
    daemon.start()
    words = apks(
        tmp_path,
        TestSpec(name=f"{PACKAGE}.ListTest#first"),
        TestSpec(name=f"{PACKAGE}.ListTest#slow", seconds=4.0),
        TestSpec(name=f"{PACKAGE}.ListTest#broken", outcome="failed", message="expected 0 but was 1"),
    )
    run = json.loads(daemon.anvil("run", "app-tests", *words, "--no-wait", "--json", check=True).stdout)["run"]["id"]
    _until_tested(daemon, run, "first")
    daemon.kill()
    daemon.start()
    ended = daemon.wait_for(run, timeout=120)["run"]
    assert ended["status"] == "failed"
    logged = [str(event["data"]) for event in daemon.events(run) if event["kind"] == "run.log"]
    assert any("begin again: the daemon was away" in line for line in logged)
    target = tmp_path / "left"
    daemon.anvil("runs", "fetch", run, "--to", str(target), check=True)
    junit = ElementTree.parse(target / "junit.xml").getroot()
    assert junit.get("failures") == "1"
    cases = sorted(case.get("name", "") for case in junit.iter("testcase") if case.get("classname") == SUITE)
    assert cases == ["broken", "first", "slow"], "each is there once"
    assert "expected 0 but was 1" in (target / "ui.log").read_text()


def _until_tested(daemon: Daemon, run: str, name: str) -> None:
    deadline = time.monotonic() + 60
    with daemon.client() as client:
        while time.monotonic() < deadline:
            asked = {"params": {"kind": "run.test", "limit": 50}, "headers": {"Accept": "application/json"}}
            events = client.get("/api/v1/events", **asked).json()["events"]
            if any(event["data"]["test"].endswith(f"#{name}") for event in events):
                return
            time.sleep(0.05)
    raise AssertionError(f"the test {name} did not end\n{daemon.tail()}")


async def test_the_phone_is_unplugged_while_tests_run(tmp_path: Path) -> None:
    """The run ends as lost, and the phone is cleaned when it is back, before anybody else gets it."""
    settings = Settings(data_dir=tmp_path / "data", config_dir=tmp_path / "etc", drivers={"android": {"simulate": 1}})
    async with served(tmp_path / "data", drivers={"android": AndroidDriver}, settings=settings) as wing:
        engine, events = wing.services.get(Engine), wing.services.get(EventLog)
        await engine.driver("android").wait_ready()
        await engine.driver("android").sightings.wait_present(PHONE)
        rehearsal: object = engine.driver("android").driver
        assert isinstance(rehearsal, Rehearsal)
        run = await _submit(wing, tmp_path, TestSpec(name=f"{PACKAGE}.ListTest#never", outcome="hang"))
        async with events.follow(after=0) as followed:
            while (event := await anext(followed)).kind != "run.step" or event.data.get("step") != "ui":
                pass
            await rehearsal.unplug(PHONE)
            with trio.fail_after(60):
                while (await anext(followed)).kind != "run.failed":
                    pass
            ended = await engine.runs.get(run)
            assert (ended.state, ended.reason_code) == ("failed", "device_lost"), ended.reason
            await rehearsal.plug(PHONE)
            with trio.fail_after(60):
                while "unclean" not in (await anext(followed)).data.get("changed", ()):
                    pass
        (device,) = await engine.devices.list()
        assert (device.status, device.unclean, device.quarantine) == ("ready", False, None)
        async with engine.session(device.id, Actor("user:me", wing.first.team_id)) as session:
            assert await session.require(Apps).list_apps() == [], "what the run installed is gone"


async def _submit(wing: Wing, directory: Path, *tests: TestSpec) -> str:
    apks(directory, *tests)
    inputs = {}
    for name in ("app", "tests"):
        content = (directory / f"{name}.apk").read_bytes()
        answer = await wing.owner.post("/uploads", params={"name": f"{name}.apk"}, content=content)
        assert answer.status_code == 201, answer.text
        inputs[name] = answer.json()["upload"]["id"]
    parameters = {"package": PACKAGE, "target": f"{PACKAGE}.test"}
    body = {"pipeline": "app-tests", "metadata": {"inputs": inputs, "parameters": parameters}}
    answer = await wing.owner.post("/runs", json=body)
    assert answer.status_code == 202, answer.text
    run: str = answer.json()["run"]["id"]
    return run
