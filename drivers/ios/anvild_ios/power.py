"""Restarting a device, and waiting until it answers again."""

from __future__ import annotations

import trio

from anvild.sdk import Power, Unavailable
from anvild.sdk.usb_power import power_cycle

from . import services
from .link import Link
from .lockdown import LockdownRefused, PairRecord, open_lockdown
from .roster import Roster
from .usbmux import MuxDevice, Usbmux
from .wire.streams import WireBroken, WireClosed

__all__ = ["LinkedPower", "replug", "restart"]

GO_SECONDS = 60.0
BACK_SECONDS = 240.0
LOOK_SECONDS = 1.0
"""A device that starts is on the cable before it answers, and does not tell when it will."""


class LinkedPower(Power):
    """The verb of power over a session's link."""

    link: Link
    roster: Roster

    async def reboot(self) -> None:
        await restart(self.link, self.roster)


async def restart(link: Link, roster: Roster) -> None:
    """Restart a device and return when it takes verbs again. ``link`` leads to it then.

    Raises WrongState when it is restarting already, Unavailable when it does not go, or does not come back in time.
    """
    device = link.plugging.device
    with roster.expecting(device.udid):
        try:
            async with link.mux.listen() as events:
                async with link.verb(), link.service(services.DIAGNOSTICS) as wire:
                    await services.restart(wire)
                with trio.fail_after(GO_SECONDS):
                    async for event in events:
                        if event.kind == "detached" and event.number == device.number:
                            break
                link.plugging.end()
                with trio.fail_after(BACK_SECONDS):
                    async for event in events:
                        if event.device is not None and event.device.udid == device.udid:
                            await _answering(link.mux, event.device)
                            break
        except trio.TooSlowError:
            raise Unavailable(f"{link.name} did not come back from its restart in time") from None
        except WireBroken as error:
            raise Unavailable(f"{link.name} could not be followed through its restart: {error}") from error
        link.plugging = await roster.find(device.udid)


async def replug(mux: Usbmux, roster: Roster, udid: str, port: str) -> None:
    """Switch the power of a device's port off and on, and return when the device takes verbs again.

    Raises DeviceLost when it is not on the cable, Unavailable when the port has no switch or the device does not come
    back in time.
    """
    device = (await roster.find(udid)).device
    with roster.expecting(udid):
        try:
            async with mux.listen() as events:
                await power_cycle(port)
                with trio.fail_after(GO_SECONDS):
                    async for event in events:
                        # What usbmuxd tells first is who was there before; a new stay has a new number.
                        if event.device is not None and event.device.udid == udid and event.number != device.number:
                            await _answering(mux, event.device)
                            break
        except trio.TooSlowError:
            raise Unavailable(f"the device did not come back when the port {port} was switched") from None
        except WireBroken as error:
            raise Unavailable(f"usbmuxd went away while the port {port} was switched: {error}") from error


async def _answering(mux: Usbmux, device: MuxDevice) -> None:
    """Return when a session with the device can be had."""
    while True:
        try:
            record = await mux.pair_record(device.udid)
            if record is None:
                raise WireClosed("usbmuxd does not know its keys")
            async with open_lockdown(mux, device.number, PairRecord(record)):
                return
        except LockdownRefused as error:
            if error.code == "PasswordProtected":
                raise Unavailable("the device has a passcode: unlock it, as after every restart") from error
        except WireBroken:
            pass  # it is still starting
        await trio.sleep(LOOK_SECONDS)
