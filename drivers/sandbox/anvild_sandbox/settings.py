"""The driver's settings: the table ``[drivers.sandbox]``."""

from __future__ import annotations

from typing import Annotated

import msgspec

from anvild.sdk import DriverSettings


class SandboxSettings(DriverSettings):
    """What an operator may choose; the defaults fit a small machine."""

    slots: Annotated[
        int, msgspec.Meta(ge=1, description="Sandboxes at the same time; two for each CPU if left out.")
    ] | (None) = None
    vcpus: Annotated[int, msgspec.Meta(ge=1, description="CPUs of a sandbox that does not ask for a number.")] = 2
    memory: Annotated[
        int, msgspec.Meta(ge=16 * 2**20, description="Bytes of memory of a sandbox that does not ask for an amount.")
    ] = 2**30
    processes: Annotated[int, msgspec.Meta(ge=16, description="Processes and threads that a sandbox may have.")] = 1024
    user_id: Annotated[
        int,
        msgspec.Meta(
            ge=1000,
            description="Where the daemon runs as root: the unprivileged user on the host that sandboxes run as. "
            "Nobody else should have it.",
        ),
    ] = 1_800_000_000
