"""What a device says of itself, as a fact of the interface: what it is, whether it can be used, what it can do here."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trio

from anvild.sdk import (
    Apps,
    AppTests,
    Attachments,
    CrashReports,
    DeviceFact,
    DeviceStatus,
    Files,
    Logs,
    Power,
    Screen,
)

from .instruments import INSTRUMENTS
from .link import Plugging, advice
from .lockdown import Lockdown, LockdownRefused, PairRecord, open_lockdown
from .tools import Tool
from .usbmux import Usbmux

__all__ = ["DEVELOPER", "NATIVE", "TESTS", "Inspector", "needs_tunnel", "sysfs_port", "version_of"]

PLATFORM = "ios"
NATIVE = tuple(each.capability for each in (Files, Logs, CrashReports, Attachments, Power))
"""What the driver does itself on every device."""

DEVELOPER = tuple(each.capability for each in (Apps, Screen))
"""What needs the device's developer services: over the cable before iOS 17, by a tool from then on. Of the apps that
is starting and stopping; who declares apps must do that too."""

TESTS = (AppTests.capability,)
"""What always needs a tool."""
BATTERY = "com.apple.mobile.battery"
DEVELOPER_MODE = "com.apple.security.mac.amfi"
BATTERY_STEP = 5
MAX_TEXT = 120
TUNNEL_FROM = (17, 0)
TUNNEL_WITHOUT_ROOT_FROM = (17, 4)
NO_IMAGE = "a developer image must be mounted: ios image auto"


class Inspector:
    """Looks at devices. ``tool`` serves what the driver does not do itself; ``missing`` says why there is none."""

    def __init__(self, mux: Usbmux) -> None:
        self._mux = mux
        self.tool: Tool | None = None
        self.missing = ""

    async def look(self, plugging: Plugging) -> DeviceFact:
        """Ask a device. Raises WireBroken when it does not answer."""
        device = plugging.device
        port = await trio.to_thread.run_sync(sysfs_port, device.udid)
        if plugging.pair is None:
            record = await self._mux.pair_record(device.udid)
            plugging.pair = None if record is None else PairRecord(record)
        async with open_lockdown(self._mux, device.number) as lockdown:
            try:
                known = await _domain(lockdown, None)
                if plugging.pair is None:
                    return self._waiting(device.udid, known, port, "InvalidHostID")
                await lockdown.start_session(plugging.pair)
                known = await _domain(lockdown, None)
                battery = await _domain(lockdown, BATTERY)
                developer = await _domain(lockdown, DEVELOPER_MODE)
                wanting = await self._wanting(lockdown, plugging, known, developer)
            except LockdownRefused as error:
                plugging.pair = None  # the next look asks for the keys again: they may be new ones
                return self._waiting(device.udid, known, port, error.code)
        return self._ready(device.udid, known, battery, wanting, port)

    def _waiting(self, udid: str, known: Mapping[str, Any], port: str | None, code: str) -> DeviceFact:
        """A device that a person must do something with."""
        reason = advice(code)
        if code == "InvalidHostID":
            reason = "it does not trust this host: unlock it and tap Trust on its screen"
        return self._fact(udid, known, {}, port, status=DeviceStatus.OFFLINE, reason=reason)

    def _ready(
        self,
        udid: str,
        known: Mapping[str, Any],
        battery: Mapping[str, Any],
        wanting: str | None,
        port: str | None,
    ) -> DeviceFact:
        facts: dict[str, str] = {}
        level = battery.get("BatteryCurrentCapacity")
        if isinstance(level, int):
            facts["battery_percent"] = str(round(level / BATTERY_STEP) * BATTERY_STEP)
        native = not needs_tunnel(str(known.get("ProductVersion", "")))
        capabilities = NATIVE
        if wanting is None:
            facts["developer_services"] = "over the cable" if native else f"by {self.tool}"
            capabilities = (*NATIVE, *DEVELOPER, *(TESTS if self.tool is not None else ()))
        else:
            facts["developer_services"] = wanting
        facts["tests"] = self.missing if self.tool is None else f"by {self.tool}"
        return self._fact(udid, known, facts, port, status=DeviceStatus.READY, capabilities=capabilities)

    async def _wanting(
        self, lockdown: Lockdown, plugging: Plugging, known: Mapping[str, Any], developer: Mapping[str, Any]
    ) -> str | None:
        """Say what is in the way of the developer services; None when nothing is known to be."""
        if developer.get("DeveloperModeStatus") is False:
            return "turn on Developer Mode on the device: Settings, Privacy & Security"
        version = version_of(str(known.get("ProductVersion", "")))
        if version < TUNNEL_FROM:
            plugging.developer = plugging.developer or await lockdown.offers(INSTRUMENTS)
            return None if plugging.developer else NO_IMAGE
        if self.tool is None:
            return self.missing
        if version < TUNNEL_WITHOUT_ROOT_FROM and os.geteuid() != 0:
            return "iOS 17.0 to 17.3 needs a tunnel that is started by root: update the device to 17.4 or later"
        return None

    def _fact(
        self,
        udid: str,
        known: Mapping[str, Any],
        more: Mapping[str, str],
        port: str | None,
        *,
        status: DeviceStatus,
        capabilities: tuple[str, ...] = (),
        reason: str | None = None,
    ) -> DeviceFact:
        names = {
            "device_class": "DeviceClass",
            "product_type": "ProductType",
            "hardware": "HardwareModel",
            "build": "BuildVersion",
        }
        facts = {name: str(known[key]) for name, key in names.items() if known.get(key)}
        if port is not None:
            facts["usb_path"] = port
        name = str(known.get("DeviceName") or udid)[:MAX_TEXT]
        return DeviceFact(
            identity=udid,
            platform=PLATFORM,
            name=name,
            status=status,
            model=_text(known.get("ProductType")),
            firmware_version=_text(known.get("ProductVersion")),
            capabilities=capabilities,
            facts={**facts, **more},
            reason=reason,
        )


def version_of(text: str) -> tuple[int, ...]:
    """A system's version as numbers."""
    return tuple(int(each) for each in re.findall(r"\d+", text))


def needs_tunnel(version: str | None) -> bool:
    """Whether the developer services of this version are reached through a tunnel alone."""
    return version_of(version or "") >= TUNNEL_FROM


def sysfs_port(udid: str, root: Path = Path("/sys/bus/usb/devices")) -> str | None:
    """Return the port that a device is plugged into, as the kernel names it; None where that cannot be told. Blocks."""
    serial = udid.replace("-", "").lower()
    for path in root.glob("*/serial"):
        try:
            if path.read_text().strip().replace("-", "").lower() == serial:
                return path.parent.name
        except OSError:  # pulled off while we look
            continue
    return None


def _text(value: Any) -> str | None:
    return None if value is None else str(value)[:MAX_TEXT]


async def _domain(lockdown: Lockdown, name: str | None) -> Mapping[str, Any]:
    """All values of a domain; none where the device has no such domain."""
    try:
        found = await lockdown.value(name)
    except LockdownRefused as error:
        if name is None or error.code in ("PasswordProtected", "InvalidHostID", "SessionInactive"):
            raise
        return {}
    return found if isinstance(found, dict) else {}
