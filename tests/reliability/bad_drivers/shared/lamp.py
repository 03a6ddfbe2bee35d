"""A driver of one lamp that is well-behaved. The bad drivers beside this folder are it, but for one thing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn

import trio

from anvild.sdk import (
    Command,
    Description,
    DeviceFact,
    DeviceStatus,
    Driver,
    Exec,
    Health,
    HealthState,
    Lease,
    NotFound,
    Process,
    ProcessInfo,
    Report,
    Session,
    Sighting,
)


class LampSession(Session, Exec):
    """A session that knows no program."""

    def __init__(self, device: DeviceFact) -> None:
        self.device = device

    async def start(self, command: Command) -> Process:
        raise NotFound(f"a lamp has no program {command.argv[0]!r}")

    async def attach(self, tag: str, *, replay: bool = False) -> Process:
        raise NotFound(f"a lamp has no process {tag!r}")

    async def processes(self) -> list[ProcessInfo]:
        return []

    async def kill(self, pid: int, number: int = 9) -> None:
        raise NotFound(f"a lamp has no process {pid}")


class LampDriver(Driver):
    """A subclass has a name."""

    @property
    def device(self) -> DeviceFact:
        return DeviceFact(
            identity=f"{self.name}-1",
            platform="lamp",
            name=f"The lamp of {self.name}",
            status=DeviceStatus.READY,
            capabilities=("exec",),
        )

    async def describe(self) -> Description:
        return Description(
            name=self.name,
            version="1.0",
            platforms=("lamp",),
            capabilities=("exec",),
            health=Health(state=HealthState.HEALTHY, reason="the lamp is lit"),
        )

    async def watch(self, report: Report) -> NoReturn:
        await report(Sighting(kind="seen", device=self.device))
        await trio.sleep_forever()

    @asynccontextmanager
    async def open(self, device: DeviceFact, lease: Lease) -> AsyncIterator[LampSession]:
        yield LampSession(device)
