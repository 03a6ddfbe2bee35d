"""What is read from a device about itself."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping

import msgspec
import trio

from anvild.sdk import DriverFault

from .link import Link

__all__ = [
    "Battery",
    "Properties",
    "describe_properties",
    "parse_battery",
    "parse_properties",
    "read_properties",
    "watch_battery",
]

PROBE_SECONDS = 20.0
REPORT_BATTERY = "while :; do dumpsys battery; echo =====; sleep 60; done"
END_OF_REPORT = b"=====\n"
REPORT_LIMIT = 65536
_PROPERTY = re.compile(r"^\[([^\]]+)\]: \[(.*?)\]$", re.MULTILINE | re.DOTALL)
_BATTERY = re.compile(r"^\s*(level|scale|temperature|present):\s*(\S+)\s*$", re.MULTILINE)


class Properties(msgspec.Struct, frozen=True):
    """What a device says of itself when it appears, and what stays until it restarts."""

    serial: str
    model: str | None = None
    version: str | None = None
    facts: dict[str, str] = {}


class Battery(msgspec.Struct, frozen=True):
    """Charge in percent and temperature in degrees Celsius, coarse: in steps of 5 and of 1."""

    percent: int | None = None
    celsius: int | None = None

    def facts(self) -> dict[str, str]:
        """The facts, as the interface names them."""
        told: dict[str, str] = {}
        if self.percent is not None:
            told["battery_percent"] = str(self.percent)
        if self.celsius is not None:
            told["temperature_celsius"] = f"{self.celsius:.1f}"
        return told


def parse_properties(text: str) -> dict[str, str]:
    """Parse the output of ``getprop``, whose values may have several lines."""
    return dict(_PROPERTY.findall(text.replace("\r\n", "\n")))


def describe_properties(found: Mapping[str, str]) -> Properties:
    """Pick out what is of interest. Raises DriverFault for a device without a serial number."""
    serial = found.get("ro.serialno") or found.get("ro.boot.serialno")
    if not serial:
        raise DriverFault("the device has no ro.serialno, and cannot be told from others")
    facts = {
        "sdk": found.get("ro.build.version.sdk", ""),
        "build": found.get("ro.build.display.id") or found.get("ro.build.id", ""),
        "abi": found.get("ro.product.cpu.abi", ""),
        "manufacturer": found.get("ro.product.manufacturer", ""),
    }
    return Properties(
        serial=serial[:200],
        model=(found.get("ro.product.model") or "")[:120] or None,
        version=(found.get("ro.build.version.release") or "")[:120] or None,
        facts={name: value[:120] for name, value in facts.items() if value},
    )


def parse_battery(text: str) -> Battery:
    """Parse the output of ``dumpsys battery``: charge as a part of its scale, temperature in tenths."""
    found = dict(_BATTERY.findall(text))
    if found.get("present") == "false":
        return Battery()
    percent = celsius = None
    level, scale, tenths = (_number(found.get(name)) for name in ("level", "scale", "temperature"))
    if level is not None and (scale is None or scale > 0):
        percent = min(max(round(100 * level / (scale or 100) / 5) * 5, 0), 100)
    if tenths is not None:
        celsius = round(tenths / 10)
    return Battery(percent, celsius)


def _number(text: str | None) -> int | None:
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


async def read_properties(link: Link) -> Properties:
    """Ask a device what it is. Raises DriverFault, DeviceLost, Unavailable, DeadlineExceeded."""
    return describe_properties(parse_properties((await link.shell("getprop", seconds=PROBE_SECONDS)).text))


async def watch_battery(link: Link) -> AsyncGenerator[Battery, None]:
    """Report a device's charge and temperature at once and then every minute, until the device goes. A device that
    cannot say has neither. Raises DeviceLost, Unavailable."""
    shell = await link.start(REPORT_BATTERY)
    try:
        said = b""
        while (received := await shell.receive()) is not None:
            *reports, said = (said + received[1]).split(END_OF_REPORT)
            said = said[-REPORT_LIMIT:]
            for report in reports:
                yield parse_battery(report.decode("utf-8", "replace"))
    finally:
        with trio.CancelScope(shield=True):  # closing a socket does not wait
            await shell.aclose()
