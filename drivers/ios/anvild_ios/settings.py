"""The driver's settings: the table ``[drivers.ios]``."""

from __future__ import annotations

from typing import Annotated

import msgspec

from anvild.sdk import DriverSettings


class IosSettings(DriverSettings):
    """What an operator may choose; with none of it, devices on USB are found through the host's usbmuxd."""

    usbmuxd: Annotated[
        str,
        msgspec.Meta(
            description="Where usbmuxd listens: /path, UNIX:/path or HOST:PORT. "
            "USBMUXD_SOCKET_ADDRESS, then /var/run/usbmuxd, if left out."
        ),
    ] | (None) = None
    tool: Annotated[
        str,
        msgspec.Meta(
            description="The program that starts apps, runs tests and takes pictures: a path of go-ios or "
            "pymobiledevice3. If left out, the first of `ios` and `pymobiledevice3` in PATH."
        ),
    ] | (None) = None
    simulate: Annotated[
        int, msgspec.Meta(ge=0, le=64, description="Devices to simulate in place of real ones; 0 for real ones.")
    ] = 0
    log_bytes: Annotated[
        int, msgspec.Meta(ge=2**20, description="Bytes of the device's log that a session keeps for its readers.")
    ] = 128 * 2**20
