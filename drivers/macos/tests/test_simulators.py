"""Simulators, and the devices paired with a Mac: apps, tests, screen, log, power, and how they are left."""

from __future__ import annotations

import io
import json
import plistlib
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from anvild.sdk import (
    AlreadyExists,
    App,
    DeviceLost,
    InvalidArgument,
    NotFound,
    TestProgress,
    TestRequest,
    TestStatus,
    Unavailable,
    WrongState,
)
from anvild_macos import paired

PHONE = "iPhone 15"
DEVICE = "Lab Phone"


def package(
    identifier: str | None = "demo.app", *, folder: str = "Payload/Demo.app", extra: tuple[str, ...] = ()
) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        if identifier:
            info = {"CFBundleIdentifier": identifier, "CFBundleName": "Demo", "CFBundleShortVersionString": "1.2"}
            archive.writestr(f"{folder}/Info.plist", plistlib.dumps(info, fmt=plistlib.FMT_BINARY))
        for name in extra:
            archive.writestr(name, "content")
    return data.getvalue()


async def source(data: bytes) -> AsyncIterator[bytes]:
    yield data[:100]
    yield data[100:]


async def install(session: Any, data: bytes, **more: Any) -> App:
    app: App = await session.install_app(source(data), size=len(data), **more)
    return app


