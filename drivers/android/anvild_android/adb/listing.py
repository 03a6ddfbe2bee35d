"""The list of devices as the adb server tells it: ``host:devices-l`` and ``host:track-devices-l``."""

from __future__ import annotations

import re

import msgspec

__all__ = ["Listed", "parse_devices"]

_LINE = re.compile(r"^(\(no serial number\)|\S+)\s+(no permissions.*?|\S+)((?:\s+\w+:\S+)*)\s*$")
NO_SERIAL = ("(no serial number)", "????????????")
NETWORK = re.compile(r"^\S+:\d+$|\._adb(-tls-connect)?\._tcp")


class Listed(msgspec.Struct, frozen=True):
    """One transport of the adb server. ``number`` is its transport id, which no later transport has."""

    serial: str
    state: str
    number: int
    usb_path: str | None = None
    model: str | None = None

    @property
    def network(self) -> bool:
        """Whether the serial is an address, and no serial."""
        return NETWORK.search(self.serial) is not None

    @property
    def named(self) -> bool:
        """Whether the adb server could read a serial."""
        return self.serial not in NO_SERIAL


def parse_devices(text: str) -> list[Listed]:
    """Parse the long form of the list; a line in a form that nobody knows is left out."""
    found = []
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        serial, state, rest = match.groups()
        words = dict(word.split(":", 1) for word in rest.split())
        number = words.get("transport_id", "")
        if not number.isascii() or not number.isdigit():
            continue
        model = words.get("model")
        found.append(
            Listed(
                serial=serial,
                state="no permissions" if state.startswith("no permissions") else state,
                number=int(number),
                usb_path=words.get("usb"),
                model=model.replace("_", " ") if model else None,
            )
        )
    return found
