"""The frames of AFC, the file protocol of the devices, and its numbers."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

from .streams import Wire, WireGarbled

__all__ = ["AfcMode", "AfcOperation", "AfcStatus", "Packet", "encode_packet", "join_texts", "receive_packet", "texts"]

MAGIC = b"CFA6LPAA"
HEADER = struct.Struct("<8s4Q")
MAX_PACKET = 64 * 2**20
U64 = struct.Struct("<Q")


class AfcOperation(IntEnum):
    """What a packet asks for, or answers."""

    STATUS = 0x01
    DATA = 0x02
    READ_DIRECTORY = 0x03
    REMOVE = 0x08
    MAKE_DIRECTORY = 0x09
    FILE_INFO = 0x0A
    DEVICE_INFO = 0x0B
    OPEN = 0x0D
    OPENED = 0x0E
    READ = 0x0F
    WRITE = 0x10
    SEEK = 0x11
    TELL = 0x12
    TOLD = 0x13
    CLOSE = 0x14
    SET_SIZE = 0x15
    RENAME = 0x18
    LINK = 0x1C
    SET_TIME = 0x1E
    REMOVE_ALL = 0x22


class AfcStatus(IntEnum):
    """How an operation ended."""

    SUCCESS = 0
    UNKNOWN = 1
    HEADER_INVALID = 2
    NO_RESOURCES = 3
    READ_ERROR = 4
    WRITE_ERROR = 5
    UNKNOWN_PACKET = 6
    INVALID_ARGUMENT = 7
    NOT_FOUND = 8
    IS_DIRECTORY = 9
    PERMISSION_DENIED = 10
    NOT_CONNECTED = 11
    NOT_SUPPORTED = 15
    EXISTS = 16
    BUSY = 17
    NO_SPACE = 18
    IO_ERROR = 20
    NOT_EMPTY = 33


class AfcMode(IntEnum):
    """How a file is opened."""

    READ = 1
    READ_WRITE = 2
    WRITE_NEW = 3
    READ_WRITE_NEW = 4
    APPEND = 5
    READ_APPEND = 6


class Packet(NamedTuple):
    """One packet: ``head`` are the operation's own bytes, ``payload`` the bulk data behind them."""

    number: int
    operation: int
    head: bytes
    payload: bytes

    @property
    def body(self) -> bytes:
        """All behind the header: senders disagree about where the head of an answer ends."""
        return self.head + self.payload


def encode_packet(number: int, operation: AfcOperation, head: bytes = b"", payload: bytes = b"") -> bytes:
    """Frame a packet."""
    this = HEADER.size + len(head)
    return HEADER.pack(MAGIC, this + len(payload), this, number, operation) + head + payload


async def receive_packet(wire: Wire) -> Packet:
    """Receive one packet. Raises WireClosed, WireGarbled."""
    magic, entire, this, number, operation = HEADER.unpack(await wire.exactly(HEADER.size))
    if magic != MAGIC or not HEADER.size <= this <= entire <= MAX_PACKET:
        raise WireGarbled("it is no AFC packet")
    head = await wire.exactly(this - HEADER.size)
    return Packet(number, operation, head, await wire.exactly(entire - this))


def join_texts(words: Iterable[str]) -> bytes:
    """Write texts as AFC does: each ends with NUL."""
    return b"".join(word.encode() + b"\0" for word in words)


def texts(data: bytes) -> list[str]:
    """Read what :func:`join_texts` has written. Some senders leave the last NUL away."""
    return [each.decode(errors="replace") for each in data.removesuffix(b"\0").split(b"\0")] if data else []
