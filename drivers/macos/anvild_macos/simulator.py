"""A session on a simulator, by ``simctl``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import msgspec
import trio

from anvild.sdk import AnvilError, App, DeviceLost, InvalidArgument, Power, Unavailable

from .apps import HostedApps
from .logs import UnifiedLogs
from .models import simulator_apps, simulators
from .place import Done, Place, refused
from .screen import HostedScreen
from .shell import script

BOOT_SECONDS = 55.0
LIST_APPS = 'set -o pipefail; xcrun simctl listapps "$1" | plutil -convert json -o - -'
CLEAR = """\
for part in Documents Library tmp SystemData; do
  [ ! -d "$1/$part" ] || find "$1/$part" -mindepth 1 -delete || exit
done
"""
NOT_RUNNING = b"found nothing to terminate"
SHUT_STATE = b"current state: Shutdown"


class SimulatorSession(HostedApps, HostedScreen, UnifiedLogs, Power):
    """Apps, screen, log and power of a simulator."""

    recording_suffix = ".mp4"
    says_begun = True

    async def simctl(self, what: str, *words: str, env: Mapping[str, str] | None = None) -> Done:
        """Run ``simctl`` to a good end. Raises an error that begins with ``what``."""
        return await self.demand(["xcrun", "simctl", *words], what, env=env)

    def explain(self, what: str, done: Done) -> AnvilError:
        return trouble(what, done)

    # power

    async def reboot(self) -> None:
        await shut(self.place, self.device.identity)
        await boot(self.place, self.device.identity, seconds=float("inf"))

    # apps

    async def install_bundle(self, path: str, app: str) -> None:
        done = await self.place.run(["xcrun", "simctl", "install", self.device.identity, path])
        if done.code:
            error = trouble("the simulator refuses the app", done)
            raise InvalidArgument(error.message) if isinstance(error, Unavailable) else error

    async def remove_app(self, app: str) -> None:
        await uninstall(self.place, self.device.identity, app)

    async def begin_app(self, app: str, arguments: Sequence[str], env: Mapping[str, str]) -> None:
        given = {f"SIMCTL_CHILD_{name}": value for name, value in env.items()}
        words = ("launch", "--terminate-running-process", self.device.identity, app, *arguments)
        await self.simctl("the app cannot be started", *words, env=given)

    async def end_app(self, app: str) -> None:
        await end_app(self.place, self.device.identity, app)

    async def list_apps(self, *, system: bool = False) -> Sequence[App]:
        done = await self.demand(script(LIST_APPS, self.device.identity), "the apps cannot be listed")
        found = [
            App(
                identifier=app.identifier,
                name=app.display_name or app.name,
                version=app.version,
                system=app.kind != "User",
            )
            for app in simulator_apps(done.out)
        ]
        return sorted((app for app in found if system or not app.system), key=lambda app: app.identifier)

    async def clear_app(self, app: str) -> None:
        await self.known(app)
        await self.end_app(app)
        what = "the data of the app cannot be removed"
        told = await self.simctl(what, "get_app_container", self.device.identity, app, "data")
        folder = told.out.decode(errors="surrogateescape").strip()
        if not folder.startswith("/"):
            raise Unavailable(f"{what}: the simulator does not say where it is")
        await self.demand(script(CLEAR, folder), what)

    # screen and log

    def picture_command(self, path: str) -> Sequence[str]:
        return ["xcrun", "simctl", "io", self.device.identity, "screenshot", "--type=png", path]

    def recording_command(self, path: str) -> Sequence[str]:
        return ["xcrun", "simctl", "io", self.device.identity, "recordVideo", "--codec=h264", "--force", path]

    def log_command(self, *words: str) -> Sequence[str]:
        return ["xcrun", "simctl", "spawn", self.device.identity, "log", *words]

    async def last_start(self) -> int:
        listed = await self.simctl("the simulators cannot be listed", "list", "-j")
        for each in simulators(listed.out):
            if each.device.udid == self.device.identity and each.device.last_booted_at:
                return int(unix_time(each.device.last_booted_at))
        return 0


async def boot(place: Place, identity: str, *, seconds: float = BOOT_SECONDS) -> bool:
    """Boot a simulator and wait until it has started; tell whether it was shut before.

    It goes on starting when the wait is over. Raises Unavailable, DeviceLost.
    """
    begun = await place.run(["xcrun", "simctl", "boot", identity])
    if begun.code and b"current state: Booted" not in begun.err and b"current state: Booting" not in begun.err:
        raise trouble("the simulator cannot be booted", begun)
    with trio.move_on_after(seconds):
        done = await place.run(["xcrun", "simctl", "bootstatus", identity])
        if done.code:
            raise trouble("the simulator did not start", done)
        return begun.code == 0
    raise Unavailable(f"the simulator has not started within {seconds:g} s and goes on starting: try again")


async def shut(place: Place, identity: str) -> None:
    """Shut a simulator down; one that is shut is no error."""
    done = await place.run(["xcrun", "simctl", "shutdown", identity])
    if done.code and SHUT_STATE not in done.err:
        raise refused("the simulator cannot be shut down", done)


async def erase(place: Place, identity: str) -> None:
    """Erase a shut simulator: its apps, their data, its settings."""
    done = await place.run(["xcrun", "simctl", "erase", identity])
    if done.code:
        raise refused("the simulator cannot be erased", done)


async def end_app(place: Place, identity: str, app: str) -> None:
    done = await place.run(["xcrun", "simctl", "terminate", identity, app])
    if done.code and NOT_RUNNING not in done.err and SHUT_STATE not in done.err:
        raise trouble("the app cannot be ended", done)


async def uninstall(place: Place, identity: str, app: str) -> None:
    """Remove an app; ``simctl`` takes one that is not there for removed."""
    done = await place.run(["xcrun", "simctl", "uninstall", identity, app])
    if done.code and SHUT_STATE not in done.err:
        raise trouble("the app cannot be removed", done)


def trouble(what: str, done: Done) -> AnvilError:
    """Turn a failure of ``simctl`` into an error of the interface."""
    if SHUT_STATE in done.err:
        return DeviceLost(f"{what}: the simulator has been shut down from elsewhere")
    if b"Invalid device" in done.err:
        return DeviceLost(f"{what}: the simulator is no longer on the Mac")
    return refused(what, done)


def unix_time(text: str) -> float:
    """Read a time as ``simctl`` writes it; 0 when it cannot be read."""
    try:
        return msgspec.convert(text, datetime).astimezone(UTC).timestamp()
    except (msgspec.ValidationError, ValueError):
        return 0.0
