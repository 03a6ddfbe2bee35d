"""A device's files seen from outside, where no link leads out of the device's own root."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import posixpath
import shutil
import stat
import struct
from collections.abc import Iterator

__all__ = ["Files", "write_whole"]

OPENAT2 = 437  # the same number on all architectures
RESOLVE_NO_MAGIC_LINKS = 0x02
RESOLVE_IN_ROOT = 0x10
HOW = struct.Struct("QQQ")
ATTEMPTS = 16  # the kernel gives up when folders move while it follows ".."

_libc = ctypes.CDLL(None, use_errno=True)


class Files:
    """File operations by a device's own absolute paths. All of them block, and raise OSError as the kernel tells it.

    ``root`` is a descriptor of the device's root, or -1 for none. Every path is resolved by the kernel as if that were
    the root: neither ``..`` nor a symbolic link that something in the device has made reaches a file of the host.
    """

    def __init__(self, root: int) -> None:
        self._root = root

    def close(self) -> None:
        """Let go of the root; the device is not held by it."""
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def open(self, path: str, flags: int, mode: int = 0) -> int:
        """Open a file and return its descriptor, which the caller closes."""
        how = HOW.pack(flags | os.O_CLOEXEC, mode, RESOLVE_IN_ROOT | RESOLVE_NO_MAGIC_LINKS)
        name = os.fsencode(path)
        for _attempt in range(ATTEMPTS):
            found: int = _libc.syscall(OPENAT2, self._root, name, how, HOW.size)
            if found >= 0:
                return found
            code = ctypes.get_errno()
            if code != errno.EAGAIN:
                break
        raise OSError(code, os.strerror(code), path)

    @contextlib.contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int, str]]:
        """The folder that holds a path, with the path's last name."""
        folder, name = posixpath.split(posixpath.normpath("/" + path))
        parent = self.open(folder or "/", os.O_PATH | os.O_DIRECTORY)
        try:
            yield parent, name or "."
        finally:
            os.close(parent)

    def lstat(self, path: str) -> os.stat_result:
        """Look at what stands at a path, not following a link in its last place."""
        with self._parent(path) as (parent, name):
            return os.stat(name, dir_fd=parent, follow_symlinks=False)

    def stat(self, path: str) -> os.stat_result:
        """Look at what a path leads to."""
        found = self.open(path, os.O_PATH)
        try:
            return os.fstat(found)
        finally:
            os.close(found)

    def list(self, path: str) -> list[tuple[str, os.stat_result]]:
        """List a folder, links as themselves, sorted by name."""
        folder = self.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            found = []
            for name in sorted(os.listdir(folder)):  # noqa: PTH208 likewise
                with contextlib.suppress(FileNotFoundError):
                    found.append((name, os.stat(name, dir_fd=folder, follow_symlinks=False)))
            return found
        finally:
            os.close(folder)

    def make_folders(self, path: str, mode: int = 0o775) -> None:
        """Make a folder and those above it that are missing."""
        try:
            if stat.S_ISDIR(self.stat(path).st_mode):
                return
        except FileNotFoundError:
            pass
        self.make_folders(posixpath.dirname(path), mode)
        with self._parent(path) as (parent, name):
            os.mkdir(name, mode, dir_fd=parent)

    def link(self, path: str, target: str) -> None:
        """Make a symbolic link, in place of whatever file was there."""
        self.remove(path)
        with self._parent(path) as (parent, name):
            os.symlink(target, name, dir_fd=parent)

    def move(self, path: str, target: str) -> None:
        """Give a file or a folder another place, over a file that is there."""
        with self._parent(path) as (parent, name), self._parent(target) as (new_parent, new_name):
            os.rename(name, new_name, src_dir_fd=parent, dst_dir_fd=new_parent)

    def remove(self, path: str) -> None:
        """Remove a file or a link. One that is missing is no error."""
        with contextlib.suppress(FileNotFoundError), self._parent(path) as (parent, name):
            os.unlink(name, dir_fd=parent)

    def remove_tree(self, path: str) -> None:
        """Remove a folder with all that is in it. One that is missing is no error."""
        with contextlib.suppress(FileNotFoundError), self._parent(path) as (parent, name):
            shutil.rmtree(name, dir_fd=parent)

    def read(self, path: str, most: int = -1) -> bytes:
        """Return a file's content, or the first part of it."""
        with os.fdopen(self.open(path, os.O_RDONLY), "rb") as file:
            return file.read(most)

    def write(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Write a file whole. One that does not fit is removed again."""
        try:
            with os.fdopen(self.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
                os.fchmod(file.fileno(), mode)
                file.write(content)
        except OSError:
            self.remove(path)
            raise


def write_whole(descriptor: int, content: bytes) -> None:
    """Write all of a content. Blocks. Raises OSError."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
