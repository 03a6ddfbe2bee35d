"""The simulated usbmuxd: it lists devices, tells of plugging, and joins its clients to the devices' ports."""

from __future__ import annotations

import contextlib
import itertools
import plistlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import trio

from ..wire.plists import encode_mux, receive_mux
from ..wire.streams import Wire, WireBroken
from .device import SimulatedDevice
from .lockdownd import serve_lockdown
from .pairing import Pairing

__all__ = ["Simulator"]

LOCKDOWN_PORT = 62078
FIRST_PORT = 49152
BAD_DEVICE = 2
REFUSED = 3
UNKNOWN = 1
BACKLOG = 1000

PortHandler = Callable[[Wire], Awaitable[None]]


class Plugging:
    """One stay of a device on the cable. Unplugging it ends every connection."""

    def __init__(self, device: SimulatedDevice, number: int) -> None:
        self.device = device
        self.number = number
        self.ports: dict[int, PortHandler] = {}
        self._scopes: set[trio.CancelScope] = set()
        self._free = itertools.count(FIRST_PORT)

    @property
    def message(self) -> dict[str, Any]:
        """The device as usbmuxd tells of it."""
        return {
            "MessageType": "Attached",
            "DeviceID": self.number,
            "Properties": {
                "ConnectionSpeed": 480000000,
                "ConnectionType": "USB",
                "DeviceID": self.number,
                "LocationID": 0x10000 + self.number,
                "ProductID": 0x12A8,
                "SerialNumber": self.device.udid,
                "USBSerialNumber": self.device.udid,
            },
        }

    def offer(self, handler: PortHandler) -> int:
        """Open a port for one connection and return its number."""
        port = next(self._free)
        self.ports[port] = handler
        return port

    async def serve(self, port: int, wire: Wire) -> None:
        """Serve a connection to a port until one side ends it, or the device is pulled off."""
        handler = self.ports[port] if port == LOCKDOWN_PORT else self.ports.pop(port)
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                await handler(wire)
            finally:
                self._scopes.discard(scope)

    def end(self) -> None:
        """Cut every connection."""
        for scope in self._scopes:
            scope.cancel()


