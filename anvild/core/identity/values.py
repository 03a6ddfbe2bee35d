"""Who is asking, and the other plain values of the identity room."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, Protocol

import msgspec

__all__ = [
    "LAB_ROLES",
    "NOWHERE",
    "ROLES",
    "SYSTEM",
    "ApiKey",
    "Credentials",
    "LabRole",
    "Membership",
    "Origin",
    "Owned",
    "Principal",
    "PrincipalKind",
    "Role",
    "Team",
    "User",
    "UserStatus",
]

Role = Literal["owner", "admin", "member"]
"""What a person or an API key is within one team."""

LabRole = Literal["viewer", "operator", "admin"]
"""What a person is in the whole lab, beside all teams."""

UserStatus = Literal["inactive", "active", "disabled", "deleted"]

PrincipalKind = Literal["user", "api_key", "token", "automation", "host", "device", "system"]

ROLES: tuple[Role, ...] = ("member", "admin", "owner")
"""The team roles, each holding all rights of those before it."""

LAB_ROLES: tuple[LabRole, ...] = ("viewer", "operator", "admin")
"""The lab roles, each holding all rights of those before it."""


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Who is asking. It acts within ``team_id`` and nowhere else.

    ``scopes`` narrows what its role allows; None means all of the role. ``user_id`` is the person behind a session,
    a login token or a personal token, and the maker of an API key. ``device_udid`` and ``jti`` are set for a device.
    """

    kind: PrincipalKind
    id: str
    team_id: str | None = None
    role: Role | None = None
    lab_role: LabRole | None = None
    is_admin: bool = False
    scopes: frozenset[str] | None = None
    name: str = ""
    user_id: str | None = None
    session_id: str | None = None
    device_udid: str | None = None
    jti: str | None = None

    @property
    def actor(self) -> str:
        """The form in which events name it: ``type:id``, or ``system``."""
        return "system" if self.kind == "system" else f"{self.kind}:{self.id}"


SYSTEM = Principal(kind="system", id="system", name="system")
"""The daemon itself: it may do everything, in every team."""


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """What a request brings to say who asks, as the web read it from headers and cookies.

    ``authorization`` is the whole header. ``method`` decides whether a session needs its CSRF proof. With ``anew`` what
    a session may do is read from the store, whatever is remembered of it.
    """

    authorization: str | None = None
    api_key: str | None = None
    session: str | None = None
    csrf_cookie: str | None = None
    csrf_header: str | None = None
    host_token: str | None = None
    method: str = "GET"
    ip: str | None = None
    user_agent: str | None = None
    anew: bool = False


class Origin(msgspec.Struct, frozen=True):
    """Where a request came from, for the audit log."""

    ip: str | None = None
    user_agent: str | None = None


NOWHERE = Origin()


class Owned(Protocol):
    """Anything that belongs to a team; None means that the whole lab shares it."""

    @property
    def team_id(self) -> str | None: ...


class Team(msgspec.Struct, frozen=True, kw_only=True):
    """A team. ``device_cap`` None means the lab's default; ``byoc`` that it may bring hosts of its own. Its slug stays
    reserved after it was deleted."""

    id: str
    name: str
    slug: str
    device_cap: int | None
    byoc: bool
    created_at: datetime
    deleted_at: datetime | None


class User(msgspec.Struct, frozen=True, kw_only=True):
    """A person. ``number`` is the small integer that some clients know people by."""

    id: str
    number: int
    email: str | None
    username: str | None
    name: str
    status: UserStatus
    is_admin: bool
    lab_role: LabRole
    has_password: bool
    created_at: datetime
    last_login_at: datetime | None


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """That a person is in a team."""

    team_id: str
    user_id: str
    role: Role
    is_default: bool
    joined_at: datetime


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """An API key without its secret. ``prefix`` and ``last4`` are shown so that people can tell keys apart.

    A key has no role of its own: it may do what its maker may do in the team, cut down to its scopes. Made by nobody
    in particular (the automation token), it may do what an admin of the team may.
    """

    id: str
    team_id: str
    name: str
    prefix: str
    last4: str
    scopes: tuple[str, ...]
    created_by: str | None
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None
