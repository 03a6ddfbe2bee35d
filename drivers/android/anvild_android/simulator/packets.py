"""The packets of adb's transport protocol, and exact reads from a stream."""

from __future__ import annotations

import enum
import struct

import msgspec
import trio

__all__ = ["MAX_PAYLOAD", "VERSION", "Command", "Packet", "Reader", "read_packet"]

VERSION = 0x01000001  # from this version on, nobody looks at the checksum
MAX_PAYLOAD = 1 << 20
HEADER = struct.Struct("<6I")


class Command(enum.IntEnum):
    """What a packet is for; each is four letters in little-endian order."""

    CNXN = 0x4E584E43
    AUTH = 0x48545541
    STLS = 0x534C5453
    OPEN = 0x4E45504F
    OKAY = 0x59414B4F
    WRTE = 0x45545257
    CLSE = 0x45534C43


class Packet(msgspec.Struct, frozen=True):
    """One packet; what its two arguments mean depends on the command."""

    command: int
    arg0: int
    arg1: int
    payload: bytes = b""

    def encode(self) -> bytes:
        """Return the packet as it stands on the wire, with its checksum for peers that still look at it."""
        checksum = sum(self.payload) & 0xFFFFFFFF if self.command in (Command.CNXN, Command.AUTH) else 0
        magic = self.command ^ 0xFFFFFFFF
        return HEADER.pack(self.command, self.arg0, self.arg1, len(self.payload), checksum, magic) + self.payload


class Reader:
    """Reads exact amounts from a stream."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def exactly(self, size: int) -> bytes:
        """Return the next ``size`` bytes. Raises EOFError when the stream ends before. Cancelled, it loses nothing."""
        while len(self._buffer) < size:
            chunk = await self._stream.receive_some()
            if not chunk:
                raise EOFError("the stream has ended")
            self._buffer += chunk
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken


async def read_packet(reader: Reader) -> Packet:
    """Read one packet. Raises EOFError, ValueError for what is none."""
    command, arg0, arg1, size, _checksum, magic = HEADER.unpack(await reader.exactly(HEADER.size))
    if magic != command ^ 0xFFFFFFFF or size > MAX_PAYLOAD:
        raise ValueError(f"not a packet: command {command:#x}, magic {magic:#x}, {size} bytes")
    return Packet(command, arg0, arg1, await reader.exactly(size))
