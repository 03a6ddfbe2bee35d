"""The wire: constants, and values as bytes. ``protocol.py``, the host's side of it, describes them."""

from __future__ import annotations

import struct

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, which a minimal Python takes long to import
if TYPE_CHECKING:
    from typing import Any

    Message = dict[str, Any]

VERSION = 1
MAGIC = bytes.fromhex("f1a9c6d2b8e3979fd4c0a5eb86b1dce7")
NONCE_SIZE = 16
HEADER = struct.Struct("<BII")
PAYLOAD_LIMIT = 65536
WINDOW = 262144
FRAME_COST = 64
OPEN, PART, DATA, EXTRA, EOF, CREDIT, CONTROL, CLOSE, ANSWER, END, INFO = range(1, 12)
CLOSE_RELEASE, CLOSE_COLLECTED, CLOSE_UNDO = range(3)
KEPT_OUTPUT = 262144
KEPT_EXITS = 64
REQUEST_LIMIT = 1048576
NEST_LIMIT = 8


class Garbled(Exception):
    """What came from the host is no protocol: forget the connection and wait for the next one."""


def pack(value: object) -> bytes:
    out = bytearray()
    pack_into(out, value)
    return bytes(out)


def pack_into(out: bytearray, value: Any) -> None:
    if value is None:
        out += b"n"
    elif value is True or value is False:
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
    elif isinstance(value, dict):
        out += struct.pack("<cI", b"m", len(value))
        for key, item in value.items():
            pack_into(out, key)
            pack_into(out, item)
    else:
        out += struct.pack("<cI", b"l", len(value))
        for item in value:
            pack_into(out, item)


def unpack(data: bytes) -> Any:
    value, end = unpack_from(data, 0, 0)
    if end != len(data):
        raise Garbled("trailing bytes")
    return value


def unpack_from(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    tag = data[at : at + 1]
    at += 1
    if tag in (b"n", b"t", b"f"):
        return {b"n": None, b"t": True, b"f": False}[tag], at
    if tag in (b"i", b"d"):
        return struct.unpack_from("<q" if tag == b"i" else "<d", data, at)[0], at + 8
    if tag not in (b"s", b"b", b"l", b"m") or depth > NEST_LIMIT:
        raise Garbled("unknown value")
    count = struct.unpack_from("<I", data, at)[0]
    at += 4
    if count > len(data) - at:
        raise Garbled("a value is longer than its message")
    if tag in (b"s", b"b"):
        raw = bytes(data[at : at + count])
        return raw.decode("utf-8", "surrogateescape") if tag == b"s" else raw, at + count
    items = []
    for _ in range(count if tag == b"l" else 2 * count):
        item, at = unpack_from(data, at, depth + 1)
        items.append(item)
    return (items if tag == b"l" else dict(zip(items[::2], items[1::2]))), at  # noqa: B905
