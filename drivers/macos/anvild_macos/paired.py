"""A session on a device that is paired with a Mac, by ``devicectl``."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import msgspec
import trio

from anvild.sdk import (
    AnvilError,
    App,
    DeviceLost,
    InvalidArgument,
    NotFound,
    Power,
    Unavailable,
    WrongState,
)

from .app_tests import EXISTS
from .apps import HostedApps
from .machine import REACHABLE
from .models import DeviceApp, device_apps, device_processes, paired_devices
from .place import Done, Place, refused
from .shell import SLOT, script

POLL_SECONDS = 5.0
LEAVE_SECONDS = 60.0
KEEP = 'mkdir -p -- "${2%/*}" && rm -rf -- "$2" && mv -- "$1" "$2"'
GONE = (b"not connected", b"No device found", b"unable to locate", b"was not found", b"disconnected")


class PairedSession(HostedApps, Power):
    """Apps and power of a device that is paired with a Mac."""

    async def devicectl(self, what: str, *words: str) -> Done:
        """Run ``devicectl device WORDS`` for the device and return its JSON. Raises an error that begins with
        ``what``."""
        return await devicectl(self.place, self.device.identity, what, *words)

    async def reboot(self) -> None:
        await reboot(self.place, self.device.identity)

    async def install_bundle(self, path: str, app: str) -> None:
        """Install an app, and keep it on the Mac until the cleaning for :meth:`clear_app`."""
        try:
            await self.devicectl("the device refuses the app", "install", "app", path)
        except Unavailable as error:
            raise InvalidArgument(error.message) from None
        if path != self._kept(app):
            await self.demand(script(KEEP, path, self._kept(app)), "the app cannot be kept on the Mac")

    def _kept(self, app: str) -> str:
        return f"{self.folder}/apps/{app.replace('/', '_')}.app"

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
        """Install the app anew, for there is no other way to its data. Raises WrongState for an app that this driver
        has not installed since the last cleaning."""
        await self.known(app)
        there = await self.place.run(script(EXISTS, self._kept(app)))
        if there.code:
            raise WrongState(f"the data of {app!r} goes only with the app, and it was not installed here: install it")
        await self.remove_app(app)
        await self.install_bundle(self._kept(app), app)


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
    with trio.move_on_after(LEAVE_SECONDS) as patience:
        await _until(place, identity, there=False)
    if patience.cancelled_caught:
        raise Unavailable("the device was told to restart and did not")
    await _until(place, identity, there=True)


async def _until(place: Place, identity: str, *, there: bool) -> None:
    while await reachable(place, identity) is not there:  # noqa: ASYNC110 no tool tells when
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
