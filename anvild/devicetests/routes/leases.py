"""Devices held by hand: taken for a while, and given back."""

from __future__ import annotations

from msgspec import UNSET

from anvild.core.engine import Device, Devices
from anvild.core.identity import require
from anvild.web.api import Api
from anvild.web.request import Answer, Request

from .. import schemas as wire
from ..hands import Hands
from .common import actor_of, team_of

__all__ = ["add_leases"]

TAGS = ("Devices by hand",)
BAD_ID = {400: "id must be a UUID", 404: "Not found"}


def add_leases(api: Api, hands: Hands, devices: Devices, *, default_seconds: float) -> None:
    """Add taking a device and giving it back. ``default_seconds`` is how long it is held when nothing is said."""

    @api.post(
        "/devices/{id:uuid}/lease",
        summary="Take a device for a while: nobody else gets it.",
        description="What you do with the device meanwhile needs no lease of its own, and it is cleaned once, at the "
        "end. It ends after `seconds`, when you give it back, or when the device is lost.",
        tags=TAGS,
        answers={201: wire.LeaseAnswer},
        errors={**BAD_ID, 409: "Somebody has the device, or it is not ready."},
        body=wire.LeaseBody,
        action="devices:use",
        idempotent=True,
        contract=False,
    )
    async def take_device(request: Request) -> wire.LeaseAnswer:
        body: wire.LeaseBody = request.body
        device = await _usable(request, devices)
        seconds = default_seconds if body.seconds is UNSET else body.seconds
        lease = await hands.take(device, actor_of(request), seconds)
        return wire.LeaseAnswer(
            lease=wire.HeldLease(
                id=lease.id, device_id=device.id, holder=lease.holder, since=lease.granted_at, seconds=seconds
            )
        )

    @api.delete(
        "/devices/{id:uuid}/lease",
        summary="Give a device back. Answers when it is clean.",
        tags=TAGS,
        answers={204: None},
        errors={**BAD_ID, 409: "You do not hold it: somebody else does, or it was made for you alone."},
        action="devices:use",
        contract=False,
    )
    async def give_device_back(request: Request) -> Answer:
        await hands.give_back(await _usable(request, devices), actor_of(request))
        return Answer(204)


async def _usable(request: Request, devices: Devices) -> Device:
    device = await devices.get(request.path["id"], team_of(request))
    require(request.principal, "devices:use", device)
    return device
