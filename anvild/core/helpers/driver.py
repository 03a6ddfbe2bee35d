"""All helpers together, as the one driver that the engine sees."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, NoReturn

import trio

from anvild.sdk import (
    API_VERSION,
    Description,
    DeviceFact,
    Driver,
    DriverContext,
    Health,
    HealthState,
    Lease,
    Recovery,
    RecoveryState,
    Report,
    Session,
)

from .hub import Helpers

__all__ = ["HelperDriver"]

RETURN_SECONDS = 15.0
"""How long a helper may take to come back after a restart of the daemon before its device counts as lost."""


class HelperDriver(Driver):
    """Passes what the engine asks on to the helper that has the device."""

    name = "helper"

    def __init__(self, context: DriverContext[Any], helpers: Helpers) -> None:
        super().__init__(context)
        self._helpers = helpers

    async def describe(self) -> Description:
        """Say how many helpers there are."""
        connected = self._helpers.connected
        reason = f"{connected} helper{'' if connected == 1 else 's'} connected"
        return Description(
            name=self.name,
            version=API_VERSION,
            platforms=self._helpers.platforms,
            capabilities=self._helpers.capabilities,
            health=Health(state=HealthState.HEALTHY, reason=reason),
        )

    async def watch(self, report: Report) -> NoReturn:
        """Report what the helpers report."""
        async with self._helpers.watching(report):
            await trio.sleep_forever()
        raise AssertionError("sleeping for ever does not end")

    def open(self, device: DeviceFact, lease: Lease) -> AbstractAsyncContextManager[Session]:
        """Open a session at the device's helper."""
        return self._open(device, lease)

    @asynccontextmanager
    async def _open(self, device: DeviceFact, lease: Lease) -> AsyncIterator[Session]:
        driver, fact = self._helpers.find(device)
        async with driver.open(fact, lease) as session:
            yield session

    async def clean(self, device: DeviceFact) -> None:
        """Have the helper clean its device."""
        driver, fact = self._helpers.find(device)
        await driver.clean(fact)

    async def recover(self, handle: str) -> Recovery:
        """Ask the helper of the device, which connects again by itself after a restart of the daemon."""
        with trio.move_on_after(RETURN_SECONDS):
            return await self._helpers.recover(handle)
        return Recovery(state=RecoveryState.LOST, reason="its helper has not come back")
