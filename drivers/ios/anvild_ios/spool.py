"""The device's log as far as a session keeps it: a file that grows at one end and is cut off at the other."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import trio

__all__ = ["Spool"]

PARTS = 4


class Spool:
    """Bytes by their place since the beginning. The oldest quarter is dropped when ``limit`` is reached."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self._part = max(limit // PARTS, 1)
        self._finished = False
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._first = 0
        self.end = 0
        self._grown = trio.Event()
        self._lock = trio.Lock()

    @property
    def start(self) -> int:
        """The place of the oldest byte that is kept."""
        return self._first * self._part

    async def append(self, data: bytes) -> None:
        """Write at the end."""
        async with self._lock:
            await trio.to_thread.run_sync(self._append, data)
            self.end += len(data)
        grown, self._grown = self._grown, trio.Event()
        grown.set()

    def finish(self) -> None:
        """Nothing will be appended any more."""
        self._finished = True
        self._grown.set()

    async def wait(self, place: int) -> bool:
        """Return when there is something behind a place; False when nothing will come any more."""
        while self.end <= place:
            if self._finished:
                return False
            await self._grown.wait()
        return True

    async def read(self, place: int, limit: int) -> tuple[int, bytes]:
        """Return bytes from a place on, and the place behind them. A place that was dropped becomes the oldest."""
        async with self._lock:
            place = max(place, self.start)
            data = await trio.to_thread.run_sync(self._read, place, min(limit, self.end - place))
        return place + len(data), data

    async def aclose(self) -> None:
        """Remove all."""
        if self._directory is not None:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._directory.cleanup)

    def _path(self, part: int) -> Path:
        assert self._directory is not None
        return Path(self._directory.name) / f"{part:08d}"

    def _append(self, data: bytes) -> None:
        if self._directory is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._directory = tempfile.TemporaryDirectory(prefix="log-", dir=self._folder)
        place = self.end
        while data:
            part, offset = divmod(place, self._part)
            piece = data[: self._part - offset]
            with self._path(part).open("ab") as file:
                file.write(piece)
            place += len(piece)
            data = data[len(piece) :]
            if part - self._first >= PARTS:
                with contextlib.suppress(FileNotFoundError):
                    self._path(self._first).unlink()
                self._first += 1

    def _read(self, place: int, count: int) -> bytes:
        if count <= 0:
            return b""
        part, offset = divmod(place, self._part)
        with self._path(part).open("rb") as file:
            file.seek(offset)
            return file.read(min(count, self._part - offset))
