"""Apps: installed, listed and removed through the device's own services; from iOS 17 on, a tool starts them."""

from __future__ import annotations

import contextlib
import plistlib
import re
import secrets
import tempfile
import zipfile
from collections.abc import AsyncIterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any
from xml.parsers.expat import ExpatError

import trio

from anvild.sdk import (
    AlreadyExists,
    AnvilError,
    App,
    Apps,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
)

from . import services
from .afc import Afc
from .files import CLEAN_UP_SECONDS, open_container
from .helper import Helper
from .instruments import open_instruments
from .ledger import Ledger
from .link import Link
from .services import AppRefused
from .wire.afc import AfcMode

__all__ = ["LinkedApps", "read_package", "remove_apps_but", "to_app"]

STAGING = "/PublicStaging"
INFO = re.compile(r"^Payload/[^/]+\.app/Info\.plist$")
MAX_INFO = 4 * 2**20
FULL = frozenset({"InsufficientStorage", "DeviceOutOfSpace"})
CONTAINER = ("Documents", "Library/Caches", "Library/Preferences", "tmp")
NOT_RUNNING = re.compile(r"not (?:running|found)|no process", re.IGNORECASE)


class LinkedApps(Apps):
    """The verbs of apps over a session's link. Where not ``native``, a tool starts and stops them."""

    link: Link
    native: bool
    ledger: Ledger
    helper: Helper
    udid: str
    cache: Path

    async def install_app(self, source: AsyncIterable[bytes], *, size: int, replace: bool = True) -> App | None:
        staged = f"{STAGING}/anvil-{secrets.token_hex(8)}.ipa"
        try:
            async with self.link.verb():
                package = await self._stage(source, size, staged)
                async with self.link.service(services.INSTALLATION) as wire:
                    there = await services.browse(wire, "User")
                before = tuple(str(each.get("CFBundleIdentifier")) for each in there)
                if package is not None and package.identifier in before and not replace:
                    raise AlreadyExists(f"{package.identifier} is installed already")
                await self.ledger.note_apps(self.udid, before)
                async with self.link.service(services.INSTALLATION) as wire:
                    try:
                        await services.install(wire, staged, None if package is None else package.identifier)
                    except AppRefused as error:
                        raise _refusal(error, "install the package") from error
                return package if package is None else await self._installed(package.identifier)
        finally:
            await self._unstage(staged)

    async def uninstall_app(self, app: str) -> None:
        async with self.link.verb():
            await self._known(app)
            async with self.link.service(services.INSTALLATION) as wire:
                try:
                    await services.uninstall(wire, app)
                except AppRefused as error:
                    raise PermissionDenied(f"the device does not remove {app}: {error}") from error

    async def launch_app(
        self, app: str, *, arguments: Sequence[str] = (), env: Mapping[str, str] | None = None
    ) -> None:
        async with self.link.verb():
            await self._known(app)
            if self.native:
                async with open_instruments(self.link) as instruments:
                    await instruments.launch(app, arguments, env or {})
            else:
                words = self.helper.require("starts apps").launch(app, arguments, env or {})
                await self.helper.run(self.udid, words, f"start {app}")

    async def stop_app(self, app: str) -> None:
        async with self.link.verb():
            await self._known(app)
            if self.native:
                async with open_instruments(self.link) as instruments:
                    await instruments.stop(app)
                return
            ended = await self.helper.ended(self.udid, self.helper.require("stops apps").stop(app))
            if ended.status != 0 and not NOT_RUNNING.search(ended.reason):
                raise self.helper.failure(f"stop {app}", ended)

    async def list_apps(self, *, system: bool = False) -> Sequence[App]:
        async with self.link.verb(), self.link.service(services.INSTALLATION) as wire:
            found = await services.browse(wire, "Any" if system else "User")
        return sorted((to_app(each) for each in found), key=lambda app: app.identifier)

    async def clear_app(self, app: str) -> None:
        async with self.link.verb():
            await self._known(app)
            try:
                wire = await open_container(self.link, app)
            except NotFound as error:
                raise PermissionDenied(error.message) from error
            try:
                await _empty(Afc(wire))
            finally:
                await wire.aclose()

    async def _stage(self, source: AsyncIterable[bytes], size: int, staged: str) -> App | None:
        """Copy the package to the device and read what is in it on the way."""
        with contextlib.ExitStack() as stack:
            copy = stack.enter_context(await trio.to_thread.run_sync(_temporary, self.cache))
            async with self.link.afc(services.AFC) as afc:
                free = (await afc.device_info()).get("FSFreeBytes", "")
                if free.isdecimal() and int(free) < size:
                    raise ResourceExhausted(f"the device has {free} bytes free, and the package has {size}")
                await self.ledger.note_path(self.udid, staged)
                await afc.make_directory(STAGING)
                handle = await afc.open(staged, AfcMode.WRITE_NEW)
                written = 0
                async for chunk in source:
                    await afc.write(handle, staged, chunk)
                    await trio.to_thread.run_sync(copy.write, chunk)
                    written += len(chunk)
                await afc.close(handle, staged)
            if written != size:
                raise InvalidArgument(f"the package has {written} bytes, and {size} were announced")
            return await trio.to_thread.run_sync(read_package, copy)

    async def _unstage(self, staged: str) -> None:
        with trio.move_on_after(CLEAN_UP_SECONDS, shield=True), contextlib.suppress(AnvilError):
            # It is in the ledger too: what cannot be removed now, as from a device that has gone, goes with the lease.
            async with self.link.verb(), self.link.afc(services.AFC) as afc:
                if staged.rpartition("/")[2] in await afc.list(STAGING):
                    await afc.remove_tree(staged)

    async def _known(self, app: str) -> dict[str, Any]:
        async with self.link.service(services.INSTALLATION) as wire:
            found = await services.lookup(wire, app)
        if found is None:
            raise NotFound(f"{app} is not installed on {self.link.name}")
        return found

    async def _installed(self, app: str) -> App:
        return to_app(await self._known(app))


