"""Clients of the device's small services: apps, diagnostics, crash reports, the doors to an app's own files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import trio

from .wire.plists import encode_message, receive_message
from .wire.streams import Wire, WireBroken, WireClosed

__all__ = [
    "AFC",
    "CRASH_COPY",
    "CRASH_MOVER",
    "DIAGNOSTICS",
    "HOUSE_ARREST",
    "INSTALLATION",
    "SYSLOG",
    "AppRefused",
    "ask",
    "browse",
    "enter_container",
    "install",
    "lookup",
    "move_crash_reports",
    "restart",
    "uninstall",
]

AFC = "com.apple.afc"
CRASH_COPY = "com.apple.crashreportcopymobile"
CRASH_MOVER = "com.apple.crashreportmover"
DIAGNOSTICS = "com.apple.mobile.diagnostics_relay"
HOUSE_ARREST = "com.apple.mobile.house_arrest"
INSTALLATION = "com.apple.mobile.installation_proxy"
SYSLOG = "com.apple.syslog_relay"

ATTRIBUTES = [
    "CFBundleIdentifier",
    "CFBundleDisplayName",
    "CFBundleName",
    "CFBundleShortVersionString",
    "CFBundleVersion",
    "CFBundleExecutable",
    "ApplicationType",
]
MOVED = b"ping\0"


class AppRefused(WireBroken):
    """The device refused something about an app. ``code`` and ``words`` are its own."""

    def __init__(self, code: str, words: str) -> None:
        super().__init__(f"{words} ({code})" if words else code)
        self.code = code
        self.words = words


async def ask(wire: Wire, request: Mapping[str, Any]) -> dict[str, Any]:
    """Send one request to a service and return its one answer. Raises WireBroken."""
    await wire.send(encode_message(dict(request)))
    return await receive_message(wire)


async def browse(wire: Wire, kind: str) -> list[dict[str, Any]]:
    """List apps: ``User``, ``System`` or ``Any``. Raises AppRefused, WireBroken."""
    options = {"ReturnAttributes": ATTRIBUTES, **({} if kind == "Any" else {"ApplicationType": kind})}
    await wire.send(encode_message({"Command": "Browse", "ClientOptions": options}))
    found: list[dict[str, Any]] = []
    while True:
        answer = _checked(await receive_message(wire))
        found += answer.get("CurrentList") or []
        if answer.get("Status") == "Complete":
            return found


async def lookup(wire: Wire, bundle: str) -> dict[str, Any] | None:
    """Return what the device knows of one app; None when it is not installed."""
    options = {"ReturnAttributes": ATTRIBUTES, "BundleIDs": [bundle]}
    await wire.send(encode_message({"Command": "Lookup", "ClientOptions": options}))
    while True:
        answer = _checked(await receive_message(wire))
        if "LookupResult" in answer:
            found = answer["LookupResult"].get(bundle)
            return found if isinstance(found, dict) else None
        if answer.get("Status") == "Complete":
            return None


async def install(wire: Wire, path: str, bundle: str | None) -> None:
    """Install the package at ``path`` of the media folder, and return when it is done. Raises AppRefused."""
    options = {} if bundle is None else {"CFBundleIdentifier": bundle}
    await _complete(wire, {"Command": "Install", "PackagePath": path, "ClientOptions": options})


async def uninstall(wire: Wire, bundle: str) -> None:
    """Remove an app. Raises AppRefused."""
    await _complete(wire, {"Command": "Uninstall", "ApplicationIdentifier": bundle})


async def _complete(wire: Wire, request: Mapping[str, Any]) -> None:
    await wire.send(encode_message(dict(request)))
    while _checked(await receive_message(wire)).get("Status") != "Complete":
        await trio.lowlevel.checkpoint()


def _checked(answer: dict[str, Any]) -> dict[str, Any]:
    if error := answer.get("Error"):
        raise AppRefused(str(error), str(answer.get("ErrorDescription") or ""))
    return answer


async def enter_container(wire: Wire, bundle: str) -> None:
    """Turn a connection of house arrest into AFC on an app's own folder. Raises AppRefused."""
    _checked(await ask(wire, {"Command": "VendContainer", "Identifier": bundle}))


async def move_crash_reports(wire: Wire) -> None:
    """Return when the device has put all crash reports where they can be copied. Raises WireBroken."""
    if await wire.exactly(len(MOVED)) != MOVED:
        raise WireClosed("the device did not say that it has moved its crash reports")


async def restart(wire: Wire) -> None:
    """Ask the device to restart as soon as the connection is closed. Raises WireBroken."""
    answer = await ask(wire, {"Request": "Restart", "WaitForDisconnect": True})
    if answer.get("Status") != "Success":
        raise WireClosed(f"the device does not restart: {answer.get('Status', 'no reason given')}")
