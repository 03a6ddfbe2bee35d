"""The files of the artifacts: written once under the SHA-256 of their content, in two levels of directories.

Everything here blocks; it is called in threads.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
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
    """A file that is being written. It is not an artifact until :meth:`Files.place` has put it in its place."""

    def __init__(self, files: Files, path: Path) -> None:
        self.path = path
        self.size = 0
        self._files = files
        self._hash = hashlib.sha256()
        with full_disk_told(files.root):
            self._file = path.open("xb", buffering=0)

    def write(self, chunks: Sequence[bytes]) -> None:
        """Append the chunks. Raises StorageFull."""
        self._files.check_reserve()
        with full_disk_told(self._files.root):
            for chunk in chunks:
                view = memoryview(chunk)
                while view:
                    view = view[self._file.write(view) :]
                self._hash.update(chunk)
                self.size += len(chunk)

    def finish(self) -> str:
        """Make the content durable and return its SHA-256 in hexadecimal."""
        with full_disk_told(self._files.root):
            os.fsync(self._file.fileno())
        self._file.close()
        return self._hash.hexdigest()

    def discard(self) -> None:
        """Remove what was written, unless it was placed. May be called at any time."""
        self._file.close()
        self.path.unlink(missing_ok=True)


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
        return self.root / sha256[:2] / sha256[2:4] / sha256

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
            created = [parent for parent in (target.parent.parent, target.parent) if not parent.exists()]
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            incoming.path.rename(target)
            for directory in {target.parent, *(parent.parent for parent in created)}:
                _sync_directory(directory)
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
        """The names of the directories of the first level that exist."""
        return sorted(path.name for path in self.root.iterdir() if len(path.name) == 2)

    def digests(self, prefix: str) -> list[str]:
        """The hashes of all contents whose hash begins with this prefix of two digits."""
        return [path.name for path in (self.root / prefix).glob("*/*")]

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
