"""The driver's settings: the table ``[drivers.microvm]`` of the configuration."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from msgspec import Meta

from anvild.sdk import DriverSettings

__all__ = ["MicrovmSettings"]

MIB = 2**20
SLOT_MEMORY = 512 * MIB
SLOTS_PER_CORE = 16


class MicrovmSettings(DriverSettings):
    """Settings of the microvm driver. None means: find it out on this host."""

    accelerator: Annotated[
        Literal["auto", "kvm", "tcg"],
        Meta(description="auto takes kvm where a speed probe passes, else software emulation (tcg)."),
    ] = "auto"
    user: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(
            description="System user that QEMU runs as. Default: anvild-guest where it exists, else nobody when the "
            "daemon is root, else the daemon's own user. Only a daemon that is root can choose another than its own.",
        ),
    ] = None
    slots: Annotated[
        Annotated[int, Meta(ge=1, le=4096)] | None,
        Meta(description="Guests that may run at the same time. Default: by memory and cores."),
    ] = None
    qemu: Annotated[str, Meta(min_length=1, description="Name or path of the QEMU program.")] = "qemu-system-x86_64"
    starts: Annotated[
        int, Meta(ge=1, le=64, description="Guests that may be starting at the same time; more wait their turn.")
    ] = 4
    overhead: Annotated[
        int,
        Meta(ge=64 * MIB, description="Bytes that a guest's QEMU may use beyond the guest's memory, as cgroup limit."),
    ] = 384 * MIB
    boot_deadline: Annotated[
        float, Meta(gt=0, le=600, description="Seconds within which a cold boot must have called out.")
    ] = 90.0

    def slot_count(self) -> int:
        """Return how many guests may run at the same time on this host."""
        if self.slots is not None:
            return self.slots
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return max(1, min(memory // SLOT_MEMORY, SLOTS_PER_CORE * (os.cpu_count() or 1)))
