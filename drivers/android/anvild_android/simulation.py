"""The simulated devices that the driver starts itself, for who has no phone at hand."""

from __future__ import annotations

from pathlib import Path

from anvild.sdk import NotFound, WrongState
from anvild.sdk.background import Background

from .fleet import Fleet
from .simulator import DeviceSpec, SimulatedDevice

__all__ = ["Simulation"]


class Simulation:
    """Some simulated devices with fixed serial numbers, whose files are below ``folder``."""

    def __init__(self, count: int, folder: Path) -> None:
        self._devices = {
            serial: SimulatedDevice(DeviceSpec(serial=serial), folder / serial)
            for serial in (f"SIMULATED{number:04d}" for number in range(1, count + 1))
        }

    async def start(self, background: Background, fleet: Fleet) -> None:
        """Start all devices, and connect the adb server to them. Raises Unavailable where they cannot be simulated."""
        for serial, device in self._devices.items():
            await background.start(device.run)
            address = f"127.0.0.1:{device.port}"
            fleet.add_address(serial, address)
            background.start_soon(fleet.keep_attached, address)

    def device(self, identity: str, fleet: Fleet) -> SimulatedDevice:
        """Return a simulated device. Raises WrongState for a real one, NotFound for one that is not there."""
        if identity not in self._devices and identity not in fleet.facts():
            raise NotFound(f"there is no device {identity!r}")
        if identity not in self._devices:
            raise WrongState(f"{identity} is a real device: nobody draws its cable but by hand")
        return self._devices[identity]
