"""A lab in memory whose driver can put its devices aside, as one that makes guests can."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from anvild.sdk import (
    Description,
    DeviceFact,
    DeviceStatus,
    Driver,
    Recovery,
    RecoveryState,
    Sighting,
    Suspend,
    Template,
)
from tests.support.lab import FakeDriver, Lab

__all__ = ["SuspendingLab"]


class SuspendingDriver(FakeDriver, Suspend):
    """A driver that can put its devices aside, and then tells of them as away."""

    lab: SuspendingLab

    async def describe(self) -> Description:
        known = await super().describe()
        return msgspec.structs.replace(known, capabilities=(*known.capabilities, Suspend.capability))

    async def templates(self) -> Sequence[Template]:
        long_ago = datetime(2026, 1, 1, tzinfo=UTC)
        return [Template(name="minimal", warm=True, vcpus=1, memory=2**29, disk=2**31, size=2**28, created=long_ago)]

    async def suspend(self, identity: str) -> DeviceFact:
        device = self._there(identity)
        if self.lab.refusal is not None:
            raise self.lab.refusal
        if device.sessions:
            self.lab.violations.append(f"{identity} was suspended with a session open")
        self.lab.aside.add(identity)
        self.lab.say(Sighting(kind="seen", device=device.fact(DeviceStatus.OFFLINE)))
        return device.fact(DeviceStatus.OFFLINE)

    async def resume(self, identity: str) -> DeviceFact:
        if self.lab.refusal is not None:
            raise self.lab.refusal
        self.lab.aside.discard(identity)
        return self._there(identity).fact()

    async def recover(self, handle: str) -> Recovery:
        identity = handle.removeprefix("handle-of-")
        status = DeviceStatus.OFFLINE if identity in self.lab.aside else DeviceStatus.READY
        return Recovery(state=RecoveryState.RUNNING, reason="it is there", device=self._there(identity).fact(status))


class SuspendingLab(Lab):
    """A lab whose driver can put devices aside; ``refusal`` is what it says instead."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = 1
        self.aside: set[str] = set()
        self.refusal: Exception | None = None

    def driver(self, name: str = "fake") -> Driver:
        kind = type("SuspendingDriverHere", (SuspendingDriver,), {"name": name})
        driver: Driver = kind(super().driver(name).context, self)
        return driver
