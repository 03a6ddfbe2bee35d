"""The client of AFC: files in a folder that the device opens to its host."""

from __future__ import annotations

import struct

import msgspec
import trio

from .wire.afc import AfcMode, AfcOperation, AfcStatus, Packet, encode_packet, join_texts, receive_packet, texts
from .wire.streams import Wire, WireClosed, WireGarbled

__all__ = ["Afc", "AfcError", "AfcInfo"]

PIECE = 2**20
"""Bytes of one read or write: devices refuse much more."""

U64 = struct.Struct("<Q")
TWO_U64 = struct.Struct("<2Q")


class AfcError(Exception):
    """The device refused a file operation. ``status`` is its own number."""

    def __init__(self, status: int, path: str) -> None:
        try:
            words = AfcStatus(status).name.lower().replace("_", " ")
        except ValueError:
            words = f"error {status}"
        super().__init__(f"{path}: {words}")
        self.status = status
        self.path = path


class AfcInfo(msgspec.Struct, frozen=True):
    """What AFC tells of a path. ``modified`` is in seconds of the device's clock."""

    kind: str
    size: int
    modified: float
    target: str | None = None

    @property
    def is_directory(self) -> bool:
        return self.kind == "S_IFDIR"


class Afc:
    """One connection. Several tasks may use it: operations queue.

    An operation that was cancelled half-way leaves an answer that nobody reads, so the connection is closed with it;
    every later operation raises WireClosed.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._number = 0
        self._lock = trio.Lock()

    async def list(self, path: str) -> list[str]:
        """Return the names in a directory, without ``.`` and ``..``."""
        answer = await self._ask(AfcOperation.READ_DIRECTORY, path, join_texts([path]))
        return [name for name in texts(answer.body) if name not in (".", "..", "")]

    async def info(self, path: str) -> AfcInfo:
        """Describe a path; a link is described itself."""
        answer = await self._ask(AfcOperation.FILE_INFO, path, join_texts([path]))
        words = texts(answer.body)
        known = dict(zip(words[::2], words[1::2], strict=False))
        try:
            return AfcInfo(
                kind=known.get("st_ifmt", ""),
                size=int(known.get("st_size", 0)),
                modified=int(known.get("st_mtime", 0)) / 1e9,
                target=known.get("LinkTarget"),
            )
        except ValueError as error:
            raise WireGarbled(f"the device describes {path!r} in no known way: {error}") from error

    async def device_info(self) -> dict[str, str]:
        """Return what the device says of the file system: ``FSFreeBytes`` and so on."""
        words = texts((await self._ask(AfcOperation.DEVICE_INFO, "/", b"")).body)
        return dict(zip(words[::2], words[1::2], strict=False))

    async def make_directory(self, path: str) -> None:
        """Make a directory and its parents; one that is there is no error."""
        await self._ask(AfcOperation.MAKE_DIRECTORY, path, join_texts([path]))

    async def remove(self, path: str) -> None:
        """Remove a file or an empty directory."""
        await self._ask(AfcOperation.REMOVE, path, join_texts([path]))

    async def remove_tree(self, path: str) -> None:
        """Remove a directory with all in it, or a file."""
        try:
            await self._ask(AfcOperation.REMOVE_ALL, path, join_texts([path]))
        except AfcError as error:
            if error.status not in (AfcStatus.NOT_SUPPORTED, AfcStatus.UNKNOWN_PACKET):
                raise
            await self._remove_slowly(path)

    async def _remove_slowly(self, path: str) -> None:
        if (await self.info(path)).is_directory:
            for name in await self.list(path):
                await self._remove_slowly(f"{path.rstrip('/')}/{name}")
        await self.remove(path)

    async def rename(self, path: str, target: str) -> None:
        """Rename a file; what is at ``target`` is replaced."""
        await self._ask(AfcOperation.RENAME, path, join_texts([path, target]))

    async def open(self, path: str, mode: AfcMode) -> int:
        """Open a file and return its handle."""
        answer = await self._ask(AfcOperation.OPEN, path, U64.pack(mode) + join_texts([path]))
        if answer.operation != AfcOperation.OPENED or len(answer.body) < U64.size:
            raise WireGarbled("the device has opened a file and gave no handle")
        return int(U64.unpack_from(answer.body)[0])

    async def read(self, handle: int, path: str) -> bytes:
        """Return the next piece of a file; empty at its end."""
        return (await self._ask(AfcOperation.READ, path, TWO_U64.pack(handle, PIECE))).body

    async def write(self, handle: int, path: str, data: bytes) -> None:
        """Write bytes at the file's place."""
        for start in range(0, len(data), PIECE):
            piece = data[start : start + PIECE]
            await self._ask(AfcOperation.WRITE, path, U64.pack(handle), piece)

    async def close(self, handle: int, path: str) -> None:
        """Close a handle."""
        await self._ask(AfcOperation.CLOSE, path, U64.pack(handle))

    async def aclose(self) -> None:
        """Close the connection, and with it every handle."""
        await self._wire.aclose()

    async def _ask(self, operation: AfcOperation, path: str, head: bytes, payload: bytes = b"") -> Packet:
        async with self._lock:
            self._number += 1
            try:
                await self._wire.send(encode_packet(self._number, operation, head, payload))
                answer = await receive_packet(self._wire)
            except BaseException:
                with trio.CancelScope(shield=True):
                    await self._wire.aclose()
                raise
        if answer.number != self._number:
            raise WireClosed("the device answered another question")
        if answer.operation == AfcOperation.STATUS:
            status = int(U64.unpack_from(answer.body)[0]) if len(answer.body) >= U64.size else AfcStatus.UNKNOWN
            if status != AfcStatus.SUCCESS:
                raise AfcError(status, path)
        return answer
