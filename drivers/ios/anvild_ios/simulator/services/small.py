"""The services of a few messages: log, notifications, diagnostics, heartbeat, crash reports' mover."""

from __future__ import annotations

from typing import Any

import trio

from ...wire.plists import encode_message, receive_message
from ...wire.streams import Wire
from ..device import SimulatedDevice

__all__ = ["serve_crash_mover", "serve_diagnostics", "serve_heartbeat", "serve_notifications", "serve_syslog"]

HEARTBEAT_SECONDS = 10


async def serve_syslog(device: SimulatedDevice, wire: Wire) -> None:
    """Send the log: what is kept, then what comes. A line ends with a newline and NUL."""
    with device.read_log() as lines:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_until_closed, wire, nursery.cancel_scope)
            async for line in lines:
                await wire.send(line.encode() + b"\n\0")


async def serve_crash_mover(device: SimulatedDevice, wire: Wire) -> None:
    """Say that all crash reports are where they can be copied."""
    await wire.send(b"ping\0")
    while await wire.receive():
        pass


async def serve_heartbeat(_device: SimulatedDevice, wire: Wire) -> None:
    """Ask the client now and then whether it is there."""
    while True:
        await wire.send(encode_message({"Command": "Marco", "Interval": HEARTBEAT_SECONDS, "SupportsSleepy": True}))
        await receive_message(wire)
        await trio.sleep(HEARTBEAT_SECONDS)


async def serve_notifications(device: SimulatedDevice, wire: Wire) -> None:
    """Relay the notifications that the client observes."""
    observed: set[str] = set()
    with device.observe() as names:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_relay, names, observed, wire)
            while True:
                request = await receive_message(wire)
                match request.get("Command"):
                    case "ObserveNotification":
                        observed.add(str(request.get("Name")))
                    case "PostNotification":
                        device.notify(str(request.get("Name")))
                    case "Shutdown":
                        await wire.send(encode_message({"Command": "ProxyDeath"}))
                        nursery.cancel_scope.cancel()


async def _relay(names: trio.MemoryReceiveChannel[str], observed: set[str], wire: Wire) -> None:
    async for name in names:
        if name in observed:
            await wire.send(encode_message({"Command": "RelayNotification", "Name": name}))


async def serve_diagnostics(device: SimulatedDevice, wire: Wire) -> None:
    """Answer what is asked of the device's state; restart it when the connection ends."""
    while True:
        request = await receive_message(wire)
        kind = request.get("Request")
        await wire.send(encode_message(_diagnose(device, kind)))
        if kind in ("Restart", "Shutdown"):
            device.restart_wanted = True
            if not request.get("WaitForDisconnect"):
                return


def _diagnose(device: SimulatedDevice, kind: object) -> dict[str, Any]:
    battery = {
        "CurrentCapacity": device.battery,
        "MaxCapacity": 100,
        "IsCharging": device.charging,
        "FullyCharged": device.battery == 100,
        "CycleCount": 11,
        "Temperature": 2950,
        "Voltage": 4100,
    }
    match kind:
        case "Restart" | "Shutdown" | "Sleep" | "Goodbye":
            return {"Status": "Success"}
        case "IORegistry":
            return {"Status": "Success", "Diagnostics": {"IORegistry": battery}}
        case "GasGauge" | "All":
            return {"Status": "Success", "Diagnostics": {"GasGauge": battery}}
    return {"Status": "UnknownRequest"}


async def _until_closed(wire: Wire, scope: trio.CancelScope) -> None:
    while await wire.receive():
        pass
    scope.cancel()
