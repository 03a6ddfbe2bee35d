"""Pictures one after another as one file: an animated PNG, which needs no encoder of video."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["SIGNATURE", "Animation", "PictureDamaged"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHUNK = struct.Struct(">I4s")
U32 = struct.Struct(">I")
CONTROL = struct.Struct(">IIIIHHBB")
DATA, LATER_DATA, END = b"IDAT", b"fdAT", b"IEND"
MILLISECONDS = 1000


class PictureDamaged(ValueError):
    """Bytes that are no whole PNG."""


class Animation:
    """A file that grows by pictures of one size and kind. All methods block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pictures = 0
        self.size = 0
        self._file: BinaryIO = path.open("wb")
        self._header = b""
        self._counts_at = 0
        self._sequence = 0

    def add(self, picture: bytes, seconds: float) -> bool:
        """Add a picture that is shown so long; False when it is of another size or kind. Raises PictureDamaged."""
        chunks = list(_chunks(picture))
        header = next((data for kind, data in chunks if kind == b"IHDR"), b"")
        if len(header) < 2 * U32.size or not any(kind == DATA for kind, _ in chunks):
            raise PictureDamaged("a PNG without a header or without data")
        if self._header and header != self._header:
            return False
        if not self._header:
            self._begin(header, chunks)
        width, height = struct.unpack_from(">II", header)
        shown = min(int(seconds * MILLISECONDS), 0xFFFF)
        self._write(b"fcTL", self._next() + CONTROL.pack(width, height, 0, 0, shown, MILLISECONDS, 0, 0))
        for kind, data in chunks:
            if kind == DATA:
                self._write(DATA, data) if not self.pictures else self._write(LATER_DATA, self._next() + data)
        self.pictures += 1
        self.size = self._file.tell()
        return True

    def close(self) -> None:
        """End the file, and write how many pictures it has. Closing twice is fine."""
        if not self._file.closed:
            self._write(END, b"")
            self.size = self._file.tell()
            if self._counts_at:
                self._file.seek(self._counts_at)
                self._write(b"acTL", U32.pack(self.pictures) + U32.pack(1))
            self._file.close()

    def _begin(self, header: bytes, chunks: list[tuple[bytes, bytes]]) -> None:
        self._header = header
        self._file.write(SIGNATURE)
        self._write(b"IHDR", header)
        self._counts_at = self._file.tell()
        self._write(b"acTL", U32.pack(0) + U32.pack(1))
        for kind, data in chunks[1:]:  # a palette, a profile of colours
            if kind == DATA:
                break
            self._write(kind, data)

    def _next(self) -> bytes:
        self._sequence += 1
        return U32.pack(self._sequence - 1)

    def _write(self, kind: bytes, data: bytes) -> None:
        self._file.write(U32.pack(len(data)) + kind + data + U32.pack(zlib.crc32(kind + data)))


def _chunks(picture: bytes) -> Iterator[tuple[bytes, bytes]]:
    if not picture.startswith(SIGNATURE):
        raise PictureDamaged("no PNG")
    place = len(SIGNATURE)
    while place < len(picture):
        if place + CHUNK.size > len(picture):
            raise PictureDamaged("a PNG that ends too early")
        size, kind = CHUNK.unpack_from(picture, place)
        data = picture[place + CHUNK.size : place + CHUNK.size + size]
        if len(data) < size:
            raise PictureDamaged("a PNG that ends too early")
        yield kind, data
        place += CHUNK.size + size + U32.size
