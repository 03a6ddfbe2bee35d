"""The driver protocol over a WebSocket: helpers on devices, and other lab machines."""

from __future__ import annotations

import trio

from anvild.core.engine import Devices
from anvild.core.errors import Forbidden
from anvild.core.events import EventLog
from anvild.core.helpers import Admission, AdmittedTransport, Helpers, Scope
from anvild.core.hosts import Line, Links
from anvild.core.identity import Credentials, Identity, Principal, require
from anvild.sdk import AnvilError
from anvild.sdk.protocol import Initialize, TransportClosed, connect_driver
from anvild.web.api import Api
from anvild.web.request import Request
from anvild.web.transport import SocketTransport
from anvild.web.websocket import WebSocket

from .common import origin_of

__all__ = ["add_driver"]

POLICY_VIOLATION = 1008
BAD_DRIVER = 1002
HOST_NAME = "x-host-name"


def add_driver(
    api: Api, identity: Identity, devices: Devices, helpers: Helpers, links: Links, events: EventLog, *, host: str
) -> None:
    """Add the connection of helpers and hosts. ``host`` is the name that they see of this machine."""

    async def driver_connection(request: Request, socket: WebSocket) -> None:
        principal = request.principal
        if principal.kind == "host":
            require(principal, "hosts:connect")
            scope = None
        else:
            scope = await _scope(principal, devices)
        await socket.accept()
        credentials = Credentials(
            authorization=request.headers.get("authorization"),
            host_token=request.headers.get("x-host-token"),
            ip=request.ip,
            user_agent=request.user_agent,
        )
        admission = Admission(identity, credentials, principal, origin_of(request))
        line = Line(AdmittedTransport(SocketTransport(socket), admission))
        answers = {"token.rotate": admission.rotate}
        try:
            async with (
                admission.kept(events),
                connect_driver(line, Initialize(host=host), on_fault=line.fault, requests=answers) as remote,
            ):
                if scope is None:
                    name = request.headers.get(HOST_NAME, "host")
                    # Its capsules do not miss their host while this daemon is away itself.
                    with request.stopping.ending(trio.CancelScope()):
                        await links.lend(principal.id, name, remote, line)
                else:
                    await helpers.serve(remote, scope)
        except TransportClosed as error:
            line.end(error.reason)
            await socket.close(POLICY_VIOLATION, error.reason)
        except AnvilError as error:
            await socket.close(BAD_DRIVER, error.message)

    api.websocket(
        "/driver",
        driver_connection,
        summary="The driver protocol, for a helper on a device or another lab machine.",
        description="Send the token of the handshake as `Authorization: Bearer`, or a host's token as `X-Host-Token`, "
        "with what it calls itself as `X-Host-Name`. "
        "The messages are those of the driver protocol; this side is the host. The device is `ready` when the helper "
        "has reported it and `offline` when the connection ends. Code 1008 says that the token is revoked or expired, "
        "1002 that the driver is not understood.",
        tags=("Devices",),
        errors={403: "The credential is not that of a device or host.", 404: "The device is not in the lab any more."},
        signed_in=True,
        contract=False,
    )


async def _scope(principal: Principal, devices: Devices) -> Scope:
    """Say what a helper may speak for. Raises Forbidden, NotFound."""
    if principal.kind != "device" or principal.device_udid is None:
        raise Forbidden("shake hands first, with POST /auth/device/handshake, and send the token that it gives")
    require(principal, "devices:connect")
    device = await devices.get(principal.id, principal.team_id)
    return Scope(holder=principal.actor, identity=principal.device_udid, name=device.name if device.by_hand else None)
