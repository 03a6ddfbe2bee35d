"""Pictures and videos as real files: PNG, and MP4 with a PNG a frame."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Sequence

__all__ = ["draw_screen", "make_video"]

BAR = 40  # one of so many parts of the height is the status bar
PNG_IN_MP4 = 0x6D
MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
TIMESCALE = 1000


def _part(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def draw_screen(width: int, height: int, app: str, battery: int) -> bytes:
    """Return a PNG of a screen: a bar as long as the battery is full, and below it a colour that the app has."""
    colour = hashlib.sha256(app.encode()).digest()[:3]
    palette = bytes((24, 24, 24, 235, 235, 235)) + colour
    full = width * battery // 100
    bar = b"\0" + b"\1" * full + b"\0" * (width - full)
    row = b"\0" + b"\2" * width
    rows = bar * (height // BAR) + row * (height - height // BAR)
    head = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    parts = [(b"IHDR", head), (b"PLTE", palette), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_part(kind, content) for kind, content in parts)


def _box(kind: bytes, *contents: bytes) -> bytes:
    content = b"".join(contents)
    return struct.pack(">I", 8 + len(content)) + kind + content


def _full(kind: bytes, *contents: bytes, flags: int = 0) -> bytes:
    return _box(kind, struct.pack(">I", flags), *contents)


def _descriptor(tag: int, content: bytes) -> bytes:
    return bytes((tag, len(content))) + content


def make_video(frames: Sequence[bytes], width: int, height: int, seconds: float) -> bytes:
    """Return an MP4 that shows PNG frames, one after the other, for so long in all."""
    step = max(int(seconds * TIMESCALE / max(len(frames), 1)), 1)
    duration = step * len(frames)
    kind = _box(b"ftyp", b"isom", struct.pack(">I", 512), b"isomiso2mp41")
    data = _box(b"mdat", *frames)
    size = struct.pack(">HH", width, height)
    decoder = _descriptor(4, bytes((PNG_IN_MP4, 0x11, 0, 0, 0)) + bytes(8))
    stream = _full(b"esds", _descriptor(3, struct.pack(">HB", 1, 0) + decoder + _descriptor(6, b"\2")))
    entry = _box(
        b"mp4v",
        bytes(6) + struct.pack(">H", 1) + bytes(16) + size + struct.pack(">IIIH", 0x480000, 0x480000, 0, 1),
        bytes(32) + struct.pack(">Hh", 24, -1),
        stream,
    )
    table = _box(
        b"stbl",
        _full(b"stsd", struct.pack(">I", 1), entry),
        _full(b"stts", struct.pack(">III", 1, len(frames), step)),
        _full(b"stsc", struct.pack(">IIII", 1, 1, len(frames), 1)),
        _full(b"stsz", struct.pack(">II", 0, len(frames)), *(struct.pack(">I", len(frame)) for frame in frames)),
        _full(b"stco", struct.pack(">II", 1, len(kind) + 8)),
    )
    place = _box(b"dinf", _full(b"dref", struct.pack(">I", 1), _full(b"url ", flags=1)))
    information = _box(b"minf", _full(b"vmhd", bytes(8), flags=1), place, table)
    media = _box(
        b"mdia",
        _full(b"mdhd", struct.pack(">IIIIHH", 0, 0, TIMESCALE, duration, 0x55C4, 0)),
        _full(b"hdlr", bytes(4) + b"vide" + bytes(12) + b"video\0"),
        information,
    )
    track = _full(
        b"tkhd",
        struct.pack(">IIIII", 0, 0, 1, 0, duration)
        + bytes(16)
        + MATRIX
        + struct.pack(">II", width << 16, height << 16),
        flags=3,
    )
    movie = _full(
        b"mvhd",
        struct.pack(">IIIIIH", 0, 0, TIMESCALE, duration, 0x10000, 0x100) + bytes(10) + MATRIX + bytes(24),
        struct.pack(">I", 2),
    )
    return kind + data + _box(b"moov", movie, _box(b"trak", track, media))
