"""What sessions have changed on a device and its cleaning has to change back. It outlives the daemon."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec
import trio


class Touched(msgspec.Struct):
    """The changes of one device: whether this driver has booted it, and the apps that it has installed."""

    booted: bool = False
    apps: list[str] = []
    launched: list[str] = []


class TouchedRecord:
    """The changes of all devices, in one small file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = trio.Lock()
        self._devices: dict[str, Touched] = {}

    def load(self) -> None:
        """Read the file, which may be missing; one that cannot be read is as good as missing. Blocks."""
        with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
            self._devices = msgspec.json.decode(self._path.read_bytes(), type=dict[str, Touched])

    def of(self, identity: str) -> Touched:
        return self._devices.setdefault(identity, Touched())

    async def save(self) -> None:
        """Write the file, whole or not at all."""
        async with self._lock:
            data = msgspec.json.encode({name: each for name, each in self._devices.items() if each != Touched()})
            await trio.to_thread.run_sync(self._write, data)

    def _write(self, data: bytes) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_suffix(".part")
        part.write_bytes(data)
        part.replace(self._path)
