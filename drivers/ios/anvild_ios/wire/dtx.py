"""DTX, the messages of Apple's developer services: calls of methods with archived arguments, and their answers."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import msgspec

from .archive import archive, unarchive
from .streams import Wire, WireGarbled

__all__ = ["DtxKind", "DtxMessage", "Int32", "encode_dtx", "receive_dtx"]

MAGIC = 0x1F3D5B79
HEADER = struct.Struct("<IIHHIIIiI")
"""Magic, size of this header, fragment, fragments, length, identifier, turn, channel, answer wanted."""

PAYLOAD = struct.Struct("<IIQ")
"""Kind and flags, length of the arguments, length of arguments and object."""

ARGUMENTS = struct.Struct("<QQ")
ARGUMENTS_MARK = 0x1F0
U32 = struct.Struct("<I")
I32 = struct.Struct("<i")
I64 = struct.Struct("<q")
NO_KEY = 10
OBJECT, INT32, INT64 = 2, 3, 6
MAX_MESSAGE = 64 * 2**20


class DtxKind(IntEnum):
    """What a message is."""

    ACKNOWLEDGED = 0
    CALL = 2
    ANSWER = 3
    ERROR = 4


class Int32(int):
    """A number that goes as itself, and not as an archived object."""


class DtxMessage(msgspec.Struct, frozen=True):
    """One message. ``value`` is the name of the method that is called, or the answer."""

    identifier: int
    turn: int
    channel: int
    kind: int
    value: Any = None
    arguments: tuple[Any, ...] = ()
    wanted: bool = False


def encode_dtx(message: DtxMessage) -> bytes:
    """Write a message in one fragment. A number of the type Int32 goes as itself, all else as an archive."""
    listed = _encode_arguments(message.arguments) if message.arguments else b""
    value = b"" if message.value is None else archive(message.value)
    payload = PAYLOAD.pack(message.kind, len(listed), len(listed) + len(value)) + listed + value
    head = HEADER.pack(
        MAGIC, HEADER.size, 0, 1, len(payload), message.identifier, message.turn, message.channel, int(message.wanted)
    )
    return head + payload


def _encode_arguments(arguments: Sequence[Any]) -> bytes:
    items = bytearray()
    for each in arguments:
        if isinstance(each, Int32):
            items += U32.pack(NO_KEY) + U32.pack(INT32) + I32.pack(each)
        else:
            data = archive(each)
            items += U32.pack(NO_KEY) + U32.pack(OBJECT) + U32.pack(len(data)) + data
    return ARGUMENTS.pack(ARGUMENTS_MARK, len(items)) + bytes(items)


async def receive_dtx(wire: Wire) -> DtxMessage:
    """Receive a message, whole. Raises WireClosed, WireGarbled."""
    payload = bytearray()
    while True:
        head = HEADER.unpack(await wire.exactly(HEADER.size))
        magic, size, fragment, fragments, length, identifier, turn, channel, wanted = head
        if magic != MAGIC or size < HEADER.size or length > MAX_MESSAGE or len(payload) > MAX_MESSAGE:
            raise WireGarbled("it is no DTX message")
        await wire.exactly(size - HEADER.size)
        if fragments > 1 and fragment == 0:
            continue  # the first of several announces them and is empty
        payload += await wire.exactly(length)
        if fragment == fragments - 1:
            break
    kind, value, arguments = _decode(bytes(payload))
    return DtxMessage(identifier, turn, channel, kind, value, arguments, bool(wanted))


def _decode(payload: bytes) -> tuple[int, Any, tuple[Any, ...]]:
    if not payload:
        return DtxKind.ACKNOWLEDGED, None, ()
    try:
        flags, listed, whole = PAYLOAD.unpack_from(payload)
        start = PAYLOAD.size
        arguments = tuple(_decode_arguments(payload[start : start + listed])) if listed else ()
        data = payload[start + listed : start + whole]
        return flags & 0xFF, unarchive(data) if data else None, arguments
    except struct.error as error:
        raise WireGarbled(f"a DTX message ends too early: {error}") from error


def _decode_arguments(data: bytes) -> list[Any]:
    place = ARGUMENTS.size
    found: list[Any] = []
    while place < len(data):
        (kind,) = U32.unpack_from(data, place)
        place += U32.size
        if kind == NO_KEY:
            continue
        if kind == OBJECT:
            (size,) = U32.unpack_from(data, place)
            place += U32.size
            found.append(unarchive(data[place : place + size]))
            place += size
        elif kind == INT32:
            found.append(I32.unpack_from(data, place)[0])
            place += I32.size
        elif kind == INT64:
            found.append(I64.unpack_from(data, place)[0])
            place += I64.size
        else:
            raise WireGarbled(f"a DTX message has an argument of the unknown type {kind}")
    return found
