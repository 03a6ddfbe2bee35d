"""What people type: names instead of ids, NAME=VALUE."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .api import Api
from .exits import ExitCode, Failure
from .wire import Device, read_all

__all__ = ["device_id", "pairs"]

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


async def device_id(api: Api, text: str) -> str:
    """Return the id of the device that ``text`` names: an id as it is, else the one device of that name."""
    if UUID.fullmatch(text):
        return text
    found = [device.id for device in read_all(await api.get("/devices"), "devices", Device) if device.name == text]
    if not found:
        raise Failure(ExitCode.NOT_FOUND, "not_found", f"there is no device {text!r}; see anvil devices")
    if len(found) > 1:
        raise Failure(
            ExitCode.USAGE, "ambiguous", f"{len(found)} devices are called {text!r}; use an id: {', '.join(found)}"
        )
    return found[0]


def pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    """Read the NAME=VALUE texts of a repeatable option."""
    for text in texts:
        if not text.partition("=")[1] or text.startswith("="):
            raise Failure(ExitCode.USAGE, "invalid_pair", f"{option} takes NAME=VALUE, not {text!r}")
    return dict(text.split("=", 1) for text in texts)
