"""USB as real libusb and libudev see it, on a mock bus; and hosts that lack one or the other."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from anvild.sdk import HealthState
from anvild.sdk import usb as room
from anvild.sdk.usb import UsbDevice, list_usb, usb_health, watch_usb

PORTS = Path(__file__).with_name("ports.py")
PHONE = ["1-1", 0x18D1, 0x4EE7, "A0123456789"]
TABLET = ["1-3", 0x05AC, 0x12A8, "00008110001A"]


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """What a process told that watched a mock bus."""
    if shutil.which("umockdev-wrapper") is None:
        pytest.skip("there is no mock USB bus here: apt install umockdev")
    done = subprocess.run(
        ["umockdev-wrapper", sys.executable, str(PORTS)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_libusb_lists_what_is_plugged_in_with_the_kernel_s_serials(told: dict[str, Any]) -> None:
    assert told["everything"] == [PHONE, ["1-2", 0x046D, 0xC31C, None]]
    assert "libusb" in told["health"]


def test_a_phone_comes_and_goes(told: dict[str, Any]) -> None:
    assert told["seen"] == [[PHONE], [PHONE, TABLET], [TABLET], []]


def test_plugging_leaks_nothing(told: dict[str, Any]) -> None:
    assert [(came, gone) for came, gone, _ in told["rounds"]] == [(1, 0)] * len(told["rounds"])
    counts = [files for _, _, files in told["rounds"]]
    assert min(counts[10:]) <= min(counts[:10]), "libusb's own thread may have one open at the moment of counting"
    before, after = told["open"]
    assert after <= before + 1


@pytest.fixture
def no_libusb(monkeypatch: pytest.MonkeyPatch) -> None:
    for backend in ("libusb1", "libusb0", "openusb"):
        monkeypatch.setattr(f"usb.backend.{backend}.get_backend", lambda: None)


@pytest.fixture(params=["no libudev", "no pyudev"])
def no_udev(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    def missing() -> None:
        raise ImportError("No library named udev")

    if request.param == "no pyudev":
        monkeypatch.setattr(room, "pyudev", None)
    else:
        monkeypatch.setattr("pyudev.Context", missing)


def test_health_with_all() -> None:
    assert usb_health().state is HealthState.HEALTHY


@pytest.mark.usefixtures("no_libusb")
def test_health_without_libusb() -> None:
    health = usb_health()
    assert health.state is HealthState.DEGRADED
    assert "install libusb" in health.reason
    assert isinstance(list_usb(), list)


@pytest.mark.usefixtures("no_udev")
def test_health_without_udev() -> None:
    health = usb_health()
    assert health.state is HealthState.DEGRADED
    assert "looked at every" in health.reason


@pytest.mark.usefixtures("no_libusb", "no_udev")
def test_health_without_both_is_a_sentence() -> None:
    health = usb_health()
    assert health.state is HealthState.ABSENT
    assert "install" in health.reason
    assert list_usb() == []


@pytest.mark.usefixtures("no_udev")
async def test_without_udev_the_ports_are_looked_at(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.02  # let the look in its thread end first
    phone = UsbDevice(path="1-1", vendor=1, product=2)
    looks: list[list[UsbDevice]] = [[], [], [phone], [phone], []]
    monkeypatch.setattr(room, "list_usb", lambda _vendors: looks.pop(0) if len(looks) > 1 else looks[0])
    told: list[Sequence[UsbDevice]] = []
    gone = trio.Event()

    async def on_change(devices: Sequence[UsbDevice]) -> None:
        told.append(devices)
        if len(told) == 3:
            gone.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_task, on_change)
        await gone.wait()
        nursery.cancel_scope.cancel()
    assert told == [(), (phone,), ()]


async def watch_task(on_change: Any) -> None:
    await watch_usb(on_change)
