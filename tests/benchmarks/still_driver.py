"""A driver whose verbs do nothing, so that calling them is all that they cost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from typing import NoReturn

import trio

from anvild.sdk import (
    Description,
    DeviceFact,
    DeviceStatus,
    Driver,
    Health,
    HealthState,
    Lease,
    Measure,
    Report,
    Sample,
    Session,
    Sighting,
)

FACT = DeviceFact(
    identity="still-1", platform="still", name="Still", status=DeviceStatus.READY, capabilities=("measure",)
)
SAMPLE = Sample(at=datetime(2026, 1, 1, tzinfo=UTC), cpu=1.0, memory=1, disk=1)


class StillSession(Session, Measure):
    """Measures the same for ever."""

    device = FACT

    async def sample(self) -> Sample:
        """Return at once."""
        await trio.lowlevel.checkpoint()
        return SAMPLE


class StillDriver(Driver):
    """Has one device."""

    name = "still"

    async def describe(self) -> Description:
        """Well."""
        health = Health(state=HealthState.HEALTHY, reason="it stands still")
        return Description(name="still", version="1.0", platforms=("still",), capabilities=("measure",), health=health)

    async def watch(self, report: Report) -> NoReturn:
        """One device, for ever."""
        await report(Sighting(kind="seen", device=FACT))
        await trio.sleep_forever()
        raise AssertionError("sleeping for ever does not end")

    def open(self, device: DeviceFact, lease: Lease) -> AbstractAsyncContextManager[Session]:
        """Nothing to open."""
        return self._open()

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Session]:
        yield StillSession()
