"""Ports of capsules, reached by names of their own; errors are plain text, for those who asked the guest and not us."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import trio

from anvild.core.errors import Forbidden
from anvild.core.identity import Limits, require
from anvild.core.settings import Settings
from anvild.sdk import AnvilError, Mount, Ports, Session, Unavailable
from anvild.web.api import Api
from anvild.web.body import BodyReader
from anvild.web.exchange import SlowBody
from anvild.web.forward import NoAnswer, Route, forward_request, forward_socket
from anvild.web.request import Answer, Headers, Request
from anvild.web.sender import send_answer, send_refusal

from ..life import Capsules
from ..proxy import Names, Passage, Place, is_secret
from .common import KEY_OR_SESSION, team_of

__all__ = ["PortProxy", "dial"]

DIAL_PAUSES = (0.1, 0.2)
"""Seconds between the trials to connect: a server that has just been started may not listen yet."""


class PortProxy:
    """Serves whatever listens on a port of a capsule at ``{port}-{capsule}.{domain}``, as HTTP and as WebSocket.

    Asks for an API key or session of the capsule's team, unless the settings open it to all who know the name.
    """

    def __init__(self, api: Api, capsules: Capsules, settings: Settings) -> None:
        self._api = api
        self._capsules = capsules
        self._names = Names(settings.capsules.proxy_domain)
        self._open = settings.capsules.proxy_open
        self._scheme = urlsplit(settings.address).scheme

    def mount(self) -> Mount:
        """Return what the wing hands to the daemon."""
        return Mount(name="ports", prefix="/", host=self._names.__contains__, app=self.app)

    async def app(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        """Serve one request or WebSocket (ASGI)."""
        scope["state"]["operation"] = "capsules.port"
        try:
            await self._serve(scope, receive, send)
        except NoAnswer as error:
            await _refuse(scope, send, 502, f"the port of the capsule gives no answer: {error}")
        except SlowBody:
            await _refuse(scope, send, 408, "the body did not arrive in time")
        except AnvilError as error:
            await _refuse(scope, send, self._api.errors.status_and_code(error)[0], error.message)

    async def _serve(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        host = Headers(scope["headers"])["host"]
        place = self._names.place(host.partition(":")[0].lower())
        passage = Passage(place=place, host=host, scheme=self._scheme)
        team_id = None if self._open else await self._team(scope, passage)
        socket = scope["type"] == "websocket"
        used = partial(self._capsules.touch, place.capsule_id)
        route = Route(host=place.inner, scheme=self._scheme, onward=passage.onward, back=passage.back, used=used)
        forward = forward_socket if socket else forward_request
        using = self._capsules.use(team_id, place.capsule_id, busy=not socket)
        async with using as session, await dial(session, place) as stream:
            await forward(scope, receive, send, stream, route)

    async def _team(self, scope: Mapping[str, Any], passage: Passage) -> str:
        """Return the team of who asks. Raises as authentication does, and Forbidden for a session that a page of
        another place uses."""
        headers = [pair for pair in scope["headers"] if pair[0] != b"authorization" or is_secret(*pair)]
        asking = Request({**scope, "headers": headers}, self._api.services, path={}, reader=_reader(scope))
        origin = asking.headers.get("origin")
        if origin is not None and "x-api-key" not in asking.headers:
            if not passage.is_own(origin):
                raise Forbidden("a session reaches the ports of capsules from their own pages alone")
            # What a page of this very place asks needs no other proof of it.
            asking = Request({**asking.scope, "method": "GET"}, self._api.services, path={}, reader=_reader(scope))
        asking.caller = await self._api.authenticate(asking, KEY_OR_SESSION)
        require(asking.caller, "capsules:write")
        team_id = team_of(asking)
        self._api.services.get(Limits).check("default", team_id)
        return team_id


async def _refuse(scope: Mapping[str, Any], send: Any, status: int, why: str) -> None:
    answer = Answer(status, f"{why}\n")
    if scope["type"] == "websocket":
        await send_refusal(answer, send)
    else:
        await send_answer(answer, send, head_only=scope["method"] == "HEAD")


async def dial(session: Session, place: Place) -> trio.abc.Stream:
    """Connect to a port. Raises NoAnswer when nothing listens there, CapabilityMissing, DeviceLost."""
    ports = session.require(Ports)
    for pause in DIAL_PAUSES:
        try:
            return await ports.connect_port(place.port)
        except Unavailable:
            await trio.sleep(pause)
    try:
        return await ports.connect_port(place.port)
    except Unavailable as error:
        raise NoAnswer(error.message) from None


def _reader(scope: Mapping[str, Any]) -> BodyReader:
    async def nothing() -> Any:
        raise LookupError("who asks is told by the headers alone")

    return BodyReader(nothing, scope["headers"], 0)
