"""A session on a device that is paired with a Mac, by ``devicectl``."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import msgspec
import trio

from anvild.sdk import (
    AnvilError,
    App,
    CapabilityMissing,
    DeviceLost,
    InvalidArgument,
    NotFound,
    Power,
    Unavailable,
)

from .apps import HostedApps
from .machine import REACHABLE
from .models import DeviceApp, device_apps, device_processes, paired_devices
from .place import Done, Place, refused
from .shell import SLOT

POLL_SECONDS = 5.0
GONE = (b"not connected", b"No device found", b"unable to locate", b"was not found", b"disconnected")


class PairedSession(HostedApps, Power):
    """Apps and power of a device that is paired with a Mac."""

    async def devicectl(self, what: str, *words: str) -> Done:
        """Run ``devicectl device WORDS`` for the device and return its JSON. Raises an error that begins with
        ``what``."""
        return await devicectl(self.place, self.device.identity, what, *words)

    async def reboot(self) -> None:
        await reboot(self.place, self.device.identity)

    async def install_bundle(self, path: str) -> None:
        try:
            await self.devicectl("the device refuses the app", "install", "app", path)
        except Unavailable as error:
            raise InvalidArgument(error.message) from None

    async def remove_app(self, app: str) -> None:
        await uninstall(self.place, self.device.identity, app)

    async def begin_app(self, app: str, arguments: Sequence[str], env: Mapping[str, str]) -> None:
        variables = ("--environment-variables", msgspec.json.encode(env).decode()) if env else ()
        words = ("process", "launch", "--terminate-existing", *variables, app, *arguments)
        await self.devicectl("the app cannot be started", *words)

    async def end_app(self, app: str) -> None:
        await end_app(self.place, self.device.identity, app)

    async def list_apps(self, *, system: bool = False) -> Sequence[App]:
        found = await apps(self.place, self.device.identity)
        told = [
            App(
                identifier=each.bundle_identifier,
                name=each.name,
                version=each.version or each.bundle_version,
                system=not each.removable,
            )
            for each in found
        ]
        return sorted((app for app in told if system or not app.system), key=lambda app: app.identifier)

    async def clear_app(self, app: str) -> None:
        await self.known(app)
        raise CapabilityMissing(f"devicectl cannot empty the data of {app!r}: uninstall the app and install it again")


async def devicectl(place: Place, identity: str, what: str, *words: str) -> Done:
    """Run a command of ``devicectl device`` and return its JSON. Raises DeviceLost, NotFound, Unavailable."""
    head, rest = words[:2], words[2:]
    options = ("--device", identity, "--json-output", SLOT)
    if words[0] == "reboot":
        head, rest = words[:1], words[1:]
    done = await place.run_into_file(["xcrun", "devicectl", "device", *head, *options, *rest])
    if done.code:
        raise trouble(what, done)
    return done


async def apps(place: Place, identity: str) -> list[DeviceApp]:
    words = ("info", "apps", "--include-all-apps")
    return device_apps((await devicectl(place, identity, "the apps cannot be listed", *words)).out)


async def uninstall(place: Place, identity: str, app: str) -> None:
    await devicectl(place, identity, "the app cannot be removed", "uninstall", "app", app)


async def end_app(place: Place, identity: str, app: str) -> None:
    """End an app; one that does not run, or is not there, is no error."""
    urls = [each.url for each in await apps(place, identity) if each.bundle_identifier == app and each.url]
    what = "the app cannot be ended"
    for each in device_processes((await devicectl(place, identity, what, "info", "processes")).out):
        if any(each.executable.startswith(url) for url in urls):
            with contextlib.suppress(NotFound):  # it has just ended
                pid = str(each.process_identifier)
                await devicectl(place, identity, what, "process", "terminate", "--pid", pid)


async def reboot(place: Place, identity: str) -> None:
    """Restart a device and wait until the Mac reaches it again. Nothing tells when, so the Mac is asked."""
    await devicectl(place, identity, "the device cannot be restarted", "reboot")
    gone = False
    while True:
        there = await reachable(place, identity)
        if there and gone:
            return
        gone = gone or not there
        await trio.sleep(POLL_SECONDS)


async def reachable(place: Place, identity: str) -> bool:
    """Tell whether a Mac reaches a device now."""
    command = ["xcrun", "devicectl", "list", "devices", "--timeout", "10", "--json-output", SLOT]
    done = await place.run_into_file(command)
    return done.code == 0 and any(
        each.hardware_properties.udid == identity and each.connection_properties.tunnel_state in REACHABLE
        for each in paired_devices(done.out)
    )


def trouble(what: str, done: Done) -> AnvilError:
    """Turn a failure of ``devicectl`` into an error of the interface, with its own first line."""
    lines = [line.strip() for line in done.err.decode(errors="replace").splitlines()]
    said = next((line for line in lines if line.startswith("ERROR:")), done.said).removeprefix("ERROR:").strip()
    if any(word in done.err for word in GONE):
        return DeviceLost(f"{what}: {said}")
    error = refused(what, done)
    return type(error)(f"{what}: {said}")
