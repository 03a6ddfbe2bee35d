"""Switching the power of USB ports, on folders of the kernel's form."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from anvild.sdk import Unavailable, usb_power


@pytest.fixture
def switches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    monkeypatch.setattr(usb_power, "SYSFS", tmp_path)
    found = {"1-4.2": tmp_path / "1-4:1.0/1-4-port2/disable", "3-1": tmp_path / "3-0:1.0/usb3-port1/disable"}
    for switch in found.values():
        switch.parent.mkdir(parents=True)
        switch.write_text("0")
    return found


@pytest.mark.parametrize("path", ["1-4.2", "3-1"])
async def test_a_port_goes_off_and_on(
    switches: dict[str, Path], path: str, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert usb_power.can_power_cycle(path)
    written: list[tuple[Path, str]] = []
    monkeypatch.setattr(usb_power, "_write", lambda switch, value: written.append((switch, value)))
    began = trio.current_time()
    await usb_power.power_cycle(path)
    assert trio.current_time() - began >= usb_power.OFF_SECONDS
    assert written == [(switches[path], "1"), (switches[path], "0")]


async def test_a_cancelled_cycle_leaves_the_port_on(switches: dict[str, Path]) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(usb_power.power_cycle, "3-1")
        while switches["3-1"].read_text() != "1":
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert switches["3-1"].read_text() == "0"


async def test_a_port_without_a_switch_says_so(switches: dict[str, Path]) -> None:
    assert not usb_power.can_power_cycle("7-7")
    with pytest.raises(Unavailable, match="no switch"):
        await usb_power.power_cycle("7-7")
    assert not (usb_power.SYSFS / "7-0:1.0").exists()
