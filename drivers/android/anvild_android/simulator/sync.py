"""The sync service: files to and from the device, in both versions of its protocol."""

from __future__ import annotations

import contextlib
import functools
import os
import posixpath
import stat
import struct
from collections.abc import Callable
from typing import TypeVar

import trio

from .files import Files, write_whole
from .packets import Reader
from .streams import AdbStream

__all__ = ["serve_sync"]

REQUEST = struct.Struct("<4sI")
STAT_1 = struct.Struct("<III")
STAT_2 = struct.Struct("<IQQIIIIQqqq")
SETTING = struct.Struct("<4sII")
CHUNK = 64 * 1024
SEND_LIMIT = 1 << 20
MAX_PATH = 1024
T = TypeVar("T")


class _Refusal(Exception):
    """What the host is told in place of what it asked for."""


async def serve_sync(files: Files, stream: AdbStream) -> None:
    """Answer requests until the host has no more."""
    stream.accept()
    service = _Sync(files, stream)
    while await service.answer():
        pass


class _Sync:
    def __init__(self, files: Files, stream: AdbStream) -> None:
        self._files = files
        self._stream = stream
        self._reader = Reader(stream)
        self._expecting = False
        self._modified = 0

    async def answer(self) -> bool:
        name, size = REQUEST.unpack(await self._reader.exactly(REQUEST.size))
        if name == b"QUIT":
            return False
        if size > MAX_PATH:
            await self._refuse("path too long")
            return False
        path = os.fsdecode(await self._reader.exactly(size))
        try:
            await self._dispatch(name, path)
        except _Refusal as refusal:
            await self._refuse(str(refusal))
        return True

    async def _dispatch(self, name: bytes, path: str) -> None:
        if name == b"STAT":
            found = await self._look(self._files.lstat, path)
            await self._stream.send_all(b"STAT" + _version_1(found))
        elif name in (b"LST2", b"STA2"):
            await self._stat_2(name, path)
        elif name in (b"LIST", b"LIS2"):
            await self._list(path, second=name == b"LIS2")
        elif name == b"SEND":
            target, _, mode = path.rpartition(",")
            await self._receive_file(target, int(mode) if mode.isdecimal() else 0o644)
        elif name == b"SND2":
            _name, mode, flags = SETTING.unpack(await self._reader.exactly(SETTING.size))
            if flags:
                raise _Refusal("compression is not offered")
            await self._receive_file(path, mode)
        elif name == b"RECV":
            await self._send_file(path)
        elif name == b"RCV2":
            await self._reader.exactly(REQUEST.size)
            await self._send_file(path)
        else:
            raise _Refusal(f"unknown command {name!r}")

    async def _refuse(self, words: str) -> None:
        text = words.encode(errors="surrogateescape")
        await self._stream.send_all(REQUEST.pack(b"FAIL", len(text)) + text)

    async def _look(self, how: Callable[[str], os.stat_result], path: str) -> os.stat_result | None:
        try:
            return await trio.to_thread.run_sync(how, path)
        except OSError:
            return None

    async def _stat_2(self, name: bytes, path: str) -> None:
        how = self._files.stat if name == b"STA2" else self._files.lstat
        try:
            found = await trio.to_thread.run_sync(how, path)
        except OSError as error:
            await self._stream.send_all(name + STAT_2.pack(error.errno or 0, *[0] * 10))
        else:
            await self._stream.send_all(name + _version_2(found))

    async def _list(self, path: str, *, second: bool) -> None:
        try:
            entries = await trio.to_thread.run_sync(self._entries, path)
        except OSError:
            entries = []  # a folder that cannot be read looks empty, as adbd has it
        told = bytearray()
        for name, found in entries:
            text = os.fsencode(name)
            head = b"DNT2" + _version_2(found) if second else b"DENT" + _version_1(found)
            told += head + struct.pack("<I", len(text)) + text
        told += b"DONE" + bytes((STAT_2.size if second else STAT_1.size) + 4)
        await self._stream.send_all(told)

    def _entries(self, path: str) -> list[tuple[str, os.stat_result]]:
        """A folder's entries with itself and the one above, as the system has them."""
        around = [(name, self._files.stat(f"{path}/{name}")) for name in (".", "..")]
        return around + self._files.list(path)

    # from the device

    async def _send_file(self, path: str) -> None:
        try:
            descriptor = await trio.to_thread.run_sync(self._files.open, path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise _Refusal(f"open failed: {error.strerror}") from None
        try:
            while content := await trio.to_thread.run_sync(os.read, descriptor, SEND_LIMIT):
                told = bytearray()
                for start in range(0, len(content), CHUNK):
                    piece = content[start : start + CHUNK]
                    told += REQUEST.pack(b"DATA", len(piece)) + piece
                await self._stream.send_all(told)
        except OSError as error:
            raise _Refusal(f"read failed: {error.strerror}") from None
        finally:
            os.close(descriptor)
        await self._stream.send_all(REQUEST.pack(b"DONE", 0))

    # to the device

    async def _receive_file(self, path: str, mode: int) -> None:
        self._expecting = True
        try:
            if stat.S_ISLNK(mode):
                await self._take_link(path)
            else:
                await self._take_content(path, mode)
        except _Refusal as refusal:
            await self._refuse(str(refusal))
            while self._expecting:  # what the host still sends before it looks is thrown away
                await self._piece()
            return
        await self._stream.send_all(REQUEST.pack(b"OKAY", 0))

    async def _piece(self) -> bytes:
        """Return the next part of what the host sends; nothing at the end, and then the file's time is known."""
        while True:
            name, value = REQUEST.unpack(await self._reader.exactly(REQUEST.size))
            if name == b"DONE":
                self._expecting = False
                self._modified = value
                return b""
            if name != b"DATA" or value > CHUNK:
                raise EOFError("the host has lost its place")
            if value:
                return await self._reader.exactly(value)

    async def _call(self, what: str, action: Callable[[], T]) -> T:
        try:
            return await trio.to_thread.run_sync(action)
        except OSError as error:
            raise _Refusal(f"{what}: {error.strerror}") from None

    async def _take_link(self, path: str) -> None:
        target = b""
        while piece := await self._piece():
            target += piece
        await self._call("secure_mkdirs failed", lambda: self._files.make_folders(posixpath.dirname(path)))
        text = os.fsdecode(target.rstrip(b"\0"))
        await self._call("symlink failed", lambda: self._files.link(path, text))

    async def _take_content(self, path: str, mode: int) -> None:
        """Write a file. One that could not be taken whole is not left behind."""
        descriptor = await self._call("couldn't create file", lambda: self._create(path))
        try:
            while piece := await self._piece():
                await self._call("write failed", functools.partial(write_whole, descriptor, piece))
            await self._call("settle failed", lambda: self._settle(descriptor, mode))
        except BaseException:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._files.remove, path)
            raise
        finally:
            os.close(descriptor)

    def _create(self, path: str) -> int:
        with contextlib.suppress(OSError):
            if not stat.S_ISCHR(self._files.lstat(path).st_mode):
                self._files.remove(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK
        try:
            return self._files.open(path, flags, 0o600)
        except FileNotFoundError:
            self._files.make_folders(posixpath.dirname(path))
            return self._files.open(path, flags, 0o600)

    def _settle(self, descriptor: int, mode: int) -> None:
        """Give a file its mode, with the owner's rights copied to group and others, and its time."""
        owner = mode & 0o700
        os.fchmod(descriptor, mode & 0o777 | owner >> 3 | owner >> 6)
        os.utime(descriptor, (self._modified, self._modified))


def _version_1(found: os.stat_result | None) -> bytes:
    if found is None:
        return bytes(STAT_1.size)
    return STAT_1.pack(found.st_mode, found.st_size & 0xFFFFFFFF, int(found.st_mtime) & 0xFFFFFFFF)


def _version_2(found: os.stat_result) -> bytes:
    times = (int(found.st_atime), int(found.st_mtime), int(found.st_ctime))
    owner = (found.st_uid, found.st_gid, found.st_size)
    return STAT_2.pack(0, found.st_dev, found.st_ino, found.st_mode, found.st_nlink, *owner, *times)
