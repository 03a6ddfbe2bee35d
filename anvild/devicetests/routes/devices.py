"""Devices: listed, registered, made to order, taken away, taken out of quarantine."""

from __future__ import annotations

from msgspec import UNSET

from anvild.core.engine import Device, Devices
from anvild.core.identity import Identity, require
from anvild.web.api import Api
from anvild.web.request import Request

from .. import schemas as wire
from ..shapes import device_shape
from .common import actor_of, device_cap, team_of

__all__ = ["add_devices"]

TAGS = ("Devices",)
BAD_ID = {400: "id must be a UUID", 404: "Not found"}


def add_devices(api: Api, identity: Identity, devices: Devices, *, default_cap: int) -> None:
    """Add the operations on devices as the lab's inventory."""

    @api.get(
        "/devices",
        summary="List devices in your org.",
        description="The team's own, those that the lab shares, and those made to order while they live.",
        tags=TAGS,
        answers={200: wire.DeviceList},
        action="devices:read",
    )
    async def list_devices(request: Request) -> wire.DeviceList:
        team_id = team_of(request)
        found = await devices.list(team_id, made_to_order=True)
        return wire.DeviceList(devices=[device_shape(device, team_id) for device in found])

    @api.post(
        "/devices",
        summary="Register a new device.",
        description="It is `provisioning` until a driver reaches it. Enforces the org's plan device cap.",
        tags=TAGS,
        answers={201: wire.DeviceAnswer},
        errors={400: "The body is not as expected.", 402: "Plan cap reached"},
        body=wire.DeviceRegisterBody,
        action="devices:write",
        idempotent=True,
    )
    async def register_device(request: Request) -> wire.DeviceAnswer:
        body: wire.DeviceRegisterBody = request.body
        team_id = team_of(request)
        device = await devices.register(
            team_id=team_id,
            name=body.name,
            model=None if body.model is UNSET else body.model,
            firmware_version=None if body.firmware_version is UNSET else body.firmware_version,
            capabilities=() if body.capabilities is UNSET else body.capabilities,
            metadata=None if body.metadata is UNSET else body.metadata,
            cap=await device_cap(identity, team_id, default_cap),
            by=actor_of(request),
        )
        return wire.DeviceAnswer(device=device_shape(device, team_id))

    @api.get(
        "/devices/{id:uuid}",
        summary="Fetch one device.",
        tags=TAGS,
        answers={200: wire.DeviceAnswer},
        errors=BAD_ID,
        action="devices:read",
        contract=False,
    )
    async def get_device(request: Request) -> wire.DeviceAnswer:
        return wire.DeviceAnswer(device=device_shape(await _get(request, devices), team_of(request)))

    @api.post(
        "/devices/{id:uuid}/rearm",
        summary="Take a device out of quarantine; its driver cleans it before its next lease.",
        tags=TAGS,
        answers={200: wire.DeviceAnswer},
        errors={**BAD_ID, 409: "The device is not in quarantine."},
        action="devices:write",
        contract=False,
    )
    async def rearm_device(request: Request) -> wire.DeviceAnswer:
        device = await _get(request, devices)
        require(request.principal, "devices:write", device)
        rearmed = await devices.rearm(device.id, actor_of(request))
        return wire.DeviceAnswer(device=device_shape(rearmed, team_of(request)))


async def _get(request: Request, devices: Devices) -> Device:
    return await devices.get(request.path["id"], team_of(request))
