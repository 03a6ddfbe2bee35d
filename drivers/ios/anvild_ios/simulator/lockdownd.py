"""The simulated lockdownd: values, sessions with or without TLS, pairing, and the start of services."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import trio

from ..wire.plists import encode_message, receive_message
from ..wire.streams import Wire, WireBroken
from .services import SERVICES

if TYPE_CHECKING:
    from .server import Plugging, Simulator

__all__ = ["serve_lockdown"]

DEVELOPER = {"com.apple.instruments.remoteserver.DVTSecureSocketProxy"}


class Refused(Exception):
    """A request that lockdownd answers with an error word."""


async def serve_lockdown(simulator: Simulator, plugging: Plugging, wire: Wire) -> None:
    """Converse with one client until it goes."""
    conversation = Conversation(simulator, plugging)
    while True:
        request = await receive_message(wire)
        kind = str(request.get("Request"))
        answer: dict[str, Any] = {"Request": kind}
        try:
            answer.update(conversation.answer(kind, request))
        except Refused as error:
            answer["Error"] = str(error)
        await wire.send(encode_message(answer))
        if kind == "StartSession" and answer.get("EnableSessionSSL"):
            wire = await secure(simulator, wire)


class Conversation:
    """What one client has achieved: ``session`` is the id of its session."""

    def __init__(self, simulator: Simulator, plugging: Plugging) -> None:
        self.simulator = simulator
        self.plugging = plugging
        self.device = plugging.device
        self.session: str | None = None

    def answer(self, kind: str, request: dict[str, Any]) -> dict[str, Any]:
        """Answer one request. Raises Refused."""
        match kind:
            case "QueryType":
                return {"Type": "com.apple.mobile.lockdown"}
            case "GetValue":
                return self._value(request.get("Domain"), request.get("Key"))
            case "SetValue" | "RemoveValue":
                return self._set(request)
            case "StartSession":
                return self._start_session(request)
            case "StopSession":
                self.session = None
                return {"Result": "Success"}
            case "StartService":
                return self._start_service(str(request.get("Service")))
            case "Pair" | "ValidatePair":
                if not self.device.trusted:
                    raise Refused("PasswordProtected" if self.device.locked else "PairingDialogResponsePending")
                return {"EscrowBag": self.device.udid.encode()}
            case "Unpair":
                self.device.trusted = False
                return {}
        raise Refused("InvalidRequest")

    def _value(self, domain: str | None, key: str | None) -> dict[str, Any]:
        paired = self.session is not None
        if domain:
            if not paired:
                raise Refused("SessionInactive")
            known = self.device.domain(domain)
        else:
            known = self.device.values(paired=paired)
        named = {name: each for name, each in (("Domain", domain), ("Key", key)) if each is not None}
        if key is None:
            return {**named, "Value": known}
        if key not in known:
            raise Refused("MissingValue")
        return {**named, "Value": known[key]}

    def _set(self, request: dict[str, Any]) -> dict[str, Any]:
        if self.session is None:
            raise Refused("SessionInactive")
        if request.get("Key") == "DeviceName" and "Value" in request:
            self.device.name = str(request["Value"])
        return {"Key": request.get("Key", ""), "Value": request.get("Value", "")}

    def _start_session(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.simulator.pairing is not None
        if self.device.locked:
            raise Refused("PasswordProtected")
        if not self.device.trusted or request.get("HostID") != self.simulator.pairing.host_id:
            raise Refused("InvalidHostID")
        self.session = f"{self.device.udid}-{self.plugging.number}"
        return {"SessionID": self.session, "EnableSessionSSL": self.device.tls}

    def _start_service(self, name: str) -> dict[str, Any]:
        if self.session is None:
            raise Refused("SessionInactive")
        handler = SERVICES.get(name)
        if handler is None or (name in DEVELOPER and not self.device.developer_services):
            raise Refused("InvalidService")
        self.device.log("lockdownd", f"started {name}")

        async def serve(wire: Wire) -> None:
            if self.device.tls:
                wire = await secure(self.simulator, wire)
            try:
                await handler(self.device, wire)
            finally:
                if self.device.restart_wanted:
                    self.device.restart_wanted = False
                    self.simulator.restart(self.device.udid)

        port = self.plugging.offer(serve)
        return {"Service": name, "Port": port, **({"EnableServiceSSL": True} if self.device.tls else {})}


async def secure(simulator: Simulator, wire: Wire) -> Wire:
    """Go on over TLS with the paired host. Raises WireBroken for any other."""
    assert simulator.context is not None
    stream = trio.SSLStream(wire.release(), simulator.context, server_side=True, https_compatible=True)
    try:
        await stream.do_handshake()
    except (trio.BrokenResourceError, ssl.SSLError) as error:
        raise WireBroken(f"no TLS: {error}") from error
    return Wire(stream)
