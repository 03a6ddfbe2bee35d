"""The wire shapes of teams and people as the platform's admins see them. What is not known is left out."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from .common import Moment

__all__ = ["AdminTeam", "AdminUser", "TeamByoc", "UserActive", "UserAdmin"]


class AdminTeam(msgspec.Struct, omit_defaults=True):
    """A team. One that was deleted says when."""

    id: str
    name: str
    slug: str
    is_byoc: bool
    created_at: Moment
    member_count: int
    active_sandbox_count: int
    channel_count: int
    owner_name: str | UnsetType = UNSET
    owner_email: str | UnsetType = UNSET
    deleted_at: Moment | UnsetType = UNSET


class TeamByoc(msgspec.Struct):
    """Whether a team may bring hosts of its own."""

    byoc: bool


class AdminUser(msgspec.Struct, omit_defaults=True):
    """A person."""

    id: str
    name: str
    is_admin: bool
    status: str
    created_at: Moment
    teams_joined: int
    teams_owned: int
    email: str | UnsetType = UNSET


class UserActive(msgspec.Struct):
    """Whether a person can come in."""

    active: bool


class UserAdmin(msgspec.Struct):
    """Whether a person is one of the platform's admins."""

    admin: bool
