"""The streaming installation: a package as a stream of zip records, as far as clients install with it."""

from __future__ import annotations

import struct
from contextlib import aclosing
from typing import Any

from ...wire.plists import encode_message, receive_message
from ...wire.streams import Wire, WireGarbled
from ..device import SimulatedDevice
from ..packages import PackageRefused, inspect_files
from .apps import install_steps

__all__ = ["serve_zip_conduit"]

RECORD = struct.Struct("<4s5H3I2H")
FILE = b"PK\x03\x04"
DIRECTORY = b"PK\x01\x02"
STORED = 0
MAX_FILE = 256 * 2**20


async def serve_zip_conduit(device: SimulatedDevice, wire: Wire) -> None:
    """Take one package, install it, and tell of it as Xcode is told."""
    await receive_message(wire)
    files = await _receive_files(wire)
    try:
        package = inspect_files({name.removeprefix("./"): data for name, data in files.items()}, device.version)
        async with aclosing(install_steps(device, package)) as steps:
            async for status, percent in steps:
                await _send(wire, {"InstallProgressDict": {"Status": status, "PercentComplete": percent}})
    except PackageRefused as error:
        device.log("installd", f"refused: {error.words}")
        await _send(wire, {"InstallProgressDict": {"Error": error.code, "ErrorDescription": error.words}})
    else:
        await _send(wire, {"Status": "DataComplete"})


async def _receive_files(wire: Wire) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    while True:
        mark = await wire.exactly(len(FILE))
        if mark == DIRECTORY:
            return files
        if mark != FILE:
            raise WireGarbled("a record of a zip file was expected")
        rest = await wire.exactly(RECORD.size - len(FILE))
        _, _, _, method, _, _, _, size, _, name_size, extra_size = RECORD.unpack(mark + rest)
        if method != STORED or size > MAX_FILE:
            raise WireGarbled("only stored records of some size are taken")
        name = (await wire.exactly(name_size)).decode(errors="replace")
        await wire.exactly(extra_size)
        data = await wire.exactly(size)
        if not name.endswith("/"):
            files[name] = data


async def _send(wire: Wire, value: dict[str, Any]) -> None:
    await wire.send(encode_message(value))
