"""What the routes share: which credentials an operation takes, and reading its path."""

from __future__ import annotations

from urllib.parse import parse_qs

from anvild.web.callers import actor_of, origin_of, team_of
from anvild.web.request import Request

from ..ids import Kind, from_wire

__all__ = ["HOST", "KEY_OR_SESSION", "SECURITY", "SESSION", "actor_of", "beyond", "id_in_path", "origin_of", "team_of"]

SECURITY = {
    "apiKeyAuth": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "sessionAuth": {"type": "apiKey", "in": "cookie", "name": "wrenn_sid"},
    "csrfHeader": {"type": "apiKey", "in": "header", "name": "X-CSRF-Token"},
    "hostTokenAuth": {"type": "apiKey", "in": "header", "name": "X-Host-Token"},
}
"""The ways to present a credential. The CSRF header is none by itself: it stands beside a session's cookie."""

SESSION = ("sessionAuth",)
KEY_OR_SESSION = ("apiKeyAuth", "sessionAuth")
HOST = ("hostTokenAuth",)


def beyond(request: Request, name: str) -> list[str]:
    """Return what the query says of a parameter that the contract does not have."""
    query: bytes = request.scope["query_string"]
    return parse_qs(query.decode("latin-1")).get(name, [])


def id_in_path(request: Request, kind: Kind, name: str = "id") -> str:
    """Return the daemon's id that a parameter of the path shows. Raises NotFound for what is no such id."""
    return from_wire(kind, request.path[name])
