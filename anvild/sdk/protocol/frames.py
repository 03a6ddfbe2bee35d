"""What is on the wire below JSON: the frames of byte streams, and the envelope of messages on a pipe."""

from __future__ import annotations

import struct

__all__ = [
    "DATA",
    "FRAME_LIMIT",
    "ITEM_WINDOW",
    "MAX_MESSAGE",
    "STDERR",
    "STDOUT",
    "WINDOW",
    "Deframer",
    "FramingLost",
    "envelope",
    "stream_frame",
    "unpack_frame",
]

MAX_MESSAGE = 16 * 2**20
"""The longest message, in bytes. A longer one ends the connection."""

FRAME_LIMIT = 65536
"""The most bytes of a stream that this implementation puts into one frame."""

WINDOW = 262144
"""The credit, in bytes, that every byte stream begins with, but the output of a process, which begins with none."""

ITEM_WINDOW = 16
"""The credit, in items, that every channel of items begins with."""

DATA, STDOUT, STDERR = 0, 1, 2
"""The channels of a stream frame: plain bytes, and the two outputs of a process."""

TEXT, BINARY = 0, 1

_STREAM = struct.Struct(">IB")
_ENVELOPE = struct.Struct(">IB")


class FramingLost(Exception):
    """What arrived cannot be cut into messages any more."""


def stream_frame(stream: int, channel: int, data: bytes | bytearray | memoryview) -> bytes:
    """Build the binary message that carries a piece of a stream."""
    return b"".join((_STREAM.pack(stream, channel), data))


def unpack_frame(message: bytes) -> tuple[int, int, bytes] | None:
    """Take a binary message apart into stream, channel and data; None when it is too short to be a frame."""
    if len(message) < _STREAM.size:
        return None
    stream, channel = _STREAM.unpack_from(message)
    return stream, channel, message[_STREAM.size :]


def envelope(message: str | bytes) -> bytes:
    """Put a message into the envelope that it has on a pipe: length, kind, payload."""
    if isinstance(message, str):
        payload = message.encode()
        return _ENVELOPE.pack(len(payload), TEXT) + payload
    return _ENVELOPE.pack(len(message), BINARY) + message


class Deframer:
    """Cuts what arrives on a pipe into messages. It holds one message and what was read with it, no more."""

    def __init__(self, max_message: int) -> None:
        self._max = max_message
        self._buffer = bytearray()

    def feed(self, data: bytes | bytearray) -> None:
        """Take what was read."""
        self._buffer += data

    @property
    def inside(self) -> bool:
        """True in the middle of a message."""
        return bool(self._buffer)

    def take(self) -> str | bytes | None:
        """Return the next whole message, or None. Raises FramingLost."""
        buffer = self._buffer
        if len(buffer) < _ENVELOPE.size:
            return None
        length, kind = _ENVELOPE.unpack_from(buffer)
        if kind not in (TEXT, BINARY):
            head = bytes(buffer[:32])
            raise FramingLost(f"no message begins with {head!r}; is something else printing to this pipe?")
        if length > self._max:
            raise FramingLost(f"a message of {length} bytes was announced, and {self._max} are allowed")
        end = _ENVELOPE.size + length
        if len(buffer) < end:
            return None
        payload = bytes(memoryview(buffer)[_ENVELOPE.size : end])
        del buffer[:end]
        if kind == BINARY:
            return payload
        try:
            return payload.decode()
        except UnicodeDecodeError:
            # Whoever decodes the message finds no JSON in it, and says so; the framing is whole.
            return payload.decode("utf-8", "replace")
