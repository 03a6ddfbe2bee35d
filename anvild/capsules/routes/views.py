"""Operations on capsules that two kinds of callers have: teams on their own, the platform's admins on all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeVar

import trio

from anvild.core.errors import Forbidden, Unauthenticated
from anvild.web.api import Api, SocketHandler
from anvild.web.operations import Handler
from anvild.web.request import Request
from anvild.web.sse import RECHECK_SECONDS
from anvild.web.websocket import WebSocket

from ..values import PLATFORM
from .common import KEY_OR_SESSION, SESSION, team_of

__all__ = ["ADMIN_TAGS", "NO_ADMIN", "View"]

H = TypeVar("H", bound=Callable[..., Any])

POLICY_VIOLATION = 1008

ADMIN_TAGS = ("admin",)
NO_ADMIN = {403: "The caller is no admin of the platform."}


class View:
    """Declares operations, in the words of teams, for one kind of callers; so each is written once for both.

    Those of the platform's admins are the same below ``/admin``: for their sessions alone, and on the capsules of all
    teams.
    """

    def __init__(self, api: Api, *, platform: bool = False) -> None:
        self.platform = platform
        self._api = api

    def team(self, request: Request) -> str | None:
        """Return the team whose capsules are meant; None means those of all."""
        return None if self.platform else team_of(request)

    def owner(self, request: Request) -> str:
        """Return the team that what is made belongs to."""
        return PLATFORM if self.platform else team_of(request)

    def get(self, path: str, **declaration: Any) -> Callable[[Handler], Handler]:
        """Declare a GET operation. See :meth:`anvild.web.api.Api.operation`."""
        return self._declare("GET", path, declaration)

    def post(self, path: str, **declaration: Any) -> Callable[[Handler], Handler]:
        """Declare a POST operation."""
        return self._declare("POST", path, declaration)

    def delete(self, path: str, **declaration: Any) -> Callable[[Handler], Handler]:
        """Declare a DELETE operation."""
        return self._declare("DELETE", path, declaration)

    def raw(self, method: str, path: str, handler: Handler, **declaration: Any) -> None:
        """Declare an operation that runs beside Quart."""
        self._declare(method, path, {**declaration, "raw": True})(handler)

    def websocket(self, path: str, handler: SocketHandler, **declaration: Any) -> None:
        """Declare a WebSocket. It is closed when the credential that it came with is no longer good."""
        handler = self._named(_while_good(handler))
        self._api.websocket(self._path(path), handler, **self._changed(declaration))

    def _declare(self, method: str, path: str, declaration: Mapping[str, Any]) -> Callable[[Handler], Handler]:
        declare = self._api.operation(method, self._path(path), **self._changed(declaration))
        return lambda handler: declare(self._named(handler))

    def _path(self, path: str) -> str:
        return f"/admin{path}" if self.platform else path

    def _changed(self, declaration: Mapping[str, Any]) -> dict[str, Any]:
        if not self.platform:
            return {"accepts": KEY_OR_SESSION, **declaration}
        return {
            **declaration,
            "summary": f"{declaration['summary']} (admin)",
            "tags": (*ADMIN_TAGS, *(tag for tag in declaration["tags"] if tag != "capsules")),
            "errors": {**declaration.get("errors", {}), **NO_ADMIN},
            "action": f"admin:{declaration['action'].partition(':')[2]}",
            "accepts": SESSION,
        }

    def _named(self, handler: H) -> H:
        if self.platform:
            handler.__name__ = f"admin_{handler.__name__}"
        return handler


def _while_good(handler: SocketHandler) -> SocketHandler:
    async def watch(request: Request, socket: WebSocket, handling: trio.CancelScope) -> None:
        while True:
            await trio.sleep(RECHECK_SECONDS)
            try:
                await request.recheck()
            except (Unauthenticated, Forbidden) as error:
                await socket.close(POLICY_VIOLATION, error.message)
                handling.cancel()
                return

    @wraps(handler)
    async def watched(request: Request, socket: WebSocket) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, request, socket, nursery.cancel_scope)
            await handler(request, socket)
            nursery.cancel_scope.cancel()

    return watched
