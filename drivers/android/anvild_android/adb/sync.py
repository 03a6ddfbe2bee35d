"""The sync service of a device: files in and out, in its first version, and stat and list in both."""

from __future__ import annotations

import stat
import struct
import time
from collections.abc import AsyncIterable

import msgspec
import trio

from anvild.sdk import DeviceLost, DriverFault, InvalidArgument

from .errors import from_device
from .wire import AdbStream, Closed

__all__ = ["Status", "SyncFile", "SyncStream"]

DATA_LIMIT = 65536
PATH_LIMIT = 1024
TEXT_LIMIT = 65536
HEADER = struct.Struct("<4sI")
STAT_1 = struct.Struct("<III")
STAT_2 = struct.Struct("<IQQIIIIQqqq")
"""error, dev, ino, mode, nlink, uid, gid, size, atime, mtime, ctime"""
ENOENT = 2
ERRORS = {
    1: "Operation not permitted",
    2: "No such file or directory",
    12: "Cannot allocate memory",
    13: "Permission denied",
    17: "File exists",
    20: "Not a directory",
    22: "Invalid argument",
    36: "File name too long",
    40: "Too many levels of symbolic links",
}
"""The error numbers of stat that a path can bring about, in the numbering of Linux."""


class Status(msgspec.Struct, frozen=True):
    """What lstat says of a path. ``user`` and ``group`` are None where the device is too old to tell."""

    mode: int
    size: int
    modified: int
    user: int | None = None
    group: int | None = None

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)


class SyncStream:
    """A connection to the sync service. One verb at a time; after an error it is good for nothing but closing."""

    def __init__(self, stream: AdbStream, features: frozenset[str]) -> None:
        self._stream = stream
        self._features = features

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def stat(self, path: str, *, follow: bool = False) -> Status:
        """Describe a path; a link is described itself, unless it is to be followed. Raises NotFound,
        PermissionDenied, InvalidArgument."""
        if "stat_v2" in self._features:
            verb = b"STA2" if follow else b"LST2"
            await self._request(verb, path)
            kind = await self._exactly(4)
            if kind != verb:
                raise await self._unexpected(kind, path)
            return self._status(STAT_2.unpack(await self._exactly(STAT_2.size)), path)
        await self._request(b"STAT", f"{path}/." if follow else path)  # which of a link is what it leads to
        kind = await self._exactly(4)
        if kind != b"STAT":
            raise await self._unexpected(kind, path)
        mode, size, modified = STAT_1.unpack(await self._exactly(STAT_1.size))
        if mode == 0:  # all that the first version says of any error
            raise from_device(ERRORS[ENOENT], path)
        return Status(mode=mode, size=size, modified=modified)

    def _status(self, fields: tuple[int, ...], path: str) -> Status:
        error, _, _, mode, _, user, group, size, _, modified, _ = fields
        if error:
            raise from_device(ERRORS.get(error, f"error {error}"), path)
        return Status(mode=mode, size=size, modified=modified, user=user, group=group)

    async def list(self, path: str) -> list[tuple[str, Status]]:
        """List a directory with ``.`` and ``..``. One that cannot be read is told as one with nothing in it."""
        second = "ls_v2" in self._features
        entry, form = (b"DNT2", STAT_2) if second else (b"DENT", STAT_1)
        await self._request(b"LIS2" if second else b"LIST", path)
        found: list[tuple[str, Status]] = []
        while True:
            kind = await self._exactly(4)
            if kind not in (entry, b"DONE"):
                raise await self._unexpected(kind, path)
            fields = form.unpack(await self._exactly(form.size))
            (size,) = struct.unpack("<I", await self._exactly(4))
            if size > PATH_LIMIT:
                raise DriverFault(f"the device named an entry of {path} with {size} bytes")
            name = (await self._exactly(size)).decode("utf-8", "surrogateescape")
            if kind == b"DONE":
                return found
            if not second:
                found.append((name, Status(mode=fields[0], size=fields[1], modified=fields[2])))
            elif fields[0] == 0:  # one that has just gone is left out
                found.append((name, self._status(fields, name)))

    async def read(self, path: str) -> SyncFile:
        """Open a file; the stream takes this connection over. Raises NotFound, PermissionDenied, InvalidArgument."""
        await self._request(b"RECV", path)
        file = SyncFile(self, path)
        await file.begin()
        return file

    async def write(self, path: str, source: AsyncIterable[bytes], *, mode: int) -> int:
        """Write a file and return its size. Raises ResourceExhausted, PermissionDenied; what is half written stays."""
        await self._request(b"SEND", f"{path},{stat.S_IFREG | mode}")
        total = 0
        try:
            async for chunk in source:
                for at in range(0, len(chunk), DATA_LIMIT):
                    piece = chunk[at : at + DATA_LIMIT]
                    await self._stream.send_all(HEADER.pack(b"DATA", len(piece)) + piece)
                total += len(chunk)
                if self._stream.has_news:  # a device says at once why it takes no more, and then swallows the rest
                    break
            else:
                await self._stream.send_all(HEADER.pack(b"DONE", int(time.time())))
        except DeviceLost:
            if not self._stream.has_news:
                raise
        kind = await self._exactly(4)
        if kind != b"OKAY":
            raise await self._unexpected(kind, path)
        await self._exactly(4)
        return total

    async def chunk(self, path: str) -> int:
        """Read the head of the next chunk of a file: its size, 0 at the end."""
        kind = await self._exactly(4)
        if kind == b"DATA":
            (size,) = struct.unpack("<I", await self._exactly(4))
            if size > DATA_LIMIT:
                raise DriverFault(f"the device sent {size} bytes of {path} in one piece")
            return int(size)
        if kind == b"DONE":
            await self._exactly(4)
            return 0
        raise await self._unexpected(kind, path)

    async def some(self, most: int) -> bytes:
        """Read some bytes of a chunk."""
        data = await self._stream.receive_some(most)
        if not data:
            raise self._stream.lost()
        return data

    async def _request(self, verb: bytes, path: str) -> None:
        data = path.encode("utf-8", "surrogateescape")
        if len(data) > PATH_LIMIT:
            raise InvalidArgument(f"a path on an android device has at most {PATH_LIMIT} bytes")
        await self._stream.send_all(HEADER.pack(verb, len(data)) + data)

    async def _exactly(self, size: int) -> bytes:
        try:
            return await self._stream.receive_exactly(size)
        except Closed:
            raise self._stream.lost() from None

    async def _unexpected(self, kind: bytes, path: str) -> Exception:
        if kind != b"FAIL":
            return DriverFault(f"the device answered {kind!r} to a request for {path}")
        (size,) = struct.unpack("<I", await self._exactly(4))
        text = (await self._exactly(min(size, TEXT_LIMIT))).decode("utf-8", "replace")
        return from_device(text, path)


class SyncFile(trio.abc.ReceiveStream):
    """A file of a device that is being read. Closing it closes its connection."""

    def __init__(self, sync: SyncStream, path: str) -> None:
        self._sync = sync
        self._path = path
        self._due = 0
        self._ended = False

    async def begin(self) -> None:
        """Wait for the first chunk, which tells whether the file can be read."""
        await self._next()

    async def _next(self) -> None:
        self._due = await self._sync.chunk(self._path)
        self._ended = self._due == 0

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if not self._due and not self._ended:
            await self._next()
        if self._ended:
            await trio.lowlevel.checkpoint()
            return b""
        data = await self._sync.some(min(self._due, max_bytes or self._due))
        self._due -= len(data)
        return data

    async def aclose(self) -> None:
        await self._sync.aclose()
