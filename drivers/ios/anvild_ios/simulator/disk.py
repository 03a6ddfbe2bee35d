"""A small file system in memory, with the limits and the errors that AFC knows."""

from __future__ import annotations

import time
from collections.abc import Iterator

from ..wire.afc import AfcStatus

__all__ = ["Directory", "Disk", "DiskError", "File", "Link"]


class DiskError(Exception):
    """An operation that the file system refuses."""

    def __init__(self, status: AfcStatus) -> None:
        super().__init__(status.name)
        self.status = status


class File:
    """A file's bytes."""

    kind = "S_IFREG"

    def __init__(self, data: bytes = b"", modified: float | None = None) -> None:
        self.data = bytearray(data)
        self.modified = time.time() if modified is None else modified

    @property
    def size(self) -> int:
        return len(self.data)


class Link:
    """A symbolic link. It is shown, and not followed."""

    kind = "S_IFLNK"

    def __init__(self, target: str) -> None:
        self.target = target
        self.modified = time.time()
        self.size = len(target)


class Directory:
    """A directory's entries by name."""

    kind = "S_IFDIR"
    size = 64

    def __init__(self) -> None:
        self.entries: dict[str, File | Directory | Link] = {}
        self.modified = time.time()


Node = File | Directory | Link


class Disk:
    """A tree with a limit on its bytes. Paths are absolute or relative to the root; ``..`` never leaves it."""

    def __init__(self, limit: int = 256 * 2**20) -> None:
        self.root = Directory()
        self.limit = limit
        self.used = 0

    def find(self, path: str) -> Node:
        """Return what is at a path. Raises DiskError."""
        node: Node = self.root
        for name in _parts(path):
            if not isinstance(node, Directory) or name not in node.entries:
                raise DiskError(AfcStatus.NOT_FOUND)
            node = node.entries[name]
        return node

    def file(self, path: str) -> File:
        """Return a file. Raises DiskError, also for what is none."""
        node = self.find(path)
        if not isinstance(node, File):
            raise DiskError(AfcStatus.IS_DIRECTORY)
        return node

    def directory(self, path: str) -> Directory:
        """Return a directory. Raises DiskError, also for what is none."""
        node = self.find(path)
        if not isinstance(node, Directory):
            raise DiskError(AfcStatus.READ_ERROR)
        return node

    def make(self, path: str) -> Directory:
        """Make a directory and its parents; what is there stays. Raises DiskError when a file is in the way."""
        node = self.root
        for name in _parts(path):
            below = node.entries.setdefault(name, Directory())
            if not isinstance(below, Directory):
                raise DiskError(AfcStatus.EXISTS)
            node = below
        return node

    def create(self, path: str) -> File:
        """Make a file, or empty the one that is there. Raises DiskError."""
        parent, name = self._place(path)
        there = parent.entries.get(name)
        if isinstance(there, Directory):
            raise DiskError(AfcStatus.IS_DIRECTORY)
        if isinstance(there, File):
            self.resize(there, 0)
            return there
        made = File()
        parent.entries[name] = made
        return made

    def put(self, path: str, data: bytes, modified: float | None = None) -> None:
        """Write a whole file, with the directories above it. Raises DiskError."""
        self.make(path.rpartition("/")[0])
        file = self.create(path)
        self.resize(file, len(data))
        file.data[:] = data
        file.modified = time.time() if modified is None else modified

    def resize(self, file: File, size: int) -> None:
        """Cut or lengthen a file. Raises DiskError when the disk is full."""
        grown = size - file.size
        if self.used + grown > self.limit:
            raise DiskError(AfcStatus.NO_SPACE)
        self.used += grown
        if grown < 0:
            del file.data[size:]
        else:
            file.data.extend(bytes(grown))
        file.modified = time.time()

    def link(self, target: str, path: str) -> None:
        """Make a symbolic link. Raises DiskError."""
        parent, name = self._place(path)
        if name in parent.entries:
            raise DiskError(AfcStatus.EXISTS)
        parent.entries[name] = Link(target)

    def remove(self, path: str, *, tree: bool = False) -> None:
        """Remove a file or an empty directory; with ``tree``, all below it. Raises DiskError."""
        parent, name = self._place(path)
        node = self.find(path)
        if isinstance(node, Directory) and node.entries and not tree:
            raise DiskError(AfcStatus.NOT_EMPTY)
        del parent.entries[name]
        self.used -= sum(each.size for _, each in walk(node) if isinstance(each, File))

    def rename(self, path: str, target: str) -> None:
        """Move a node; a file that is at ``target`` is replaced. Raises DiskError."""
        node = self.find(path)
        parent, name = self._place(target)
        if isinstance(parent.entries.get(name), Directory):
            raise DiskError(AfcStatus.EXISTS)
        if name in parent.entries and parent.entries[name] is not node:
            self.remove(target)
        old, old_name = self._place(path)
        del old.entries[old_name]
        parent.entries[name] = node

    def _place(self, path: str) -> tuple[Directory, str]:
        parts = _parts(path)
        if not parts:
            raise DiskError(AfcStatus.PERMISSION_DENIED)
        return self.directory("/".join(parts[:-1])), parts[-1]


def walk(node: Node, path: str = "") -> Iterator[tuple[str, Node]]:
    """Go through a tree, the node itself first."""
    yield path, node
    if isinstance(node, Directory):
        for name, below in node.entries.items():
            yield from walk(below, f"{path}/{name}")


def _parts(path: str) -> list[str]:
    found: list[str] = []
    for name in path.split("/"):
        if name == "..":
            del found[-1:]
        elif name not in ("", "."):
            found.append(name)
    return found
