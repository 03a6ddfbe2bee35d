"""The USB port of a phone: its power as a remedy, where the hub can switch it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from anvild.sdk import CapabilityMissing, Remedy, usb_power
from anvild_android.fleet import Fleet

SERIAL = "SIM0001"


async def test_the_port_of_a_phone_is_switched(phone: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await phone.ready()
    switch = tmp_path / "1-4:1.0" / "1-4-port2" / "disable"
    monkeypatch.setattr(usb_power, "SYSFS", tmp_path)
    monkeypatch.setattr(usb_power, "OFF_SECONDS", 0.0)
    assert Remedy.POWER_CYCLE not in await phone.driver.remedies(SERIAL), "it is at no port"
    with pytest.raises(CapabilityMissing):
        await phone.driver.mend(SERIAL, Remedy.POWER_CYCLE)
    told = Fleet.facts

    def at_a_port(fleet: Fleet) -> Any:
        return {
            identity: msgspec.structs.replace(fact, facts={**fact.facts, "usb_path": "1-4.2"})
            for identity, fact in told(fleet).items()
        }

    monkeypatch.setattr(Fleet, "facts", at_a_port)
    assert Remedy.POWER_CYCLE not in await phone.driver.remedies(SERIAL), "its hub has no switch"
    switch.parent.mkdir(parents=True)
    switch.write_text("0")
    assert Remedy.POWER_CYCLE in await phone.driver.remedies(SERIAL)
    assert "1-4.2 was switched off and on" in await phone.driver.mend(SERIAL, Remedy.POWER_CYCLE)
