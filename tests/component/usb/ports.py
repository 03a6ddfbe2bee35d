"""Runs in a process of its own under umockdev-wrapper: a USB bus that exists only for this process.

It lists and watches the bus with anvild.sdk.usb while devices come and go, and prints what it saw as one JSON object.
"""

from __future__ import annotations

import ctypes
import gc
import json
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import trio
import trio.testing

from anvild.sdk.usb import UsbDevice, list_usb, usb_health, watch_usb

HUB = "/devices/pci0000:00/0000:00:14.0/usb1"
ROUNDS = 20


class Bus:
    """A mock bus with a root hub, driven through libumockdev."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libumockdev.so.0")
        self._library.umockdev_testbed_new.restype = ctypes.c_void_p
        self._bed = ctypes.c_void_p(self._library.umockdev_testbed_new())
        self._add(HUB, 1, 0x1D6B, 0x0002, "0000:00:14.0", "usb1")

    def plug(self, port: int, number: int, vendor: int, product: int, serial: str | None) -> None:
        self._add(f"{HUB}/1-{port}", number, vendor, product, serial, f"1-{port}")

    def unplug(self, port: int) -> None:
        path = f"/sys{HUB}/1-{port}".encode()
        self._library.umockdev_testbed_uevent(self._bed, path, b"remove")
        self._library.umockdev_testbed_remove_device(self._bed, path)

    def _add(self, path: str, number: int, vendor: int, product: int, serial: str | None, name: str) -> None:
        device = struct.pack("<BBHBBBBHHHBBBB", 18, 1, 0x200, 0, 0, 0, 64, vendor, product, 0x100, 0, 0, 0, 1)
        config = struct.pack("<BBHBBBBB", 9, 2, 18, 1, 1, 0, 0x80, 250)
        interface = struct.pack("<BBBBBBBBB", 9, 4, 0, 0, 0, 0xFF, 0x42, 1, 0)
        lines = [
            f"P: {path}",
            f"N: bus/usb/001/{number:03}",
            "E: SUBSYSTEM=usb",
            "E: DEVTYPE=usb_device",
            f"E: DEVNAME=/dev/bus/usb/001/{number:03}",
            "E: BUSNUM=001",
            f"E: DEVNUM={number:03}",
            "A: busnum=1\\n",
            f"A: devnum={number}\\n",
            f"A: idVendor={vendor:04x}\\n",
            f"A: idProduct={product:04x}\\n",
            "A: speed=480\\n",
            "A: bConfigurationValue=1\\n",
            f"H: descriptors={(device + config + interface).hex().upper()}",
        ]
        if serial is not None:
            lines.append(f"A: serial={serial}\\n")
        if not self._library.umockdev_testbed_add_from_string(self._bed, "\n".join([*lines, "", ""]).encode(), None):
            sys.exit(f"umockdev took no device at {name}")


def plain(devices: Sequence[UsbDevice]) -> list[list[Any]]:
    return [[one.path, one.vendor, one.product, one.serial] for one in devices]


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def main(bus: Bus) -> None:
    told, changes = trio.open_memory_channel[Sequence[UsbDevice]](8)
    seen = []
    counts = []
    bus.plug(1, 2, 0x18D1, 0x4EE7, "A0123456789")
    bus.plug(2, 3, 0x046D, 0xC31C, None)
    everything = plain(await trio.to_thread.run_sync(list_usb))
    before = open_files()
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            await watch_usb(told.send, vendors={0x18D1, 0x05AC})

        nursery.start_soon(watch)
        seen.append(plain(await changes.receive()))
        bus.plug(3, 4, 0x05AC, 0x12A8, "00008110001A")
        seen.append(plain(await changes.receive()))
        bus.unplug(1)
        seen.append(plain(await changes.receive()))
        bus.unplug(2)  # of another vendor: no change
        bus.unplug(3)
        seen.append(plain(await changes.receive()))
        for number in range(5, 5 + ROUNDS):
            bus.plug(1, number, 0x18D1, 0x4EE7, "A0123456789")
            came = await changes.receive()
            bus.unplug(1)
            gone = await changes.receive()
            counts.append([len(came), len(gone), open_files()])
        nursery.cancel_scope.cancel()
    gc.collect()
    print(
        json.dumps(
            {
                "health": (await trio.to_thread.run_sync(usb_health)).reason,
                "everything": everything,
                "seen": seen,
                "rounds": counts,
                "open": [before, open_files()],
            }
        )
    )


if __name__ == "__main__":
    trio.run(main, Bus(), clock=trio.testing.MockClock(rate=20))
