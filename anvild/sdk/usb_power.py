"""The power of a USB port, for a device that only a replug wakes: off for a moment, where kernel and hub can do that.

Linux has a switch for each port of a hub since 6.0 (``/sys/bus/usb/devices/HUB:1.0/HUB-portN/disable``). Most hubs
disconnect the port with it; only some take its power away too. Writing it needs root, or a udev rule.
"""

from __future__ import annotations

import os
from pathlib import Path

import trio

from .errors import PermissionDenied, Unavailable

__all__ = ["can_power_cycle", "power_cycle"]

SYSFS = Path("/sys/bus/usb/devices")
OFF_SECONDS = 2.0


def can_power_cycle(path: str) -> bool:
    """Say whether this process can switch the port with this path (``1-4.2``). It looks at files: call it in a
    thread."""
    return os.access(_switch(path), os.W_OK)


async def power_cycle(path: str) -> None:
    """Switch the port off, and on again after two seconds; on in every case, also when it is cancelled meanwhile.

    Raises Unavailable where there is no such switch, PermissionDenied where it may not be written.
    """
    switch = _switch(path)
    await trio.to_thread.run_sync(_write, switch, "1")
    try:
        await trio.sleep(OFF_SECONDS)
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(_write, switch, "0")


def _switch(path: str) -> Path:
    hub, dot, port = path.rpartition(".")
    if dot:
        return SYSFS / f"{hub}:1.0" / f"{hub}-port{port}" / "disable"
    bus, _, port = path.partition("-")
    return SYSFS / f"{bus}-0:1.0" / f"usb{bus}-port{port}" / "disable"


def _write(switch: Path, value: str) -> None:
    try:
        with switch.open("r+") as file:  # never makes a file where there is no switch
            file.write(value)
    except FileNotFoundError:
        raise Unavailable(f"the port has no switch: there is no {switch} (it needs Linux 6.0 and a hub)") from None
    except PermissionError:
        raise PermissionDenied(f"{switch} may not be written: allow it to the daemon's user by a udev rule") from None
