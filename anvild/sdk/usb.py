"""What is plugged into this host's USB ports, as a hint for drivers: something came or went, so look now.

USB presence says nothing about whether a device works; its state comes from the driver's own wire. Nothing here opens a
device or asks for a permission: libusb lists, and the kernel tells of plugs and of serial numbers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, NoReturn

import trio
import usb.core  # type: ignore[import-untyped]

from .values import Health, HealthState, Value

try:
    import pyudev  # type: ignore[import-untyped]
except ImportError:  # it is installed on Linux alone, where there is something for it to talk to
    pyudev = None

__all__ = ["UsbDevice", "list_usb", "usb_health", "watch_usb"]

DEBOUNCE_SECONDS = 1.0
POLL_SECONDS = 2.0


class UsbDevice(Value, frozen=True, order=True):
    """A device at a USB port. ``path`` names the port as the kernel does: the bus, then a port for every hub on the way
    (``1-4.2``). ``serial`` is None where the device or the system tells none."""

    path: str
    vendor: int
    product: int
    serial: str | None = None


def list_usb(vendors: Collection[int] | None = None) -> list[UsbDevice]:
    """List what is plugged in, sorted by port, root hubs left out; ``vendors`` chooses by vendor numbers.

    It blocks for some milliseconds: call it in a thread from async code. Without libusb and without the kernel's device
    tree the list is empty, and :func:`usb_health` says why.
    """
    told = _told_by_kernel()
    try:
        found = _found_by_libusb({device.path: device.serial for device in told})
    except usb.core.NoBackendError:
        found = told
    return sorted(device for device in found if vendors is None or device.vendor in vendors)


def usb_health() -> Health:
    """Say in a sentence how well USB can be seen here. It blocks for some milliseconds."""
    listed, heard = _has_libusb(), _has_udev()
    if listed and heard:
        return Health(state=HealthState.HEALTHY, reason="USB is listed by libusb, and the kernel tells of every plug")
    if listed:
        return Health(
            state=HealthState.DEGRADED,
            reason=f"there is no libudev, so USB is looked at every {POLL_SECONDS:g} s and serial numbers are unknown",
        )
    if heard:
        return Health(
            state=HealthState.DEGRADED,
            reason="libusb is not installed, so USB is read from the kernel's device tree alone: install libusb-1.0",
        )
    return Health(
        state=HealthState.ABSENT,
        reason="USB cannot be seen, for neither libusb nor libudev is installed: install libusb-1.0",
    )


async def watch_usb(
    on_change: Callable[[Sequence[UsbDevice]], Awaitable[None]], *, vendors: Collection[int] | None = None
) -> NoReturn:
    """Await ``on_change`` with all that is plugged in: once at the beginning, then after every change, for ever.

    A plug is heard from the kernel where there is libudev; a burst of events within a second is one change. Elsewhere
    the ports are looked at every two seconds. A change that comes while ``on_change`` runs is told afterwards. It ends
    only by being cancelled, or by what ``on_change`` raises.
    """
    monitor = _monitor()
    last: list[UsbDevice] | None = None
    while True:
        now = await trio.to_thread.run_sync(list_usb, vendors)
        if now != last:
            last = now
            await on_change(tuple(now))
        if monitor is None:
            await trio.sleep(POLL_SECONDS)
        else:
            await trio.lowlevel.wait_readable(monitor.fileno())
            await trio.sleep(DEBOUNCE_SECONDS)
            _drain(monitor)


def _context() -> Any:
    """Load libudev. Raises ImportError where there is none, as pyudev does."""
    if pyudev is None:
        raise ImportError("pyudev is not installed")
    return pyudev.Context()


def _monitor() -> Any:
    """Open the kernel's own messages, which need no udev daemon; None where there are none.

    The socket is closed with the monitor's last reference.
    """
    try:
        context = _context()
        monitor = pyudev.Monitor.from_netlink(context, source="kernel")
        monitor.filter_by("usb", "usb_device")
        monitor.start()
    except (ImportError, OSError):
        return None
    return monitor


def _drain(monitor: Any) -> None:
    """Take all messages that wait. A lost one (OSError: the socket's buffer was full) matters not, for all is listed
    after it."""
    with contextlib.suppress(OSError):
        while monitor.poll(timeout=0) is not None:
            pass


def _found_by_libusb(serials: dict[str, str | None]) -> list[UsbDevice]:
    found = []
    for device in usb.core.find(find_all=True):
        if device.port_numbers:  # a root hub has none
            path = f"{device.bus}-{'.'.join(map(str, device.port_numbers))}"
            found.append(
                UsbDevice(path=path, vendor=device.idVendor, product=device.idProduct, serial=serials.get(path))
            )
    return found


def _told_by_kernel() -> list[UsbDevice]:
    """List by the kernel's device tree; empty where there is none."""
    try:
        listed = _context().list_devices(subsystem="usb", DEVTYPE="usb_device")
    except ImportError:
        return []
    found = []
    for device in listed:
        if device.sys_name.startswith("usb"):  # a root hub
            continue
        vendor, product, serial = (device.attributes.get(name) for name in ("idVendor", "idProduct", "serial"))
        if vendor and product:  # else it has just gone
            found.append(
                UsbDevice(
                    path=device.sys_name,
                    vendor=int(vendor, 16),
                    product=int(product, 16),
                    serial=serial.decode(errors="replace").strip() if serial else None,
                )
            )
    return found


def _has_libusb() -> bool:
    try:
        usb.core.find(custom_match=lambda _device: False)
    except usb.core.NoBackendError:
        return False
    return True


def _has_udev() -> bool:
    try:
        _context()
    except ImportError:
        return False
    return True
