"""The root of the daemon's port: it hands each path to the wing that is mounted there."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import trio

from anvild.core.ids import new_id
from anvild.core.logging import get_logger
from anvild.sdk import ASGIApp, Mount, Services

from .body import ClientGone
from .errors import ErrorShape, InternalError, MethodNotAllowed, NoSuchPath
from .metrics import Metrics, Readiness
from .request import Answer
from .sender import send_answer, send_refusal

__all__ = ["Dispatcher", "root_app"]

log = get_logger("web")

REQUEST_ID = b"x-request-id"
_GOOD_ID = re.compile(rb"[A-Za-z0-9._-]{8,64}")


def root_app(mounts: Sequence[Mount], services: Services) -> ASGIApp:
    """Return the application of the daemon's port: the mounts, ``/healthz``, ``/readyz`` and ``/metrics``.

    Needs :class:`Metrics` and :class:`Readiness` among the services. Each request gets an id, which is in its answer's
    X-Request-Id header and in the log. An application that fails is answered for: 500 with that id.
    """
    return _Root(Dispatcher(mounts), services.get(Metrics), services.get(Readiness))


class Dispatcher:
    """Finds the mount of a request: one that answers at its host, else the one of its path, where the longest prefix
    that matches whole segments wins.

    Two mounts of one prefix are an error of the daemon: ValueError.
    """

    def __init__(self, mounts: Sequence[Mount]) -> None:
        self._mounts: dict[str, Mount] = {}
        self._at_hosts = [(mount.host, mount) for mount in mounts if mount.host is not None]
        for mount in mounts:
            if mount.host is not None:
                continue
            prefix = mount.prefix.rstrip("/")
            if prefix in self._mounts:
                raise ValueError(f"{mount.name} and {self._mounts[prefix].name} are both mounted at {mount.prefix!r}")
            self._mounts[prefix] = mount
        self._longest = max((prefix.count("/") for prefix in self._mounts), default=0)

    def at_host(self, headers: Sequence[tuple[bytes, bytes]]) -> Mount | None:
        """Return the mount that answers at the host of a request; None where there is none."""
        if not self._at_hosts:
            return None
        host = next((value for name, value in headers if name == b"host"), b"").decode("latin-1").lower()
        name = host.partition(":")[0]
        return next((mount for answers, mount in self._at_hosts if answers(name)), None)

    def find(self, path: str) -> Mount | None:
        """Return the mount of a path; None where there is none."""
        head = "/".join(path.split("/", self._longest + 1)[: self._longest + 1])
        while head:
            if head in self._mounts:
                return self._mounts[head]
            head = head.rpartition("/")[0]
        return self._mounts.get("")


class _Root:
    def __init__(self, dispatcher: Dispatcher, metrics: Metrics, readiness: Readiness) -> None:
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._readiness = readiness
        self._errors = ErrorShape()
        self._own = {"/healthz": self._alive, "/readyz": self._ready, "/metrics": self._numbers}

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] not in {"http", "websocket"}:
            return
        start = trio.current_time()
        state = scope["state"]
        request_id = _request_id(scope["headers"])
        state["request_id"] = request_id.decode("ascii")
        status = 0

        async def tell(message: Any) -> None:
            nonlocal status
            if message["type"] in {"http.response.start", "websocket.http.response.start"}:
                status = message["status"]
                message["headers"] = [*message["headers"], (REQUEST_ID, request_id)]
            elif message["type"] == "websocket.accept":
                status = 101
            await send(message)

        try:
            await self._serve(scope, receive, tell)
        except ClientGone:
            status = status or 499
        except Exception:
            log.exception("request_failed", request_id=state["request_id"], path=scope["path"])
            if status:
                raise  # the answer has begun; the server breaks it off, so that nobody takes it for whole
            await self._say(self._errors.render(InternalError(state["request_id"])), scope, tell)
        finally:
            seconds = trio.current_time() - start
            operation = state.get("operation", "none")
            self._metrics.answered(operation, status, seconds)
            log.debug(
                "request",
                request_id=state["request_id"],
                method=scope.get("method", "WEBSOCKET"),
                path=scope["path"],
                status=status,
                ms=round(seconds * 1000, 2),
                operation=operation,
            )

    async def _serve(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        path = scope["path"]
        elsewhere = self._dispatcher.at_host(scope["headers"])
        mount = self._dispatcher.find(path)
        if elsewhere is not None:
            await elsewhere.app(scope, receive, send)
        elif path in self._own and scope["type"] == "http":
            if scope["method"] in {"GET", "HEAD"}:
                await self._say(self._own[path](), scope, send)
            else:
                await self._say(self._errors.render(MethodNotAllowed(scope["method"], ("GET", "HEAD"))), scope, send)
        elif mount is not None:
            await mount.app(scope, receive, send)
        else:
            await self._say(self._errors.render(NoSuchPath("there is nothing at this path")), scope, send)

    async def _say(self, answer: Answer, scope: Mapping[str, Any], send: Any) -> None:
        if scope["type"] == "websocket":
            await send_refusal(answer, send)
        else:
            await send_answer(answer, send, head_only=scope["method"] == "HEAD")

    def _alive(self) -> Answer:
        return Answer(200, {"status": "alive"})

    def _ready(self) -> Answer:
        reasons = self._readiness.reasons()
        return Answer(503 if reasons else 200, {"ready": not reasons, "reasons": reasons})

    def _numbers(self) -> Answer:
        return Answer(200, self._metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _request_id(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Take the id that a proxy or client gave, if it is a good one."""
    for name, value in headers:
        if name == REQUEST_ID and _GOOD_ID.fullmatch(value):
            return value
    return new_id().encode("ascii")
