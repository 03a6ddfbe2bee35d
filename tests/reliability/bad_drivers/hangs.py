"""Ignores cancellation, in everything that it does with a device."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from anvild.sdk import Command, DeviceFact, Lease, Process, hookimpl

sys.path.insert(0, str(Path(__file__).parent / "shared"))
from lamp import LampDriver, LampSession  # the folder had to be named first

ANVIL_API = "1.0"


async def for_ever() -> None:
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()


class HangingSession(LampSession):
    async def start(self, command: Command) -> Process:
        await for_ever()
        raise AssertionError("unreachable")


class BadDriver(LampDriver):
    name = "hangs"

    async def clean(self, device: DeviceFact) -> None:
        await for_ever()

    @asynccontextmanager
    async def open(self, device: DeviceFact, lease: Lease) -> AsyncIterator[LampSession]:
        yield HangingSession(device)
        await for_ever()


@hookimpl
def anvil_drivers() -> list[type[LampDriver]]:
    return [BadDriver]
