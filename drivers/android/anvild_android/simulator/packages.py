"""The apps of a device: what is installed, found again in its files."""

from __future__ import annotations

import os
from collections.abc import Callable

import msgspec
import trio

from .apk import Manifest, Refused, read_apk
from .files import Files
from .root import Root

__all__ = ["APPS", "Installed", "Packages"]

APPS = "/data/app"
FIRST_USER_ID = 10_100


class Installed(msgspec.Struct, frozen=True):
    """An app on the device."""

    manifest: Manifest
    folder: str
    user_id: int

    @property
    def path(self) -> str:
        """Where its base package lies."""
        return f"{self.folder}/base.apk"

    @property
    def data(self) -> str:
        """Where its data lies."""
        return f"/data/data/{self.manifest.package}"


class Packages:
    """The apps of one device. ``stop``, set by what runs them, ends one before it is replaced or removed."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._users = FIRST_USER_ID
        self.installed: dict[str, Installed] = {}
        self.stop: Callable[[str], None] = _nothing_runs

    @property
    def files(self) -> Files:
        """The device's files."""
        return self._root.files

    async def load(self) -> None:
        """Find the apps that lie on the device already, and remove what an interrupted installation has left."""
        for name, _found in await trio.to_thread.run_sync(self.files.list, APPS):
            folder = f"{APPS}/{name}"
            try:
                manifest = await self.read(f"{folder}/base.apk")
            except (Refused, OSError):
                await trio.to_thread.run_sync(self.files.remove_tree, folder)
            else:
                self._add(manifest, folder)

    async def read(self, path: str) -> Manifest:
        """Read a package that lies on the device. Raises Refused, OSError."""
        return await trio.to_thread.run_sync(self._read, path)

    def _read(self, path: str) -> Manifest:
        with os.fdopen(self.files.open(path, os.O_RDONLY), "rb") as file:
            return read_apk(file)

    def _add(self, manifest: Manifest, folder: str) -> None:
        before = self.installed.get(manifest.package)
        self._users += before is None
        self.installed[manifest.package] = Installed(manifest, folder, before.user_id if before else self._users)

    async def put(self, manifest: Manifest, folder: str) -> None:
        """Take an app whose files lie in a folder, in place of what there was of it. Its data stays."""
        before = self.installed.get(manifest.package)
        self.stop(manifest.package)
        self._add(manifest, folder)
        await trio.to_thread.run_sync(self.files.make_folders, self.installed[manifest.package].data)
        if before is not None:
            await trio.to_thread.run_sync(self.files.remove_tree, before.folder)

    async def remove(self, package: str, *, keep_data: bool) -> None:
        """Remove an app. Raises KeyError."""
        found = self.installed.pop(package)
        self.stop(package)
        await trio.to_thread.run_sync(self.files.remove_tree, found.folder)
        if not keep_data:
            await trio.to_thread.run_sync(self.files.remove_tree, found.data)

    async def clear(self, package: str) -> None:
        """Bring an app's data back to that of a fresh installation. Raises KeyError."""
        found = self.installed[package]
        self.stop(package)
        await trio.to_thread.run_sync(self.files.remove_tree, found.data)
        await trio.to_thread.run_sync(self.files.make_folders, found.data)


def _nothing_runs(_package: str) -> None:
    """Apps are ended by this where nothing can run them."""