async def remove_apps_but(link: Link, kept: Sequence[str]) -> list[str]:
    """Remove all apps of people but those named, and return which. Raises what a verb raises."""
    async with link.verb(), link.service(services.INSTALLATION) as wire:
        there = [str(each.get("CFBundleIdentifier")) for each in await services.browse(wire, "User")]
        removed = [each for each in there if each not in kept]
        for each in removed:
            try:
                await services.uninstall(wire, each)
            except AppRefused as error:
                raise PermissionDenied(f"{each}, which a run has left, cannot be removed: {error}") from error
    return removed


def to_app(known: Mapping[str, Any]) -> App:
    """An app as the interface tells of it."""
    name = known.get("CFBundleDisplayName") or known.get("CFBundleName")
    version = known.get("CFBundleShortVersionString") or known.get("CFBundleVersion")
    return App(
        identifier=str(known.get("CFBundleIdentifier", "")),
        name=None if name is None else str(name),
        version=None if version is None else str(version),
        system=known.get("ApplicationType") == "System",
    )


def read_package(file: IO[bytes]) -> App | None:
    """Read which app a package holds; None when it cannot be told, which is for the device to judge. Blocks."""
    try:
        with zipfile.ZipFile(file) as archive:
            for each in archive.infolist():
                if INFO.match(each.filename) and each.file_size <= MAX_INFO:
                    known = plistlib.loads(archive.read(each))
                    return to_app(known) if isinstance(known, dict) and known.get("CFBundleIdentifier") else None
    except (zipfile.BadZipFile, zipfile.LargeZipFile, plistlib.InvalidFileException, ExpatError):
        return None
    except (ValueError, EOFError, NotImplementedError, RuntimeError, OSError):  # what zipfile lets out for damaged ones
        return None
    return None


def _temporary(folder: Path) -> IO[bytes]:
    folder.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryFile(dir=folder)


def _refusal(error: AppRefused, what: str) -> AnvilError:
    if error.code in FULL:
        return ResourceExhausted(f"the device is too full to {what}: {error}")
    return InvalidArgument(f"the device refuses to {what}: {error}", code=error.code)


async def _empty(afc: Afc) -> None:
    """Remove all of an app's own files and make the folders of a fresh one."""
    for name in await afc.list("/"):
        if name in {folder.partition("/")[0] for folder in CONTAINER}:
            for below in await afc.list(f"/{name}"):
                await afc.remove_tree(f"/{name}/{below}")
    for folder in CONTAINER:
        await afc.make_directory(f"/{folder}")
