"""Property lists on a wire: the two framings of usbmuxd and of lockdown with its services."""

from __future__ import annotations

import plistlib
import struct
from typing import Any, cast
from xml.parsers.expat import ExpatError

from .streams import Wire, WireGarbled

__all__ = [
    "MAX_MESSAGE",
    "MUX_HEADER",
    "decode_plist",
    "encode_message",
    "encode_mux",
    "receive_message",
    "receive_mux",
]

MAX_MESSAGE = 64 * 2**20
"""Bytes of a property list above which its length is taken for garbage."""

MUX_HEADER = struct.Struct("<4I")
"""Length with the header, version, message type, tag."""

MUX_VERSION = 1
MUX_PLIST = 8

LENGTH = struct.Struct(">I")

Plist = dict[str, Any]


def decode_plist(data: bytes) -> Plist:
    """Read a property list, XML or binary, whose top is a dictionary. Raises WireGarbled."""
    try:
        value = plistlib.loads(data)
    # plistlib lets out whatever its parsers stumble over
    except (plistlib.InvalidFileException, ExpatError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise WireGarbled(f"it is not a property list: {error}") from error
    if not isinstance(value, dict):
        raise WireGarbled(f"a dictionary was expected, and it is {type(value).__name__}")
    return cast(Plist, value)


def encode_message(value: Plist, *, binary: bool = False) -> bytes:
    """Frame a property list as lockdown and its services do."""
    data = plistlib.dumps(value, fmt=plistlib.FMT_BINARY if binary else plistlib.FMT_XML)
    return LENGTH.pack(len(data)) + data


async def receive_message(wire: Wire) -> Plist:
    """Receive one property list of lockdown or a service. Raises WireClosed, WireGarbled."""
    (size,) = LENGTH.unpack(await wire.exactly(LENGTH.size))
    if size > MAX_MESSAGE:
        raise WireGarbled(f"a message of {size} bytes is beyond the limit")
    return decode_plist(await wire.exactly(size))


def encode_mux(value: Plist, tag: int) -> bytes:
    """Frame a property list as usbmuxd does."""
    data = plistlib.dumps(value)
    return MUX_HEADER.pack(MUX_HEADER.size + len(data), MUX_VERSION, MUX_PLIST, tag) + data


async def receive_mux(wire: Wire) -> tuple[int, Plist]:
    """Receive one property list of usbmuxd with its tag. Raises WireClosed, WireGarbled."""
    size, version, kind, tag = MUX_HEADER.unpack(await wire.exactly(MUX_HEADER.size))
    if not MUX_HEADER.size <= size <= MAX_MESSAGE:
        raise WireGarbled(f"a message of {size} bytes is beyond the limits")
    if (version, kind) != (MUX_VERSION, MUX_PLIST):
        raise WireGarbled(f"it speaks version {version}, type {kind} of the protocol; version 1, type 8 was expected")
    return tag, decode_plist(await wire.exactly(size - MUX_HEADER.size))
