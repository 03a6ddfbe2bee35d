"""The credential of an open connection: looked at with every request that is sent, and renewed without a break."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import msgspec
import trio

from anvild.core.errors import Forbidden, Unauthenticated
from anvild.core.events import EventLog
from anvild.core.identity import Credentials, Identity, Origin, Principal
from anvild.sdk import Event, InvalidArgument, PermissionDenied
from anvild.sdk.protocol import Transport, TransportClosed

__all__ = ["Admission", "AdmittedTransport", "Renewed"]

_TOUCHING = frozenset({"device_token", "api_key", "team", "user", "host", "token"})


class Renewed(msgspec.Struct):
    """The answer to ``token.rotate``: the token that is good from now on."""

    token: str
    expires_at: datetime | None


class Admission:
    """Says whether the one who opened a connection may go on with it."""

    def __init__(self, identity: Identity, credentials: Credentials, principal: Principal, origin: Origin) -> None:
        self._identity = identity
        self._credentials = credentials
        self._principal = principal
        self._origin = origin
        self._changing = trio.Lock()

    async def check(self) -> None:
        """Return while the credential is good. Raises TransportClosed when it is revoked or expired."""
        async with self._changing:
            try:
                principal = await self._identity.authenticate(self._credentials)
            except (Unauthenticated, Forbidden) as error:
                raise TransportClosed(f"the connection's token is not good any more: {error.message}") from None
        if principal is None or (principal.kind, principal.id) != (self._principal.kind, self._principal.id):
            raise TransportClosed("the connection's token belongs to somebody else now")

    async def rotate(self, params: Any) -> Renewed:
        """Renew the token within its connection. That of a device is made anew, and the old one ends; a host, which has
        renewed its own already, says what it is now. Raises PermissionDenied, InvalidArgument."""
        if self._principal.kind == "host":
            return await self._put_in_place(params)
        authorization = self._credentials.authorization
        if self._principal.kind != "device" or authorization is None:
            raise PermissionDenied("only the token of a device is renewed here")
        async with self._changing:
            try:
                new = await self._identity.device_tokens.rotate(
                    authorization.partition(" ")[2].strip(), origin=self._origin
                )
            except Unauthenticated as error:
                raise PermissionDenied(error.message) from None
            self._credentials = msgspec.structs.replace(self._credentials, authorization=f"Bearer {new.token}")
        return Renewed(new.token, new.expires_at)

    async def _put_in_place(self, params: Any) -> Renewed:
        token = params.get("token") if isinstance(params, dict) else None
        if not isinstance(token, str):
            raise InvalidArgument('token.rotate of a host takes its new token: {"token": ...}')
        new = msgspec.structs.replace(self._credentials, host_token=token)
        async with self._changing:
            try:
                principal = await self._identity.authenticate(new)
            except (Unauthenticated, Forbidden) as error:
                raise PermissionDenied(error.message) from None
            if principal is None or (principal.kind, principal.id) != (self._principal.kind, self._principal.id):
                raise PermissionDenied("this token is somebody else's")
            self._credentials = new
        return Renewed(token, None)

    @asynccontextmanager
    async def kept(self, events: EventLog) -> AsyncIterator[None]:
        """End the block by TransportClosed as soon as the credential is revoked."""
        touched = trio.Event()

        def hear(fresh: Sequence[Event]) -> None:
            if any(event.subject_type in _TOUCHING for event in fresh):
                touched.set()

        async def watch() -> None:
            nonlocal touched
            while True:
                await touched.wait()
                touched = trio.Event()
                try:
                    await self.check()
                except TransportClosed as error:
                    ended.append(error)
                    nursery.cancel_scope.cancel()
                    return

        ended: list[Exception] = []
        forget = events.on_commit(hear)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch)
                try:
                    yield
                except Exception as error:
                    ended.append(error)  # raised outside, so that the nursery does not wrap it
                nursery.cancel_scope.cancel()
        finally:
            forget()
        if ended:
            raise ended[0]


class AdmittedTransport(Transport):
    """A transport that sends a request only while its owner is admitted."""

    def __init__(self, transport: Transport, admission: Admission) -> None:
        self._transport = transport
        self._admission = admission

    async def send(self, message: str | bytes) -> None:
        """Send a message. Raises TransportClosed, also when the owner is not admitted any more."""
        if isinstance(message, str):
            await self._admission.check()
        await self._transport.send(message)

    async def receive(self) -> str | bytes:
        """Return the next message. Raises TransportClosed."""
        return await self._transport.receive()

    async def aclose(self) -> None:
        """End the connection."""
        await self._transport.aclose()
