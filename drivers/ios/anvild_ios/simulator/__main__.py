"""``python -m anvild_ios.simulator``: simulated devices for any program that speaks to usbmuxd."""

from __future__ import annotations

import argparse
import json
import sys

import trio

from .device import make_devices
from .server import Simulator


async def serve(devices: int, listen: str) -> None:
    """Serve until interrupted; the first line on standard output says where."""
    simulator = Simulator(make_devices(devices))
    async with trio.open_nursery() as nursery:
        address = await nursery.start(simulator.run, listen)
        sys.stdout.write(json.dumps({"USBMUXD_SOCKET_ADDRESS": address, "devices": list(simulator.devices)}) + "\n")
        sys.stdout.flush()


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(prog="python -m anvild_ios.simulator", description=__doc__)
    parser.add_argument("--devices", type=int, default=1, help="how many devices (default 1)")
    parser.add_argument("--listen", default="127.0.0.1:0", help="HOST:PORT or a path (default 127.0.0.1:0)")
    arguments = parser.parse_args()
    try:
        trio.run(serve, arguments.devices, arguments.listen)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
