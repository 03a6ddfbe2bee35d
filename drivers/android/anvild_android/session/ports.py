"""Ports: TCP from the host to the device and back."""

from __future__ import annotations

import trio

from anvild.sdk import AlreadyExists, DriverFault, InvalidArgument, Ports, ReversePorts, Unavailable

from ..adb.errors import from_device
from ..adb.wire import AdbStream, Closed
from .base import AndroidBase

__all__ = ["AndroidPorts"]

HIGHEST = 65535


class AndroidPorts(AndroidBase, Ports, ReversePorts):
    """Ports that were reversed are given back when the session ends."""

    async def connect_port(self, port: int) -> trio.abc.Stream:
        _check(port, 1)
        return await self.link.open(f"tcp:{port}")

    async def reverse_port(self, device_port: int, host_port: int) -> int:
        _check(device_port, 0)
        _check(host_port, 1)
        stream = await self.link.open(f"reverse:forward:norebind:tcp:{device_port};tcp:{host_port}")
        try:
            await _answer(stream, device_port)
            chosen = device_port
            if device_port == 0:
                text = await stream.receive_text()
                if not text.isdecimal():
                    raise DriverFault(f"the device said {text!r} in place of a port")
                chosen = int(text)
        except Closed:
            raise stream.lost() from None
        finally:
            with trio.CancelScope(shield=True):
                await stream.aclose()
        self.closing.append(lambda: self._give_back(chosen))
        return chosen

    async def _give_back(self, port: int) -> None:
        stream = await self.link.open(f"reverse:killforward:tcp:{port}")
        await stream.aclose()


async def _answer(stream: AdbStream, port: int) -> None:
    """Read the device's own OKAY or FAIL, which comes after the server's."""
    word = await stream.receive_exactly(4)
    if word == b"OKAY":
        return
    text = await stream.receive_text() if word == b"FAIL" else repr(word)
    if "rebind" in text or "in use" in text.lower():
        raise AlreadyExists(f"the port {port} of the device is taken: {text}")
    raise from_device(text, f"the port {port} of the device cannot be reversed", Unavailable)


def _check(port: int, lowest: int) -> None:
    if not lowest <= port <= HIGHEST:
        raise InvalidArgument(f"{port} is no TCP port")
