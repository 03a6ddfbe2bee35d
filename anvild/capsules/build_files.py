"""The archive that comes with a build: checked as a whole, then a tree that COPY takes from.

Nothing of it is ever unpacked on this machine. It lies in files without a name, which go when they are closed.
"""

from __future__ import annotations

import gzip
import posixpath
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import IO, Any

import msgspec
import trio

from anvild.core.errors import InvalidRequest, TooLarge
from anvild.sdk import NotFound
from anvild.sdk.recipes import TreeEntry

__all__ = ["ARCHIVE_LIMIT", "Archive", "open_archive", "received"]

ARCHIVE_LIMIT = 100 * 2**20
CONTENT_LIMIT = 2**30
MEMBERS_LIMIT = 10_000
READ_LIMIT = 2**20
PIECE = 2**18

FAULTY = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    OverflowError,
    ValueError,
)
"""What reading a damaged archive raises."""


class _Member(msgspec.Struct, frozen=True):
    directory: bool
    mode: int
    size: int = 0
    open: Callable[[], IO[bytes]] | None = None


class Archive:
    """The files and directories of an archive, by their paths, relative and normal."""

    def __init__(self, members: dict[str, _Member]) -> None:
        self._members = members

    async def entries(self, path: str) -> Sequence[TreeEntry]:
        """Return a file, or a directory with all in it, directories before what they hold. Raises NotFound."""
        return self.find(path)

    def find(self, path: str) -> list[TreeEntry]:
        """As :meth:`entries`."""
        wanted = posixpath.normpath(f"/{path}").strip("/")
        if ".." in path.split("/") or (wanted and wanted not in self._members):
            raise NotFound(f"the archive has no {path!r}")
        if wanted and not self._members[wanted].directory:
            return [_entry("", wanted, self._members[wanted])]
        before = f"{wanted}/" if wanted else ""
        below = sorted(name for name in self._members if name.startswith(before))
        own = self._members[wanted] if wanted else _Member(directory=True, mode=0o755)
        return [_entry("", wanted, own), *(_entry(name[len(before) :], name, self._members[name]) for name in below)]

    async def content(self, entry: TreeEntry) -> AsyncGenerator[bytes, None]:
        """Iterate over the content of a file. Raises InvalidRequest when the archive is damaged there."""
        member = self._members[entry.place]
        assert member.open is not None, "only files have content"
        try:
            file = await trio.to_thread.run_sync(member.open)
            with file:
                while piece := await trio.to_thread.run_sync(file.read, PIECE):
                    yield piece
        except FAULTY as error:
            raise InvalidRequest(f"the archive is damaged at {entry.place!r}: {error}") from None


def _entry(path: str, place: str, member: _Member) -> TreeEntry:
    return TreeEntry(path=path, place=place, directory=member.directory, mode=member.mode)


@asynccontextmanager
async def received(source: AsyncIterable[bytes], folder: Path, *, limit: int) -> AsyncIterator[IO[bytes]]:
    """Gather what ``source`` yields in a file without a name in ``folder``. Raises TooLarge."""
    file = await trio.to_thread.run_sync(_nameless, folder)
    with file:
        gathered, size = bytearray(), 0
        async for chunk in source:
            size += len(chunk)
            if size > limit:
                raise TooLarge(f"the archive is larger than the {limit} bytes that are taken", limit=limit)
            gathered += chunk
            if len(gathered) >= PIECE:
                await trio.to_thread.run_sync(file.write, bytes(gathered))
                gathered.clear()
        await trio.to_thread.run_sync(file.write, bytes(gathered))
        file.seek(0)
        yield file


@asynccontextmanager
async def open_archive(file: IO[bytes], folder: Path) -> AsyncIterator[Archive]:
    """Read an archive from a file and check it as a whole: tar, compressed by gzip or not, or zip.

    Raises InvalidRequest for what is none of these, is damaged, too large, or has a member that is no plain file or
    directory below its root.
    """
    with ExitStack() as held:
        try:
            members = await trio.to_thread.run_sync(_read, file, folder, held)
        except FAULTY as error:
            raise InvalidRequest(f"the archive is damaged, or no tar, tar.gz or zip: {error}") from None
        yield Archive(members)


def _nameless(folder: Path) -> IO[bytes]:
    return tempfile.TemporaryFile(dir=folder)


