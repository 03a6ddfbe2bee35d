"""The simulator as third parties' clients see it: libimobiledevice's programs and go-ios."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import trio

from anvild_ios.simulator import SimulatedDevice, Simulator, make_devices
from anvild_ios.usbmux import MuxAddress, Usbmux

Tool = Callable[[str], str]
Run = Callable[..., Any]
Start = Callable[..., AbstractAsyncContextManager[Simulator]]


@pytest.fixture(params=[True, False], ids=["tls", "clear"])
async def one(request: pytest.FixtureRequest, start_simulator: Start) -> Any:
    device = SimulatedDevice("00008110-00A5000000000000", "Simulated iPhone 1", tls=request.param)
    async with start_simulator([device]) as simulator:
        yield simulator


def device_of(simulator: Simulator) -> SimulatedDevice:
    return next(iter(simulator.devices.values()))


async def test_devices_are_listed(simulator: Simulator, tool: Tool, run_program: Run) -> None:
    done = await run_program(simulator, tool("idevice_id"), "-l")
    assert done.stdout.decode().split() == list(simulator.devices)
    simulator.unplug(next(iter(simulator.devices)))
    done = await run_program(simulator, tool("idevice_id"), "-l")
    assert done.stdout.decode().split() == list(simulator.devices)[1:]


async def test_a_unix_socket_serves_as_well(
    start_simulator: Start, tool: Tool, run_program: Run, tmp_path: Path
) -> None:
    path = tmp_path / "mux"
    async with start_simulator(make_devices(1), str(path)) as simulator:
        done = await run_program(simulator, tool("idevice_id"), "-l")
        assert done.stdout.decode().split() == list(simulator.devices)
    assert not path.exists()


async def test_a_device_tells_what_it_is(one: Simulator, tool: Tool, run_program: Run) -> None:
    told = (await run_program(one, tool("ideviceinfo"))).stdout.decode()
    assert "ProductType: iPhone12,1" in told
    assert "ProductVersion: 16.7.10" in told
    battery = (await run_program(one, tool("ideviceinfo"), "-q", "com.apple.mobile.battery")).stdout.decode()
    assert "BatteryCurrentCapacity: 85" in battery


async def test_apps_are_listed_installed_and_removed(
    one: Simulator, tool: Tool, run_program: Run, make_ipa: Callable[..., bytes], tmp_path: Path
) -> None:
    installer = tool("ideviceinstaller")
    path = tmp_path / "demo.ipa"
    path.write_bytes(make_ipa())
    assert b"com.example.notes" in (await run_program(one, installer, "-l")).stdout
    await run_program(one, installer, "-i", str(path))
    assert "com.example.demo" in device_of(one).apps
    assert b"com.example.demo" in (await run_program(one, installer, "-l")).stdout
    await run_program(one, installer, "-U", "com.example.demo")
    assert "com.example.demo" not in device_of(one).apps


async def test_a_package_without_signature_is_refused(
    one: Simulator, tool: Tool, run_program: Run, make_ipa: Callable[..., bytes], tmp_path: Path
) -> None:
    path = tmp_path / "unsigned.ipa"
    path.write_bytes(make_ipa(without="Payload/Demo.app/_CodeSignature/CodeResources"))
    done = await run_program(one, tool("ideviceinstaller"), "-i", str(path), check=False)
    assert b"ApplicationVerificationFailed" in done.stdout + done.stderr
    assert "com.example.demo" not in device_of(one).apps


async def test_the_log_is_sent_as_it_is_written(one: Simulator, tool: Tool, run_program: Run) -> None:
    program = tool("idevicesyslog")
    device = device_of(one)
    seen = bytearray()
    environment = {"USBMUXD_SOCKET_ADDRESS": one.address}
    async with trio.open_nursery() as nursery:
        process = await trio.lowlevel.open_process([program, "--no-colors"], env=environment, stdout=-1, stdin=-3)
        assert process.stdout is not None
        with trio.fail_after(60):
            async for chunk in process.stdout:
                seen += chunk
                if b"boot 1" in seen and b"a line of now" not in seen:
                    device.log("demo", "a line of now")
                if b"a line of now" in seen:
                    break
        process.terminate()
        await process.wait()
        await process.stdout.aclose()
        nursery.cancel_scope.cancel()


async def test_crash_reports_are_copied(one: Simulator, tool: Tool, run_program: Run, tmp_path: Path) -> None:
    name = device_of(one).crash("demo").strip("/")
    await run_program(one, tool("idevicecrashreport"), "-k", str(tmp_path))
    assert '"procName":"demo"' in (tmp_path / name).read_text()


async def test_a_restart_takes_it_off_the_cable_and_back(one: Simulator, tool: Tool, run_program: Run) -> None:
    device = device_of(one)
    async with Usbmux(MuxAddress.parse(one.address)).listen() as events:
        await run_program(one, tool("idevicediagnostics"), "restart")
        with trio.fail_after(60):
            kinds = [(await anext(events)).kind for _ in range(3)]
    assert kinds == ["attached", "detached", "attached"]
    assert device.boots == 2
    assert b"ProductType" in (await run_program(one, tool("ideviceinfo"))).stdout


async def test_a_stranger_is_not_trusted(one: Simulator, tool: Tool, run_program: Run) -> None:
    device = device_of(one)
    device.trusted = False
    done = await run_program(one, tool("idevicepair"), "validate", check=False)
    assert done.returncode != 0
    one.trust(device.udid)
    assert b"SUCCESS" in (await run_program(one, tool("idevicepair"), "validate")).stdout


class TestGoIos:
    """The same through go-ios, which shares no code with libimobiledevice."""

    async def test_lists_and_asks(self, one: Simulator, go_ios: str, run_program: Run) -> None:
        listed = json.loads((await run_program(one, go_ios, "list", "--details")).stdout)
        assert [each["Udid"] for each in listed["deviceList"]] == list(one.devices)
        told = json.loads((await run_program(one, go_ios, "info")).stdout)
        assert told["ProductVersion"] == "16.7.10"

    async def test_installs_and_lists(
        self, one: Simulator, go_ios: str, run_program: Run, make_ipa: Callable[..., bytes], tmp_path: Path
    ) -> None:
        path = tmp_path / "demo.ipa"
        path.write_bytes(make_ipa())
        await run_program(one, go_ios, "install", f"--path={path}")
        listed = json.loads((await run_program(one, go_ios, "apps")).stdout)
        assert {"com.example.demo", "com.example.notes"} == {each["CFBundleIdentifier"] for each in listed}
        await run_program(one, go_ios, "uninstall", "com.example.demo")
        assert "com.example.demo" not in device_of(one).apps

    async def test_a_bad_package_fails(
        self, one: Simulator, go_ios: str, run_program: Run, make_ipa: Callable[..., bytes], tmp_path: Path
    ) -> None:
        path = tmp_path / "unsigned.ipa"
        path.write_bytes(make_ipa(without="Payload/Demo.app/_CodeSignature/CodeResources"))
        done = await run_program(one, go_ios, "install", f"--path={path}", check=False)
        assert done.returncode == 1
        assert b"ApplicationVerificationFailed" in done.stderr or b"not properly signed" in done.stderr

    async def test_copies_crash_reports(self, one: Simulator, go_ios: str, run_program: Run, tmp_path: Path) -> None:
        name = device_of(one).crash("demo").strip("/")
        await run_program(one, go_ios, "crash", "cp", "*", str(tmp_path))
        assert (tmp_path / name).exists()

    async def test_starts_and_stops_apps(self, one: Simulator, go_ios: str, run_program: Run) -> None:
        await run_program(one, go_ios, "launch", "com.example.notes")
        assert "com.example.notes" in device_of(one).running
        listed = json.loads((await run_program(one, go_ios, "ps")).stdout)
        assert [each["Name"] for each in listed] == ["Notes"]
        await run_program(one, go_ios, "kill", "com.example.notes")
        assert device_of(one).running == {}
        assert (await run_program(one, go_ios, "launch", "com.example.stranger", check=False)).returncode == 1

    async def test_takes_pictures(self, one: Simulator, go_ios: str, run_program: Run, tmp_path: Path) -> None:
        await run_program(one, go_ios, "screenshot", f"--output={tmp_path / 'screen.png'}")
        assert (tmp_path / "screen.png").read_bytes().startswith(b"\x89PNG")

    async def test_pulls_and_pushes_files(self, one: Simulator, go_ios: str, run_program: Run, tmp_path: Path) -> None:
        source = tmp_path / "source.bin"
        source.write_bytes(bytes(range(256)) * 5000)
        await run_program(one, go_ios, "fsync", "push", f"--srcPath={source}", "--dstPath=/Downloads/there.bin")
        assert bytes(device_of(one).media.file("/Downloads/there.bin").data) == source.read_bytes()
        target = tmp_path / "back"
        await run_program(one, go_ios, "fsync", "pull", "--srcPath=/Downloads/there.bin", f"--dstPath={target}")
        (back,) = [path for path in [target, *target.rglob("*")] if path.is_file()]
        assert back.read_bytes() == source.read_bytes()
