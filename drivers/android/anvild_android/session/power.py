"""Power: the restart of a device, and the wait for it."""

from __future__ import annotations

import trio

from anvild.sdk import AnvilError, DeviceLost, Power, Unavailable

from ..fleet import Fleet
from .base import AndroidBase

__all__ = ["AndroidPower", "restart"]

REASON = "it restarts on request"
AWAY_SECONDS = 60.0
REFUSED_SECONDS = 5.0
BOOT_SECONDS = 290.0


class AndroidPower(AndroidBase, Power):
    """A device is not lost while it restarts on request: it is being made ready."""

    async def reboot(self) -> None:
        await restart(self.fleet, self.device.identity)


async def restart(fleet: Fleet, identity: str) -> None:
    """Restart a device and return when it has started up. Cancelling it leaves the device to come back by itself.

    Raises DeviceLost when it is not there, Unavailable when it does not go, or does not come back.
    """
    with fleet.restarting(identity, REASON):
        before = fleet.connections(identity)
        refusal = await _ask(fleet, identity)
        with trio.move_on_after(AWAY_SECONDS if refusal is None else REFUSED_SECONDS) as going:
            await fleet.wait_gone(before)
        if going.cancelled_caught:
            raise refusal or Unavailable(f"the device {identity} was told to restart and did not")
        with trio.move_on_after(BOOT_SECONDS) as coming:
            await fleet.wait_ready(identity)
        if coming.cancelled_caught:
            raise Unavailable(f"the device {identity} did not come back within {BOOT_SECONDS:g} s of its restart")


async def _ask(fleet: Fleet, identity: str) -> AnvilError | None:
    """Tell a device to restart. It may be gone before it has answered: whether the error is one, its going tells."""
    link = fleet.link(identity)
    link.check()
    try:
        stream = await link.open("reboot:")
    except (DeviceLost, Unavailable) as error:
        return error
    try:
        await stream.receive_all(0)
    except DeviceLost:
        return None
    finally:
        with trio.CancelScope(shield=True):
            await stream.aclose()
    return None