def _read(file: IO[bytes], folder: Path, held: ExitStack) -> dict[str, _Member]:
    head = file.read(4)
    file.seek(0)
    if head[:2] == b"PK":
        found = _zip_members(held.enter_context(zipfile.ZipFile(file)))
    else:
        plain = _decompressed(file, held.enter_context(_nameless(folder))) if head[:2] == b"\x1f\x8b" else file
        found = _tar_members(held.enter_context(tarfile.TarFile(fileobj=_Careful(plain))))  # type: ignore[arg-type]
    members: dict[str, _Member] = {}
    size = 0
    for name, member in found:
        size += member.size
        if size > CONTENT_LIMIT or len(members) >= MEMBERS_LIMIT:
            raise InvalidRequest(
                f"the archive holds more than {CONTENT_LIMIT >> 20} MiB, or {MEMBERS_LIMIT} files and directories"
            )
        _add(members, name, member)
    return members


def _add(members: dict[str, _Member], name: str, member: _Member) -> None:
    """Add a member and the directories that it lies in; the last of several with one name counts."""
    path = _path(name)
    if not path:
        return
    at = ""
    for part in path.split("/")[:-1]:
        at = f"{at}/{part}" if at else part
        if not members.setdefault(at, _Member(directory=True, mode=0o755)).directory:
            raise InvalidRequest(f"{at!r} is a file in the archive, and {name!r} lies in it")
    there = members.get(path)
    if there is not None and there.directory != member.directory:
        raise InvalidRequest(f"{name!r} is a file and a directory in the archive")
    members[path] = member


def _path(name: str) -> str:
    """Return a member's path, empty for the root itself. Raises InvalidRequest for one that is not below it."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise InvalidRequest(f"the archive's member {name!r} does not lie below its root")
    return "/".join(parts)


def _tar_members(archive: tarfile.TarFile) -> Iterator[tuple[str, _Member]]:
    for info in archive:
        if info.isdir():
            yield info.name, _Member(directory=True, mode=info.mode & 0o777)
        elif info.isreg():
            yield (
                info.name,
                _Member(directory=False, mode=info.mode & 0o777, size=info.size, open=_tar_open(archive, info)),
            )
        else:
            what = "a link" if info.islnk() or info.issym() else "a device or another special file"
            raise InvalidRequest(f"the archive's member {info.name!r} is {what}; it may hold files and directories")


def _tar_open(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Callable[[], IO[bytes]]:
    def opened() -> IO[bytes]:
        file = archive.extractfile(info)
        assert file is not None, "a plain file has content"
        return file

    return opened


def _zip_members(archive: zipfile.ZipFile) -> Iterator[tuple[str, _Member]]:
    for info in archive.infolist():
        mode = info.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            what = "a link" if stat.S_ISLNK(mode) else "a device or another special file"
            raise InvalidRequest(f"the archive's member {info.filename!r} is {what}; it may hold files and directories")
        if info.flag_bits & 1:
            raise InvalidRequest(f"the archive's member {info.filename!r} is encrypted")
        if info.filename.endswith("/"):
            yield info.filename, _Member(directory=True, mode=mode & 0o777 or 0o755)
        else:
            opened = _zip_open(archive, info)
            yield info.filename, _Member(directory=False, mode=mode & 0o777 or 0o644, size=info.file_size, open=opened)


def _zip_open(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[], IO[bytes]]:
    return lambda: archive.open(info)


def _decompressed(file: IO[bytes], target: IO[bytes]) -> IO[bytes]:
    """Write what is compressed in ``file`` to ``target``, so that it can be read from anywhere."""
    size = 0
    with gzip.GzipFile(fileobj=file) as content:
        while piece := content.read(PIECE):
            size += len(piece)
            if size > CONTENT_LIMIT:
                raise InvalidRequest(f"the archive holds more than {CONTENT_LIMIT >> 20} MiB")
            target.write(piece)
    target.seek(0)
    return target


class _Careful:
    """A file of which no header of an archive makes us read very much at once."""

    name = None

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek = file.seek
        self.tell = file.tell

    def read(self, size: int = -1) -> Any:
        if not 0 <= size <= READ_LIMIT:
            raise InvalidRequest(f"the archive has a header of more than {READ_LIMIT} bytes")
        return self._file.read(size)
