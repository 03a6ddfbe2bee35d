"""The installation service, and the door to an app's own files."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import trio

from ...wire.plists import encode_message, receive_message
from ...wire.streams import Wire
from ..device import SimulatedDevice
from ..disk import DiskError
from ..packages import Package, PackageRefused, inspect_ipa
from .files import serve_afc

__all__ = ["install_steps", "serve_house_arrest", "serve_installation"]

STEPS = (("CreatingStagingDirectory", 5), ("ExtractingPackage", 15), ("InspectingPackage", 20))
LATER_STEPS = (("PreflightingApplication", 30), ("VerifyingApplication", 40), ("GeneratingApplicationMap", 90))


async def serve_installation(device: SimulatedDevice, wire: Wire) -> None:
    """List, look up, install and remove apps."""
    while True:
        request = await receive_message(wire)
        options = request.get("ClientOptions") or {}
        try:
            match request.get("Command"):
                case "Browse":
                    await _browse(device, options, wire)
                case "Lookup":
                    await _send(wire, {"LookupResult": _lookup(device, options), "Status": "Complete"})
                case "Install" | "Upgrade":
                    await _install(device, str(request.get("PackagePath")), wire)
                case "Uninstall":
                    await _uninstall(device, str(request.get("ApplicationIdentifier")), wire)
                case command:
                    await _send(wire, {"Error": "UnknownCommand", "ErrorDescription": f"there is no {command}"})
        except PackageRefused as error:
            device.log("installd", f"refused: {error.words}")
            await _send(wire, {"Error": error.code, "ErrorDescription": error.words})


async def _browse(device: SimulatedDevice, options: dict[str, Any], wire: Wire) -> None:
    kind = options.get("ApplicationType", "Any")
    wanted = [each for each in device.apps.values() if kind == "Any" or (kind == "System") == each.system]
    for number, app in enumerate(wanted):
        found = [app.described(options.get("ReturnAttributes"))]
        piece = {"CurrentList": found, "CurrentAmount": 1, "CurrentIndex": number, "Total": len(wanted)}
        await _send(wire, {**piece, "Status": "BrowsingApplications"})
    await _send(wire, {"Status": "Complete"})


def _lookup(device: SimulatedDevice, options: dict[str, Any]) -> dict[str, Any]:
    wanted = options.get("BundleIDs")
    attributes = options.get("ReturnAttributes")
    return {
        bundle: app.described(attributes) for bundle, app in device.apps.items() if wanted is None or bundle in wanted
    }


async def install_steps(device: SimulatedDevice, data: bytes | Package) -> AsyncGenerator[tuple[str, int], None]:
    """Install a package, step by step. Raises PackageRefused."""
    for step in STEPS:
        yield step
    if isinstance(data, Package):
        package = data
    else:
        package = await trio.to_thread.run_sync(inspect_ipa, data, device.version)
    if device.install_gate is not None:
        await device.install_gate.wait()
    for step in LATER_STEPS:
        yield step
    device.add_app(package)


async def _install(device: SimulatedDevice, path: str, wire: Wire) -> None:
    try:
        data = bytes(device.media.file(path).data)
    except DiskError:
        raise PackageRefused("PackagePatchFailed", f"there is no package {path}") from None
    async with aclosing(install_steps(device, data)) as steps:
        async for status, percent in steps:
            if not _there(device, path):
                raise PackageRefused("PackageExtractionFailed", "the package was removed while it was installed")
            await _send(wire, {"Status": status, "PercentComplete": percent})
    device.media.remove(path, tree=True)
    await _send(wire, {"Status": "Complete", "PercentComplete": 100})


def _there(device: SimulatedDevice, path: str) -> bool:
    try:
        device.media.find(path)
    except DiskError:
        return False
    return True


async def _uninstall(device: SimulatedDevice, bundle: str, wire: Wire) -> None:
    await _send(wire, {"Status": "RemovingApplication", "PercentComplete": 50})
    if not device.remove_app(bundle):
        known = bundle in device.apps
        code = "UninstallProhibited" if known else "APIInternalError"
        raise PackageRefused(code, f"{bundle} is {'part of the system' if known else 'not installed'}")
    await _send(wire, {"Status": "Complete", "PercentComplete": 100})


async def serve_house_arrest(device: SimulatedDevice, wire: Wire) -> None:
    """Open the files of one app to AFC."""
    request = await receive_message(wire)
    app = device.apps.get(str(request.get("Identifier")))
    if app is None or app.system or request.get("Command") not in ("VendContainer", "VendDocuments"):
        await _send(wire, {"Error": "InstallationLookupFailed"})
        return
    await _send(wire, {"Status": "Complete"})
    await serve_afc(app.container, wire)


async def _send(wire: Wire, value: dict[str, Any]) -> None:
    await wire.send(encode_message(value))