class Simulator:
    """Simulated devices behind a usbmuxd of their own. All of them are on the cable at the start.

    ``restart_seconds`` is how long a device is away while it restarts.
    """

    def __init__(self, devices: Iterable[SimulatedDevice], *, restart_seconds: float = 0.2) -> None:
        self.devices = {device.udid: device for device in devices}
        self.restart_seconds = restart_seconds
        self.address = ""
        self.pairing: Pairing | None = None
        self.context: ssl.SSLContext | None = None
        self._numbers = itertools.count(1)
        self._plugged: dict[str, Plugging] = {}
        self._listeners: set[trio.MemorySendChannel[dict[str, Any]]] = set()
        self._nursery: trio.Nursery | None = None

    @property
    def connections(self) -> int:
        """How many connections to devices are open."""
        return sum(len(each._scopes) for each in self._plugged.values())

    async def run(
        self, listen: str = "127.0.0.1:0", *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve at HOST:PORT or a path until cancelled. Tells as started the address, with the real port."""
        if self.pairing is None:
            self.pairing = await trio.to_thread.run_sync(Pairing)
            self.context = await trio.to_thread.run_sync(self.pairing.device_context)
        for udid in self.devices:
            self.plug(udid)
        async with _listening(listen) as (address, listeners), trio.open_nursery() as nursery:
            self.address = address
            self._nursery = nursery
            task_status.started(address)
            try:
                await trio.serve_listeners(self._serve, listeners)
            finally:
                self._nursery = None

    def plugged(self, udid: str) -> bool:
        """Say whether a device is on the cable."""
        return udid in self._plugged

    def plug(self, udid: str) -> None:
        """Put a device on the cable. One that is there stays as it is."""
        if udid in self._plugged:
            return
        plugging = Plugging(self.devices[udid], next(self._numbers))
        plugging.ports[LOCKDOWN_PORT] = lambda wire: serve_lockdown(self, plugging, wire)
        self._plugged[udid] = plugging
        self._tell(plugging.message)

    def unplug(self, udid: str) -> None:
        """Pull a device off the cable. One that is away stays so."""
        plugging = self._plugged.pop(udid, None)
        if plugging is not None:
            plugging.end()
            self._tell({"MessageType": "Detached", "DeviceID": plugging.number})

    def trust(self, udid: str) -> None:
        """Do what a person does who taps Trust on the device."""
        self.devices[udid].trusted = True
        if (plugging := self._plugged.get(udid)) is not None:
            self._tell({"MessageType": "Paired", "DeviceID": plugging.number})

    def restart(self, udid: str) -> None:
        """Restart a device: it goes, and comes back."""
        assert self._nursery is not None, "the simulator does not run"
        self._nursery.start_soon(self._restart, self.devices[udid])

    async def _restart(self, device: SimulatedDevice) -> None:
        self.unplug(device.udid)
        await trio.sleep(self.restart_seconds)
        device.start_again()
        self.plug(device.udid)

    def _tell(self, message: dict[str, Any]) -> None:
        for each in list(self._listeners):
            try:
                each.send_nowait(message)
            except (trio.BrokenResourceError, trio.WouldBlock):
                self._listeners.discard(each)
                each.close()

    async def _serve(self, stream: trio.abc.Stream) -> None:
        wire = Wire(stream)
        try:
            await self._converse(wire)
        except* WireBroken:
            pass  # the client has gone, or speaks no protocol of ours: only its own connection ends
        finally:
            await wire.aclose()

    async def _converse(self, wire: Wire) -> None:
        while True:
            tag, request = await receive_mux(wire)
            kind = request.get("MessageType")
            if kind == "Listen":
                await wire.send(_result(0, tag))
                await self._listen(wire)
                return
            if kind == "Connect":
                port = socket.ntohs(int(request.get("PortNumber", 0)) & 0xFFFF)
                plugging = self._by_number(request.get("DeviceID"))
                if plugging is not None and port in plugging.ports:
                    await wire.send(_result(0, tag))
                    await plugging.serve(port, Wire(wire.release()))
                    return
                await wire.send(_result(BAD_DEVICE if plugging is None else REFUSED, tag))
            else:
                await wire.send(self._answer(request, tag))

    def _answer(self, request: dict[str, Any], tag: int) -> bytes:
        assert self.pairing is not None
        kind = request.get("MessageType")
        if kind == "ListDevices":
            return encode_mux({"DeviceList": [each.message for each in self._plugged.values()]}, tag)
        if kind == "ReadBUID":
            return encode_mux({"BUID": self.pairing.system_id}, tag)
        if kind == "ReadPairRecord":
            udid = str(request.get("PairRecordID"))
            device = self.devices.get(udid)
            if device is None or not device.trusted:
                return _result(BAD_DEVICE, tag)
            return encode_mux({"PairRecordData": plistlib.dumps(self.pairing.record(udid))}, tag)
        if kind in ("SavePairRecord", "DeletePairRecord"):
            return _result(0, tag)
        return _result(UNKNOWN, tag)

    def _by_number(self, number: object) -> Plugging | None:
        return next((each for each in self._plugged.values() if each.number == number), None)

    async def _listen(self, wire: Wire) -> None:
        send, receive = trio.open_memory_channel[dict[str, Any]](BACKLOG)
        for each in self._plugged.values():
            send.send_nowait(each.message)
        self._listeners.add(send)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_end_with, wire, nursery.cancel_scope)
                async for message in receive:
                    await wire.send(encode_mux(message, 0))
        except* WireBroken:
            pass  # the listener has gone
        finally:
            self._listeners.discard(send)
            receive.close()
            send.close()


async def _end_with(wire: Wire, scope: trio.CancelScope) -> None:
    """Cancel when the client closes its end."""
    while await wire.receive():
        pass
    scope.cancel()


def _result(number: int, tag: int) -> bytes:
    return encode_mux({"MessageType": "Result", "Number": number}, tag)


@contextlib.asynccontextmanager
async def _listening(listen: str) -> AsyncIterator[tuple[str, list[trio.SocketListener]]]:
    if listen.startswith("/"):
        sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            await sock.bind(listen)
            sock.listen()
            yield listen, [trio.SocketListener(sock)]
        finally:
            sock.close()
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(lambda: Path(listen).unlink(missing_ok=True))
        return
    host, _, port = listen.rpartition(":")
    listeners = await trio.open_tcp_listeners(int(port), host=host)
    try:
        yield f"{host}:{listeners[0].socket.getsockname()[1]}", listeners
    finally:
        for each in listeners:
            await each.aclose()
