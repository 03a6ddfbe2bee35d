"""The wire between the host and the guest agent.

A connection begins with ``MAGIC`` and a nonce from the host; the guest answers with the same and an INFO frame. A
guest that starts to serve a channel says ``MAGIC`` and a nonce of zeros, upon which the host speaks again. Then frames:

    u8 kind · u32 payload length · u32 stream id · payload (at most 64 KiB), little-endian

The guest looks for ``MAGIC`` in all that it receives, because a host may vanish in the middle of a frame and the next
one come at once; so the host never sends ``MAGIC`` inside a frame: what holds it is cut there into two. No byte of it
can be a frame's kind or the last byte of a stream id, so frames cannot make it by chance.

Each verb is a stream: OPEN with a request, ANSWER, DATA either way, EOF, END with the result. Whoever receives data
gives credit for it, in payload bytes plus ``FRAME_COST`` a frame; at most ``WINDOW`` is under way on a stream in each
direction. Messages are packed by a small binary encoding, because a minimal Python has no json.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from enum import IntEnum
from typing import TypeAlias

from ..errors import DriverFault, InvalidArgument

VERSION = 1
MAGIC = bytes.fromhex("f1a9c6d2b8e3979fd4c0a5eb86b1dce7")
NONCE_SIZE = 16
HEADER = struct.Struct("<BII")
PAYLOAD_LIMIT = 65536
WINDOW = 262144
FRAME_COST = 64
KEPT_OUTPUT = 262144
KEPT_EXITS = 64
REQUEST_LIMIT = 1048576
NEST_LIMIT = 8

Packed: TypeAlias = "bool | int | float | str | bytes | Sequence[Packed] | Mapping[str, Packed] | None"
Message = dict[str, object]


class Kind(IntEnum):
    """What a frame is. DATA is standard output or a file's bytes, EXTRA standard error; PARTs precede a long OPEN."""

    OPEN = 1
    PART = 2
    DATA = 3
    EXTRA = 4
    EOF = 5
    CREDIT = 6
    CONTROL = 7
    CLOSE = 8
    ANSWER = 9
    END = 10
    INFO = 11


class Close(IntEnum):
    """How the host lets go of a stream: release it, having collected its end, or undo what it began."""

    RELEASE = 0
    COLLECTED = 1
    UNDO = 2


def frame(kind: Kind, sid: int, payload: bytes | memoryview = b"") -> bytes:
    return b"".join((HEADER.pack(kind, len(payload), sid), payload))


def pieces(data: bytes) -> Iterator[memoryview]:
    """Cut data into payloads that are small enough and hold no ``MAGIC``."""
    view = memoryview(data)
    at = 0
    while at < len(data):
        end = min(at + PAYLOAD_LIMIT, len(data))
        found = data.find(MAGIC, at, end)
        if found >= 0:
            end = found + len(MAGIC) // 2
        yield view[at:end]
        at = end


def pack(value: Packed) -> bytes:
    """Encode a message. Raises InvalidArgument for text that is no Unicode and integers beyond 64 bits."""
    out = bytearray()
    try:
        _pack_into(out, value)
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"{error.object!r} is no text that a device can take: {error.reason}") from None
    except struct.error:
        raise InvalidArgument("a number is beyond 64 bits") from None
    return bytes(out)


def _pack_into(out: bytearray, value: Packed) -> None:
    if value is None:
        out += b"n"
    elif isinstance(value, bool):
        out += b"t" if value else b"f"
    elif isinstance(value, int):
        out += struct.pack("<cq", b"i", value)
    elif isinstance(value, float):
        out += struct.pack("<cd", b"d", value)
    elif isinstance(value, str):
        data = value.encode("utf-8", "surrogateescape")
        out += struct.pack("<cI", b"s", len(data)) + data
    elif isinstance(value, bytes):
        out += struct.pack("<cI", b"b", len(value)) + value
    elif isinstance(value, Mapping):
        out += struct.pack("<cI", b"m", len(value))
        for key, item in value.items():
            _pack_into(out, key)
            _pack_into(out, item)
    else:
        out += struct.pack("<cI", b"l", len(value))
        for item in value:
            _pack_into(out, item)


def unpack(data: bytes) -> object:
    """Decode a message from a guest that may lie. Raises DriverFault."""
    try:
        value, end = _unpack_from(data, 0, 0)
    except struct.error:
        raise DriverFault("the guest agent sent a message that ends too early") from None
    if end != len(data):
        raise DriverFault("the guest agent sent a message with trailing bytes")
    return value


_CONSTANTS = {b"n": None, b"t": True, b"f": False}


def _unpack_from(data: bytes, at: int, depth: int) -> tuple[object, int]:
    tag = data[at : at + 1]
    at += 1
    if tag in _CONSTANTS:
        return _CONSTANTS[tag], at
    if tag in (b"i", b"d"):
        return struct.unpack_from("<q" if tag == b"i" else "<d", data, at)[0], at + 8
    if tag not in (b"s", b"b", b"l", b"m") or depth > NEST_LIMIT:
        raise DriverFault("the guest agent sent a message of an unknown form")
    count: int = struct.unpack_from("<I", data, at)[0]
    at += 4
    if count > len(data) - at:
        raise DriverFault("the guest agent sent a message that claims more than it holds")
    if tag in (b"s", b"b"):
        raw = data[at : at + count]
        return raw.decode("utf-8", "surrogateescape") if tag == b"s" else raw, at + count
    items: list[object] = []
    for _ in range(count if tag == b"l" else 2 * count):
        item, at = _unpack_from(data, at, depth + 1)
        items.append(item)
    if tag == b"l":
        return items, at
    if not all(isinstance(key, str) for key in items[::2]):
        raise DriverFault("the guest agent sent a message with a key that is no text")
    return dict(zip(items[::2], items[1::2], strict=True)), at


def unpack_message(data: bytes) -> Message:
    """Decode a message that must be a mapping. Raises DriverFault."""
    value = unpack(data)
    if not isinstance(value, dict):
        raise DriverFault("the guest agent sent a message that is no mapping")
    return value