def names(folder: Path | str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


async def content(stream: trio.abc.ReceiveStream) -> bytes:
    async with stream:
        return b"".join([chunk async for chunk in stream])


@pytest.fixture(params=[PHONE, DEVICE])
async def device(lab: Any, request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    async with lab.open(request.param) as session:
        yield session


# apps: the same on simulators and on devices


async def test_apps(device: Any, stub: Any) -> None:
    assert await device.list_apps() == []
    app = await install(device, package())
    assert app == App(identifier="demo.app", name="Demo", version="1.2")
    assert [each.identifier for each in await device.list_apps()] == ["demo.app"]
    assert len(await device.list_apps(system=True)) == 2
    with pytest.raises(AlreadyExists):
        await install(device, package(), replace=False)
    await device.launch_app("demo.app", arguments=("-a", "b c"), env={"LEVEL": "$2"})
    (started,) = stub.state["running"][device.device.identity].values()
    assert started["arguments"] == ["-a", "b c"]
    assert list(started["env"].values()) == ["$2"]
    await device.stop_app("demo.app")
    await device.stop_app("demo.app")
    assert stub.state["running"][device.device.identity] == {}
    await device.uninstall_app("demo.app")
    for verb in (device.uninstall_app, device.launch_app, device.stop_app, device.clear_app):
        with pytest.raises(NotFound):
            await verb("demo.app")


REFUSED = {
    "unpacked": b"no zip at all",
    "holds 0 apps": package(None, extra=("readme",)),
    "holds 2 apps": package(extra=("Other.app/Info.plist",)),
    "Info.plist": package(None, extra=("Payload/Demo.app/Demo",)),
    "refuses the app": package("demo.refused"),
}


async def test_packages_that_are_refused(device: Any, stub: Any) -> None:
    for said, data in REFUSED.items():
        with pytest.raises(InvalidArgument, match=said):
            await install(device, data)
    with pytest.raises(InvalidArgument, match="announced"):
        await device.install_app(source(package()), size=5)

    async def stalled() -> AsyncIterator[bytes]:
        yield b"PK"
        scope.cancel()
        await trio.sleep_forever()

    with trio.move_on_after(20) as scope:
        await device.install_app(stalled(), size=100)
    assert scope.cancelled_caught
    assert names(device.scratch) == []


async def test_data_of_an_app(lab: Any, stub: Any) -> None:
    async with lab.open(PHONE) as simulator:
        await install(simulator, package())
        data = stub.home / "containers/demo.app"
        (data / "Documents/deep").mkdir(parents=True)
        (data / "Documents/deep/file").touch()
        (data / "keep").touch()
        await simulator.clear_app("demo.app")
        assert sorted(path.name for path in data.rglob("*")) == ["Documents", "keep"]
    async with lab.open(DEVICE) as phone:
        await install(phone, package())
        await phone.clear_app("demo.app")
        assert len(stub.calls("xcrun", "devicectl", "device", "install")) == 2
        with pytest.raises(WrongState, match="not installed here"):
            await phone.clear_app("com.apple.mobilesafari")
    assert names(phone.folder) == ["apps"], "until the cleaning"


# tests


async def run_tests(session: Any, target: str, **more: Any) -> tuple[Any, list[TestProgress]]:
    told: list[TestProgress] = []

    async def report(progress: TestProgress) -> None:
        told.append(progress)

    return await session.run_tests(TestRequest(target=target, **more), report), told


PRODUCTS = package(None, extra=("Demo.xctestrun", "Debug-iphonesimulator/Demo.app/Info.plist"))


async def test_tests_of_installed_products(device: Any, stub: Any) -> None:
    app = await install(device, PRODUCTS)
    assert app.identifier == "Demo.xctestrun"
    summary, told = await run_tests(device, "Demo.xctestrun", env={"SERVER": "a b"})
    assert (summary.complete, summary.cases, summary.reason) == (True, 6, "6 tests, 2 failed, 1 skipped")
    output = "".join(each.output or "" for each in told)
    assert output.startswith("Command line invocation:")
    assert output.endswith("** TEST EXECUTE FAILED **\n\n")
    ended = [each.ended for each in told if each.ended]
    assert [case.name for case in ended] == [
        *("testGoodPassword", "testWrongPassword", "testLater", "testKnownBug", "testCrash", "adds")
    ], "each case once: four from the output, the crashed one and the one of Swift Testing from the results"
    assert [case.status for case in ended if case.name in ("testWrongPassword", "testCrash")] == [
        *(TestStatus.FAILED, TestStatus.ERROR)
    ]
    begun = [each.begun for each in told if each.begun]
    assert "DemoTests/LoginTests#testCrash" in begun
    assert told.index(next(each for each in told if each.begun)) < told.index(next(each for each in told if each.ended))
    files = {each.attachment.name: each.attachment for each in told if each.attachment}
    assert list(files) == ["Screenshot_0_9C1D.png", "notes_0_2F3A.txt", "results.xcresult.zip"]
    assert await content(await device.fetch(files["notes_0_2F3A.txt"].reference)) == b"some notes"
    packed = io.BytesIO(await content(await device.fetch(files["results.xcresult.zip"].reference)))
    with zipfile.ZipFile(packed) as archive:
        assert any(name.endswith(".xcresult/Info.plist") for name in archive.namelist())
    assert json.loads((stub.home / "environment").read_text())["TEST_RUNNER_SERVER"] == "a b"
    (call,) = [each for each in stub.calls("xcodebuild") if "-destination" in each]
    assert f"id={device.device.identity}" in call


async def test_tests_of_a_project_on_the_mac(lab: Any, stub: Any, tmp_path: Path) -> None:
    (tmp_path / "Demo.xcodeproj").mkdir()
    async with lab.open("mini") as mac:
        summary, _ = await run_tests(mac, f"{tmp_path}/Demo.xcodeproj#Smoke")
        assert summary.complete
    assert "platform=macOS" in stub.calls("xcodebuild", "test")[0]


async def test_tests_that_cannot_begin(lab: Any, tmp_path: Path) -> None:
    (tmp_path / "Broken.xctestrun").touch()
    async with lab.open(PHONE) as session:
        summary, told = await run_tests(session, f"{tmp_path}/Broken.xctestrun")
        assert not summary.complete
        assert "Unable to find a destination" in summary.reason
        assert [each for each in told if each.ended] == []
        for target in ("none.xctestrun", "/none.xctestrun"):
            with pytest.raises(NotFound, match="install the zip"):
                await run_tests(session, target)
        for target in ("../../x.xctestrun", "/etc/passwd"):
            with pytest.raises(InvalidArgument):
                await run_tests(session, target)


async def test_cancelled_tests_end_on_the_mac(lab: Any, stub: Any, gone: Any, tmp_path: Path) -> None:
    (tmp_path / "Hang.xctestrun").touch()
    async with lab.open(PHONE) as session:
        with trio.move_on_after(20) as scope:

            async def report(progress: TestProgress) -> None:
                if progress.begun == "DemoTests/LoginTests#testWrongPassword":
                    scope.cancel()
                await trio.lowlevel.checkpoint()

            await session.run_tests(TestRequest(target=f"{tmp_path}/Hang.xctestrun"), report)
        assert scope.cancelled_caught
        started = int((stub.home / "hanging").read_text())
        assert await trio.to_thread.run_sync(gone, started)


@pytest.mark.parametrize(("version", "said"), [("15.4", "this Mac has 15.4"), ("none", "requires Xcode")])
async def test_a_mac_without_a_new_xcode(running: Any, make_driver: Any, stub: Any, version: str, said: str) -> None:
    stub.set(xcode=version)
    driver = make_driver()
    await driver.start()
    seen: list[Any] = []
    done = trio.Event()

    async def report(sighting: Any) -> None:
        seen.append(sighting.device)
        done.set()
        await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(driver.watch, report)
        await done.wait()
        mac = seen[0]
        assert "app_tests" not in mac.capabilities
        assert said in mac.reason
        async with driver.open(mac, None) as session:
            assert not hasattr(session, "run_tests")
        nursery.cancel_scope.cancel()


# screen, log, power


async def test_the_screen_of_a_simulator(lab: Any) -> None:
    async with lab.open(PHONE) as simulator:
        assert (await content(await simulator.screenshot())).startswith(b"\x89PNG")
        await simulator.start_recording()
        (part,) = await simulator.stop_recording()
        assert (part.name, part.media_type) == ("screen.mp4", "video/mp4")
        assert len(await content(await simulator.fetch(part.reference))) == 5000


async def test_the_log_of_a_simulator(lab: Any) -> None:
    async with lab.open(PHONE) as simulator:
        mark = await simulator.log_mark()
        assert (await content(await simulator.logs(since=mark))).startswith(b"a new line since @")
        with pytest.raises(InvalidArgument, match="before the last start"):
            await simulator.logs(since=f"{simulator.device.identity}@1000")


async def test_restarts(device: Any, stub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paired, "POLL_SECONDS", 0.0)
    await device.reboot()
    identity = device.device.identity
    if device.device.facts["kind"] == "simulator":
        assert len(stub.calls("xcrun", "simctl", "boot", identity)) == 2
    else:
        assert len(stub.calls("xcrun", "devicectl", "device", "reboot")) == 1


async def test_a_simulator_that_somebody_shuts(lab: Any, stub: Any) -> None:
    async with lab.open(PHONE) as simulator:
        stub.change(booted=[])
        with pytest.raises(DeviceLost, match="shut down from elsewhere"):
            await simulator.screenshot()


async def test_a_device_that_has_gone(lab: Any, stub: Any) -> None:
    async with lab.open(DEVICE) as phone:
        stub.set(phone="away")
        with pytest.raises(DeviceLost, match="was not found"):
            await phone.list_apps()
    for name, said in (("Lab Vision", "cannot reach it"), ("iPhone 8", "runtime profile not found")):
        with pytest.raises(Unavailable, match=said):
            async with lab.open(name):
                pass
