"""Apps on simulators and on paired devices: unpacked on the Mac, then installed with Apple's tools."""

from __future__ import annotations

import secrets
from abc import abstractmethod
from collections.abc import AsyncIterable, Mapping, Sequence

import msgspec

from anvild.sdk import AlreadyExists, App, Apps, InvalidArgument, NotFound

from .app_tests import PRODUCTS
from .base import HostedSession
from .models import BundleInfo
from .place import refused
from .shell import script
from .transfer import upload

UNPACK = """\
mkdir -m 700 -- "$2" && ditto -x -k "$1" "$2" && rm -f -- "$1"
"""
FIND = r"""
find "$1" -maxdepth 4 \( -name '*.xctestrun' -o -name '*.app' -type d -prune \) -print
"""
KEEP_PRODUCTS = 'rm -rf -- "$2" && mv -- "$1" "$2"'


class HostedApps(HostedSession, Apps):
    """Apps from packages: an ``.ipa``, a zip with one ``.app`` folder, or a zip of test products.

    Test products (a zip with an ``.xctestrun`` file and what it names) are kept on the Mac until the device is cleaned,
    for :meth:`anvild.sdk.AppTests.run_tests`.
    """

    @abstractmethod
    async def install_bundle(self, path: str, app: str) -> None:
        """Install the ``.app`` folder of an app at a path of the Mac. Raises InvalidArgument with the tool's words."""

    @abstractmethod
    async def remove_app(self, app: str) -> None:
        """Remove an installed app."""

    @abstractmethod
    async def end_app(self, app: str) -> None:
        """End an installed app; one that does not run is no error."""

    @abstractmethod
    async def begin_app(self, app: str, arguments: Sequence[str], env: Mapping[str, str]) -> None:
        """Start an installed app."""

    async def install_app(self, source: AsyncIterable[bytes], *, size: int, replace: bool = True) -> App | None:
        package = f"{await self.make_scratch()}/{secrets.token_hex(4)}"
        packed, folder = f"{package}.zip", f"{package}.unpacked"
        try:
            came = await upload(self.place, packed, source, "the package cannot be brought to the Mac")
            if came != size:
                raise InvalidArgument(f"the package was announced with {size} bytes and has {came}")
            found = await self._unpack(packed, folder)
            runs = [path for path in found if path.endswith(".xctestrun")]
            if runs:
                await self.demand(
                    script(KEEP_PRODUCTS, folder, f"{self.folder}/{PRODUCTS}"), "the test products cannot be kept"
                )
                name = runs[0].removeprefix(f"{folder}/")
                return App(identifier=name, name="test products")
            if len(found) != 1:
                raise InvalidArgument(
                    f"the package holds {len(found)} apps: it must be an .ipa, a zip with one .app folder, or a zip "
                    "with an .xctestrun file"
                )
            return await self._install(found[0], replace=replace)
        finally:
            await self.forget(packed, folder)

    async def _unpack(self, packed: str, folder: str) -> list[str]:
        done = await self.place.run(script(UNPACK, packed, folder))
        if done.code:
            error = refused("the package cannot be unpacked", done)
            raise error if b"No space left" in done.err else InvalidArgument(error.message)
        done = await self.demand(script(FIND, folder), "the package is lost")
        return sorted(done.out.decode(errors="surrogateescape").splitlines())

    async def _install(self, path: str, *, replace: bool) -> App:
        told = await self.place.run(["plutil", "-convert", "json", "-o", "-", f"{path}/Info.plist"])
        try:
            info = msgspec.json.decode(told.out, type=BundleInfo)
        except msgspec.DecodeError:
            raise InvalidArgument(f"the app in the package has no readable Info.plist: {told.said}") from None
        before = {app.identifier for app in await self.list_apps(system=True)}
        if info.identifier in before and not replace:
            raise AlreadyExists(f"the app {info.identifier!r} is installed on {self.device.name!r}")
        if info.identifier not in before:  # noted first: half an installation is removed by the cleaning, too
            await self.note(self.touched.apps, info.identifier)
        await self.install_bundle(path, info.identifier)
        return App(identifier=info.identifier, name=info.display_name or info.name, version=info.version)

    async def uninstall_app(self, app: str) -> None:
        await self.known(app)
        await self.remove_app(app)

    async def launch_app(
        self, app: str, *, arguments: Sequence[str] = (), env: Mapping[str, str] | None = None
    ) -> None:
        await self.known(app)
        await self.note(self.touched.launched, app)
        await self.begin_app(app, arguments, env or {})

    async def stop_app(self, app: str) -> None:
        await self.known(app)
        await self.end_app(app)

    async def known(self, app: str) -> None:
        """Raise NotFound when an app is not installed."""
        if app not in {each.identifier for each in await self.list_apps(system=True)}:
            raise NotFound(f"there is no app {app!r} on {self.device.name!r}")
