"""AFC on a simulated disk."""

from __future__ import annotations

import itertools
import struct

from ...wire.afc import AfcMode, AfcOperation, AfcStatus, Packet, encode_packet, join_texts, receive_packet, texts
from ...wire.streams import Wire
from ..device import SimulatedDevice
from ..disk import Disk, DiskError, File, Link

__all__ = ["serve_afc", "serve_crash_files", "serve_media"]

U64 = struct.Struct("<Q")
MAX_READ = 8 * 2**20


async def serve_media(device: SimulatedDevice, wire: Wire) -> None:
    """Serve the media folder."""
    await serve_afc(device.media, wire)


async def serve_crash_files(device: SimulatedDevice, wire: Wire) -> None:
    """Serve the crash reports."""
    await serve_afc(device.crashes, wire)


async def serve_afc(disk: Disk, wire: Wire) -> None:
    """Serve a disk to one client."""
    client = _Client(disk)
    while True:
        packet = await receive_packet(wire)
        try:
            operation, body = client.answer(packet)
        except DiskError as error:
            operation, body = AfcOperation.STATUS, U64.pack(error.status)
        except (struct.error, IndexError, UnicodeDecodeError):
            operation, body = AfcOperation.STATUS, U64.pack(AfcStatus.INVALID_ARGUMENT)
        # Bulk data comes behind the head of a packet, all else in it: some clients read only the one or the other.
        bulk = operation is AfcOperation.DATA
        await wire.send(encode_packet(packet.number, operation, b"" if bulk else body, body if bulk else b""))


class _Open:
    """An open file and the place in it."""

    def __init__(self, file: File, mode: int) -> None:
        self.file = file
        self.mode = mode
        self.place = file.size if mode in (AfcMode.APPEND, AfcMode.READ_APPEND) else 0


class _Client:
    """The open files of one connection, and its operations."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._open: dict[int, _Open] = {}
        self._handles = itertools.count(1)

    def answer(self, packet: Packet) -> tuple[AfcOperation, bytes]:
        """Carry a packet out. Raises DiskError."""
        match packet.operation:
            case AfcOperation.READ_DIRECTORY:
                entries = self._disk.directory(texts(packet.head)[0]).entries
                return AfcOperation.DATA, join_texts([".", "..", *entries])
            case AfcOperation.FILE_INFO:
                return AfcOperation.DATA, self._info(texts(packet.head)[0])
            case AfcOperation.DEVICE_INFO:
                return AfcOperation.DATA, self._device()
            case AfcOperation.OPEN:
                return AfcOperation.OPENED, U64.pack(self._open_file(packet.head))
            case AfcOperation.READ:
                return AfcOperation.DATA, self._read(packet.head)
            case AfcOperation.TELL:
                return AfcOperation.TOLD, U64.pack(self._of(packet.head).place)
        self._change(packet)
        return AfcOperation.STATUS, U64.pack(AfcStatus.SUCCESS)

    def _change(self, packet: Packet) -> None:
        head = packet.head
        match packet.operation:
            case AfcOperation.WRITE:
                self._write(self._of(head), packet.payload or head[8:])
            case AfcOperation.CLOSE:
                self._open.pop(U64.unpack_from(head)[0], None)
            case AfcOperation.SEEK:
                self._seek(head)
            case AfcOperation.SET_SIZE:
                self._disk.resize(self._of(head).file, U64.unpack_from(head, 8)[0])
            case AfcOperation.REMOVE:
                self._disk.remove(texts(head)[0])
            case AfcOperation.REMOVE_ALL:
                self._disk.remove(texts(head)[0], tree=True)
            case AfcOperation.MAKE_DIRECTORY:
                self._disk.make(texts(head)[0])
            case AfcOperation.RENAME:
                source, target = texts(head)[:2]
                self._disk.rename(source, target)
            case AfcOperation.LINK:
                target, path = texts(head[8:])[:2]
                self._disk.link(target, path)
            case AfcOperation.SET_TIME:
                self._disk.find(texts(head[8:])[0]).modified = U64.unpack_from(head)[0] / 1e9
            case _:
                raise DiskError(AfcStatus.NOT_SUPPORTED)

    def _of(self, head: bytes) -> _Open:
        found = self._open.get(U64.unpack_from(head)[0])
        if found is None:
            raise DiskError(AfcStatus.INVALID_ARGUMENT)
        return found

    def _open_file(self, head: bytes) -> int:
        mode, path = U64.unpack_from(head)[0], texts(head[8:])[0]
        if mode in (AfcMode.READ, AfcMode.READ_WRITE):
            file = self._disk.file(path)
        elif mode in (AfcMode.APPEND, AfcMode.READ_APPEND):
            try:
                file = self._disk.file(path)
            except DiskError as error:
                if error.status is not AfcStatus.NOT_FOUND:
                    raise
                file = self._disk.create(path)
        else:
            file = self._disk.create(path)
        handle = next(self._handles)
        self._open[handle] = _Open(file, mode)
        return handle

    def _read(self, head: bytes) -> bytes:
        opened = self._of(head)
        count = min(U64.unpack_from(head, 8)[0], MAX_READ)
        data = bytes(opened.file.data[opened.place : opened.place + count])
        opened.place += len(data)
        return data

    def _write(self, opened: _Open, data: bytes) -> None:
        if opened.mode == AfcMode.READ:
            raise DiskError(AfcStatus.PERMISSION_DENIED)
        end = opened.place + len(data)
        if end > opened.file.size:
            self._disk.resize(opened.file, end)
        opened.file.data[opened.place : end] = data
        opened.place = end

    def _seek(self, head: bytes) -> None:
        opened = self._of(head)
        (whence,) = U64.unpack_from(head, 8)
        (offset,) = struct.unpack_from("<q", head, 16)
        opened.place = max(0, offset + {0: 0, 1: opened.place, 2: opened.file.size}.get(whence, 0))

    def _info(self, path: str) -> bytes:
        node = self._disk.find(path)
        words = {
            "st_size": str(node.size),
            "st_blocks": str((node.size + 511) // 512),
            "st_nlink": "1",
            "st_ifmt": node.kind,
            "st_mtime": str(int(node.modified * 1e9)),
            "st_birthtime": str(int(node.modified * 1e9)),
        }
        if isinstance(node, Link):
            words["LinkTarget"] = node.target
        return join_texts(word for pair in words.items() for word in pair)

    def _device(self) -> bytes:
        words = {
            "Model": "Simulated",
            "FSTotalBytes": str(self._disk.limit),
            "FSFreeBytes": str(self._disk.limit - self._disk.used),
            "FSBlockSize": "4096",
        }
        return join_texts(word for pair in words.items() for word in pair)
