"""The errors of the daemon's own services, beside those of :mod:`anvild.sdk.errors`.

A service raises one of them; the web renders it in the shape of the wing that was asked. ``code`` is stable.
"""

from __future__ import annotations

import msgspec

from anvild.sdk import AnvilError

__all__ = [
    "CapReached",
    "Conflict",
    "FieldProblem",
    "Forbidden",
    "InvalidRequest",
    "RateLimited",
    "StorageFull",
    "TooLarge",
    "Unauthenticated",
]


class FieldProblem(msgspec.Struct, frozen=True):
    """One thing that is wrong with a request: where (``body.name``, ``query.limit``) and what was expected."""

    field: str
    expected: str


class InvalidRequest(AnvilError):
    """The request does not have the form that the operation takes."""

    code = "invalid_request"
    http = 400

    def __init__(self, message: str, problems: tuple[FieldProblem, ...] = (), **details: object) -> None:
        super().__init__(message, **details)
        self.problems = problems


class Unauthenticated(AnvilError):
    """No credential, or one that is wrong, expired or revoked. The message never says which."""

    code = "unauthenticated"
    http = 401


class CapReached(AnvilError):
    """A cap of the team's plan is reached."""

    code = "cap_reached"
    http = 402


class Forbidden(AnvilError):
    """The principal is known and may not do this."""

    code = "forbidden"
    http = 403


class Conflict(AnvilError):
    """The object is not in a state that allows this, or a compare-and-set was lost."""

    code = "conflict"
    http = 409


class TooLarge(AnvilError):
    """A body, header or file is larger than the limit that the message names."""

    code = "too_large"
    http = 413


class RateLimited(AnvilError):
    """Too many requests; ``retry_after`` says in seconds when the next one will be taken."""

    code = "rate_limited"
    http = 429
    retry = True

    def __init__(self, message: str, *, retry_after: float, **details: object) -> None:
        super().__init__(message, **details)
        self.retry_after = retry_after


class StorageFull(AnvilError):
    """The store or the artifacts cannot grow: the disk is full or a quota is reached."""

    code = "storage_full"
    http = 507
    retry = True
