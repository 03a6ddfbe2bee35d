"""The few things that a driver may ask of its host."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
import trio

from ..errors import AnvilError, CapabilityMissing, DriverFault, InvalidArgument, ResourceExhausted
from .codec import Malformed, decode
from .messages import CANCELLED, ErrorObject, Nothing
from .peer import Peer
from .wire_errors import error_to_wire, only_leaf

__all__ = ["Desk", "Handler"]

Handler = Callable[[Any], Awaitable[object]]
"""Answers one method: it is given the parameters as plain values, and raises the errors of the interface."""

MAX_REQUESTS = 16

_PLAIN = msgspec.json.Decoder(Any)


class Desk:
    """Answers a driver's requests: ``ping``, and what the host lets it ask for."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers
        self._scopes: dict[int | str, trio.CancelScope] = {}

    def begin(self, peer: Peer, nursery: trio.Nursery) -> None:
        """Answer over this connection, with work in this nursery."""
        self._peer = peer
        self._nursery = nursery

    def take(self, request: int | str, method: str, params: Any) -> None:
        """Take a request. Called by the reader."""
        handler = self._handlers.get(method)
        if method == "ping":
            self._peer.answer(request, Nothing())
        elif handler is None:
            self._refuse(request, CapabilityMissing(f"this host has no method {method!r}"))
        elif request in self._scopes or len(self._scopes) >= MAX_REQUESTS:
            self._refuse(request, ResourceExhausted(f"a driver may ask {MAX_REQUESTS} things of its host at a time"))
        else:
            self._scopes[request] = trio.CancelScope()
            self._nursery.start_soon(self._handle, request, method, handler, params)

    def cancel(self, request: int | str) -> None:
        """The driver does not need an answer any more. Called by the reader."""
        if request in self._scopes:
            self._scopes[request].cancel()

    async def _handle(self, request: int | str, method: str, handler: Handler, params: Any) -> None:
        scope = self._scopes[request]
        try:
            with scope:
                self._peer.answer(request, await handler(_plain(method, params)))
        except Exception as raised:
            error = only_leaf(raised)
            if not isinstance(error, AnvilError):
                # A defect of the host: its own business, and the driver must still be answered.
                self._refuse(request, DriverFault(f"the host failed in {method!r}"))
                raise
            self._refuse(request, error)
        finally:
            del self._scopes[request]
        if scope.cancelled_caught:
            self._peer.refuse(request, ErrorObject(code=CANCELLED, message=f"{method} was cancelled"))

    def _refuse(self, request: int | str, error: AnvilError) -> None:
        self._peer.refuse(request, error_to_wire(error))


def _plain(method: str, params: Any) -> Any:
    try:
        return None if params is msgspec.UNSET else decode(params, _PLAIN)
    except Malformed as error:
        raise InvalidArgument(f"{method}: {error}") from None
