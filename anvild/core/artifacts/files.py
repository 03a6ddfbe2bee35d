"""The files of the artifacts: written once under the SHA-256 of their content, in up to 256 directories.

Everything here blocks; it is called in threads.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from anvild.core.errors import StorageFull

__all__ = ["Files", "Incoming"]


@contextmanager
def full_disk_told(directory: Path) -> Iterator[None]:
    """Turn what the system says about a full disk, or a full quota of its own, into StorageFull."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"the disk that holds {directory} is full") from error
        raise


class Incoming:
    """A file that is being written, made by the first write. It is not an artifact until :meth:`Files.place` has put
    it in its place; ``there`` says that it lies under ``path``."""

    def __init__(self, files: Files, path: Path) -> None:
        self.path = path
        self.size = 0
        self.there = False
        self._files = files
        self._hash = hashlib.sha256()
        self._file: FileIO | None = None

    def write(self, chunks: Sequence[bytes]) -> None:
        """Append the chunks. Raises StorageFull."""
        self._append(self._opened(), chunks)

    def finish(self, chunks: Sequence[bytes]) -> str:
        """Append the last chunks, make all of it durable and return its SHA-256 in hexadecimal. Raises StorageFull."""
        with self._opened() as file:
            self._append(file, chunks)
            with full_disk_told(self._files.root):
                os.fsync(file.fileno())
        return self._hash.hexdigest()

    def discard(self) -> None:
        """Remove what was written and not placed. May be called at any time."""
        if self._file is not None:
            self._file.close()
        self.path.unlink(missing_ok=True)
        self.there = False

    def _opened(self) -> FileIO:
        self._files.check_reserve()
        if self._file is None:
            with full_disk_told(self._files.root):
                self._file = FileIO(self.path, "x")
            self.there = True
        return self._file

    def _append(self, file: FileIO, chunks: Sequence[bytes]) -> None:
        with full_disk_told(self._files.root):
            for chunk in chunks:
                view = memoryview(chunk)
                while view:
                    view = view[file.write(view) :]
                self._hash.update(chunk)
                self.size += len(chunk)


class Files:
    """The directory of the artifacts. ``reserve`` bytes of its disk stay free for the store and the daemon."""

    def __init__(self, root: Path, *, reserve: int) -> None:
        self.root = root
        self.incoming = root / "incoming"
        self._reserve = reserve
        for directory in (self.root, self.incoming):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        """Where the content with this hash lies."""
        return self.root / sha256[:2] / sha256

    def check_reserve(self) -> None:
        """Raise StorageFull when the disk has less than the reserve left."""
        free = shutil.disk_usage(self.root).free
        if free < self._reserve:
            raise StorageFull(f"the disk that holds {self.root} has {free} bytes left, and {self._reserve} stay free")

    def place(self, incoming: Incoming, sha256: str) -> bool:
        """Move a finished file to its place, durably; False when the same content lies there already."""
        target = self.path(sha256)
        if target.exists() and target.stat().st_size == incoming.size:
            incoming.discard()
            return False
        with full_disk_told(self.root):
            if not target.parent.exists():
                target.parent.mkdir(mode=0o700)
                _sync_directory(self.root)
            incoming.path.rename(target)
            incoming.there = False
            _sync_directory(target.parent)
        return True

    def remove(self, digests: Iterable[str]) -> tuple[int, int]:
        """Remove these contents; return how many files and bytes that were."""
        count = size = 0
        for sha256 in digests:
            path = self.path(sha256)
            size += path.stat().st_size
            path.unlink()
            count += 1
        return count, size

    def prefixes(self) -> list[str]:
        """The names of the directories that exist."""
        return sorted(path.name for path in self.root.iterdir() if len(path.name) == 2)

    def digests(self, prefix: str) -> list[str]:
        """The hashes of all contents whose hash begins with this prefix of two digits."""
        return [path.name for path in (self.root / prefix).iterdir()]

    def remove_incoming(self, except_for: set[Path]) -> None:
        """Remove what an earlier process left half written."""
        for path in self.incoming.iterdir():
            if path not in except_for:
                path.unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
