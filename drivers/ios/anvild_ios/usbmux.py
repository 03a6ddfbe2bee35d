"""The client of usbmuxd: which devices are on the cable, and connections to their ports."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import trio

from .wire.plists import decode_plist, encode_mux, receive_mux
from .wire.streams import Wire, WireBroken, WireClosed, WireGarbled

__all__ = ["DEFAULT_SOCKET", "MuxAddress", "MuxDevice", "MuxEvent", "MuxRefused", "Usbmux"]

DEFAULT_SOCKET = "/var/run/usbmuxd"
ANSWER_SECONDS = 10.0

RESULTS = {1: "it knows no such request", 2: "the device is not there", 3: "the device refuses the connection"}


class MuxRefused(WireBroken):
    """usbmuxd answered with a number that is not success. 2: no such device, 3: nothing listens there."""

    def __init__(self, number: int) -> None:
        super().__init__(f"usbmuxd: {RESULTS.get(number, f'error {number}')}")
        self.number = number


class MuxAddress(msgspec.Struct, frozen=True):
    """Where usbmuxd listens: a ``path``, or a ``host`` and ``port``."""

    path: str | None = None
    host: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> MuxAddress:
        """Read ``/path``, ``UNIX:/path`` or ``HOST:PORT``. Raises ValueError with the expected form."""
        bare = text[5:] if text[:5].upper() == "UNIX:" else text
        if bare.startswith("/"):
            return cls(path=bare)
        host, _, port = bare.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError(f"usbmuxd's address {text!r} must be /path, UNIX:/path or HOST:PORT")
        return cls(host=host.strip("[]"), port=int(port))

    @classmethod
    def choose(cls, setting: str | None) -> MuxAddress:
        """Take the setting, else ``USBMUXD_SOCKET_ADDRESS``, else the usual place. Raises ValueError."""
        return cls.parse(setting or os.environ.get("USBMUXD_SOCKET_ADDRESS") or DEFAULT_SOCKET)

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"


class MuxDevice(msgspec.Struct, frozen=True):
    """A device on the cable. ``number`` is usbmuxd's own and changes with every plugging."""

    number: int
    udid: str
    connection: str = "USB"
    location: int | None = None


class MuxEvent(msgspec.Struct, frozen=True):
    """What usbmuxd tells of: ``attached`` with the device; ``detached`` and ``paired`` with its number alone."""

    kind: str
    number: int
    device: MuxDevice | None = None


class Usbmux:
    """Speaks to usbmuxd. Every call is a connection of its own, as the protocol wants it."""

    def __init__(self, address: MuxAddress) -> None:
        self.address = address

    async def devices(self) -> list[MuxDevice]:
        """List what is on the cable. Raises WireBroken."""
        answer = await self._ask({"MessageType": "ListDevices"})
        return [device for each in answer.get("DeviceList") or () if (device := _device(each)) is not None]

    async def system_id(self) -> str:
        """Return the identity of this host that devices are paired with. Raises WireBroken."""
        return str((await self._ask({"MessageType": "ReadBUID"})).get("BUID", ""))

    async def pair_record(self, udid: str) -> dict[str, Any] | None:
        """Return the keys that this host and a device have agreed on; None when they are not paired."""
        try:
            answer = await self._ask({"MessageType": "ReadPairRecord", "PairRecordID": udid})
        except MuxRefused:
            return None
        data = answer.get("PairRecordData")
        return decode_plist(data) if isinstance(data, bytes) else None

    async def connect(self, number: int, port: int) -> trio.SocketStream:
        """Connect to a port of a device. Raises MuxRefused, WireBroken."""
        wire = await self._open()
        try:
            with _in_time():
                # usbmuxd wants the port in the byte order of the network
                request = {"MessageType": "Connect", "DeviceID": number, "PortNumber": socket.htons(port)}
                await _request(wire, request)
            stream = wire.release()
            assert isinstance(stream, trio.SocketStream)
        except BaseException:
            await wire.aclose()
            raise
        return stream

    @contextlib.asynccontextmanager
    async def listen(self) -> AsyncIterator[AsyncIterator[MuxEvent]]:
        """Hear of devices: first all that are there, then every change. The iterator raises WireBroken at its end."""
        wire = await self._open()
        try:
            with _in_time():
                await _request(wire, {"MessageType": "Listen"})
            yield _Events(wire)
        finally:
            await wire.aclose()

    async def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        wire = await self._open()
        try:
            with _in_time():
                return await _request(wire, request)
        finally:
            await wire.aclose()

    async def _open(self) -> Wire:
        address = self.address
        try:
            if address.path is not None:
                return Wire(await trio.open_unix_socket(address.path))
            return Wire(await trio.open_tcp_stream(address.host, address.port))
        except OSError as error:
            raise WireClosed(f"usbmuxd does not answer at {address}: {error.strerror or error}") from error


@contextlib.contextmanager
def _in_time() -> Any:
    try:
        with trio.fail_after(ANSWER_SECONDS):
            yield
    except trio.TooSlowError:
        raise WireClosed(f"usbmuxd has not answered for {ANSWER_SECONDS:g} s") from None


async def _request(wire: Wire, request: dict[str, Any]) -> dict[str, Any]:
    greeting = {"ClientVersionString": "anvild", "ProgName": "anvild", "kLibUSBMuxVersion": 3}
    await wire.send(encode_mux({**greeting, **request}, 1))
    _, answer = await receive_mux(wire)
    number = answer.get("Number", 0)
    if answer.get("MessageType") == "Result" and number != 0:
        raise MuxRefused(int(number))
    return answer


class _Events(AsyncIterator[MuxEvent]):
    """What a connection that listens brings."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def __anext__(self) -> MuxEvent:
        while True:
            _, told = await receive_mux(self._wire)
            kind, number = told.get("MessageType"), told.get("DeviceID")
            if kind in ("Attached", "Detached", "Paired"):
                if not isinstance(number, int):
                    raise WireGarbled(f"usbmuxd tells of a device with no number: {kind}")
                device = _device(told) if kind == "Attached" else None
                if kind != "Attached" or device is not None:
                    return MuxEvent(kind.lower(), number, device)


def _device(told: dict[str, Any]) -> MuxDevice | None:
    properties = told.get("Properties")
    number = told.get("DeviceID")
    if not isinstance(properties, dict) or not isinstance(number, int) or not properties.get("SerialNumber"):
        return None
    location = properties.get("LocationID")
    return MuxDevice(
        number=number,
        udid=str(properties["SerialNumber"]),
        connection=str(properties.get("ConnectionType", "USB")),
        location=location if isinstance(location, int) else None,
    )
