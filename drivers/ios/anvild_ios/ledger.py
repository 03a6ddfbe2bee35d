"""What a lease has left on a device, kept on disk so that it is cleaned after a restart of the daemon too."""

from __future__ import annotations

from pathlib import Path

import msgspec
import trio

__all__ = ["Ledger", "Left"]


class Left(msgspec.Struct, frozen=True):
    """What is to be undone: ``apps`` are those that were there before the first installation, None when there was no
    installation; ``paths`` files and directories of the media folder that were not there before."""

    apps: tuple[str, ...] | None = None
    paths: tuple[str, ...] = ()


class Ledger:
    """The notes on all devices, a file each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = trio.Lock()

    async def read(self, udid: str) -> Left:
        """Return the notes on a device."""
        return await trio.to_thread.run_sync(self._read, udid)

    async def note_apps(self, udid: str, apps: tuple[str, ...]) -> None:
        """Note which apps were there before the first installation of a lease."""
        async with self._lock:
            left = await self.read(udid)
            if left.apps is None:
                await self._write(udid, msgspec.structs.replace(left, apps=apps))

    async def note_path(self, udid: str, path: str) -> None:
        """Note a path that a lease makes."""
        async with self._lock:
            left = await self.read(udid)
            if path not in left.paths:
                await self._write(udid, msgspec.structs.replace(left, paths=(*left.paths, path)))

    async def forget(self, udid: str) -> None:
        """Everything has been undone."""
        async with self._lock:
            await trio.to_thread.run_sync(lambda: self._path(udid).unlink(missing_ok=True))

    async def _write(self, udid: str, left: Left) -> None:
        await trio.to_thread.run_sync(self._save, udid, left)

    def _read(self, udid: str) -> Left:
        try:
            return msgspec.json.decode(self._path(udid).read_bytes(), type=Left)
        except FileNotFoundError:
            return Left()

    def _save(self, udid: str, left: Left) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        part = self._path(udid).with_suffix(".part")
        part.write_bytes(msgspec.json.encode(left))
        part.rename(self._path(udid))

    def _path(self, udid: str) -> Path:
        return self._folder / f"{udid}.json"
