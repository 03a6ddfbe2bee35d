"""How plugins that extend the daemon itself (wings, observers) reach its services."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

ASGIApp = Callable[[Mapping[str, Any], Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]]


class Services:
    """The daemon's services by their class.

    The daemon fills it at start-up, in the order of its floors. ``get`` of a class that is not there raises
    LookupError naming it: a plugin that asks for more than this daemon has fails at its start with one sentence.
    """

    def __init__(self) -> None:
        self._by_type: dict[type[Any], Any] = {}

    def add(self, kind: type[T], service: T) -> None:
        """Offer a service under its class. Offering a class twice is an error of the daemon."""
        if kind in self._by_type:
            raise ValueError(f"the service {kind.__name__} is offered already")
        self._by_type[kind] = service

    def get(self, kind: type[T]) -> T:
        """Return the service of this class."""
        try:
            service: T = self._by_type[kind]
        except KeyError:
            raise LookupError(f"this daemon offers no service {kind.__name__}") from None
        return service


class Mount(msgspec.Struct, frozen=True, kw_only=True):
    """An ASGI application of a plugin at a path prefix of the daemon's one port.

    The longest prefix that matches whole path segments wins. A mount with ``host`` is asked before all those without:
    it gets every path where ``host`` says yes to the name in the request's Host header (in lower case, without its
    port), whatever its own prefix. ``openapi`` returns the application's OpenAPI 3.1 document. ``run``
    is a background task of the wing; it is started before the port opens and cancelled after it has closed.
    """

    name: str
    prefix: str
    app: ASGIApp
    openapi: Callable[[], dict[str, Any]] | None = None
    run: Callable[[], Awaitable[None]] | None = None
    host: Callable[[str], bool] | None = None
