"""One error model, rendered in the shape of the wing that was asked.

Services raise :class:`~anvild.sdk.AnvilError`; nothing else reaches a client but as an internal error with an id.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Literal

import msgspec

from anvild.core.errors import InvalidRequest, RateLimited
from anvild.core.identity.idempotency import StillRunning
from anvild.sdk import AnvilError

from .request import Answer

__all__ = [
    "ErrorShape",
    "InternalError",
    "MethodNotAllowed",
    "NoSuchPath",
    "RequestTimeout",
    "UnsupportedMediaType",
    "UpgradeRequired",
]

JSON = "application/json"
PROBLEM = "application/problem+json"


class NoSuchPath(AnvilError):
    """Nothing is served at this path."""

    code = "not_found"
    http = 404


class MethodNotAllowed(AnvilError):
    """The path is there, but not for this method; ``allowed`` are those that it takes."""

    code = "method_not_allowed"
    http = 405

    def __init__(self, method: str, allowed: tuple[str, ...]) -> None:
        super().__init__(f"{method} is not possible here; allowed are {', '.join(allowed)}")
        self.allowed = allowed


class RequestTimeout(AnvilError):
    """The body of the request did not arrive in time."""

    code = "request_timeout"
    http = 408


class UnsupportedMediaType(AnvilError):
    """The body is not of the content type that the operation takes."""

    code = "unsupported_media_type"
    http = 415


class UpgradeRequired(AnvilError):
    """A plain request came to where a WebSocket is."""

    code = "upgrade_required"
    http = 426


class InternalError(AnvilError):
    """The daemon has a defect. ``request_id`` finds it in the log."""

    code = "internal"
    http = 500

    def __init__(self, request_id: str) -> None:
        super().__init__(f"something went wrong in the daemon; its log tells what, under {request_id}")


class ErrorShape:
    """How a wing tells its clients of an error.

    ``codes`` gives the wing's own (status, code) for a code of the error table. In the ``envelope`` form a body is
    ``{"error": {"code", "message"}}``; in the ``problem`` form it is an RFC 9457 problem whose ``type`` is ``base``
    and the code, whose ``detail`` is a string, with the error's details and the fields' problems as further members.
    """

    def __init__(
        self,
        form: Literal["envelope", "problem"] = "envelope",
        *,
        codes: Mapping[str, tuple[int, str]] = MappingProxyType({}),
        base: str = "about:blank#",
    ) -> None:
        self.form = form
        self.codes = codes
        self.base = base
        self.media_type = JSON if form == "envelope" else PROBLEM

    def status_and_code(self, error: AnvilError | type[AnvilError]) -> tuple[int, str]:
        """Return the wing's HTTP status and code for an error."""
        return self.codes.get(error.code, (error.http, error.code))

    def render(self, error: AnvilError, *, instance: str = "") -> Answer:
        """Return the answer that tells of ``error``; ``instance`` is the path that was asked for."""
        status, code = self.status_and_code(error)
        message = _sentence(error)
        body: dict[str, object]
        if self.form == "envelope":
            body = {"error": {"code": code, "message": message}}
        else:
            body = {name: value for name, value in error.details.items() if name != "limit"} | {
                "type": self.base + code,
                "title": HTTPStatus(status).phrase,
                "status": status,
                "detail": message,
                "code": code,
                "instance": instance,
            }
            if isinstance(error, InvalidRequest):
                body["errors"] = [{"field": problem.field, "expected": problem.expected} for problem in error.problems]
        headers = []
        if isinstance(error, RateLimited | StillRunning):
            headers.append(("retry-after", str(max(1, math.ceil(error.retry_after)))))
        if isinstance(error, MethodNotAllowed):
            headers.append(("allow", ", ".join(error.allowed)))
        if status == HTTPStatus.UNAUTHORIZED:
            headers.append(("www-authenticate", "Bearer"))
        # Details are plain values; should one be none, its text will do.
        content = msgspec.json.encode(body, enc_hook=str)
        return Answer(status, content, headers=tuple(headers), media_type=self.media_type)


def _sentence(error: AnvilError) -> str:
    if isinstance(error, InvalidRequest) and error.problems:
        fields = "; ".join(f"{problem.field}: expected {problem.expected}" for problem in error.problems)
        return f"{error.message}: {fields}"
    return error.message
