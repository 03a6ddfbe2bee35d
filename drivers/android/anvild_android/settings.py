"""The driver's settings: the table ``[drivers.android]``."""

from __future__ import annotations

from typing import Annotated

import msgspec

from anvild.sdk import DriverSettings

__all__ = ["AndroidSettings"]

ADDRESS = r"^[A-Za-z0-9._-]+:[0-9]{1,5}$"


class AndroidSettings(DriverSettings):
    """What an operator may choose; the defaults fit phones at the USB ports of this machine."""

    adb: Annotated[str, msgspec.Meta(description="The adb program; that of PATH if left out.")] | None = None
    server: (
        Annotated[
            str,
            msgspec.Meta(
                pattern=ADDRESS,
                description="A running adb server to use, as HOST:PORT. It is never ended. If left out, the driver "
                "runs its own.",
            ),
        ]
        | None
    ) = None
    network: Annotated[
        dict[str, Annotated[str, msgspec.Meta(pattern=ADDRESS)]],
        msgspec.Meta(description="Devices in the network: the address HOST:PORT of each, by its ro.serialno."),
    ] = msgspec.field(default_factory=dict)
    simulate: Annotated[
        int, msgspec.Meta(ge=0, le=100, description="Simulated devices to start, for trying things out.")
    ] = 0
