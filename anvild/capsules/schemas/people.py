"""The wire shapes of accounts, sessions, teams and keys. What is not known is left out."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, UnsetType

from .common import Moment

__all__ = [
    "APIKey",
    "Activation",
    "AuthorizationPage",
    "ChangePasswordRequest",
    "CreateAPIKeyRequest",
    "DeleteAccount",
    "LoginRequest",
    "Me",
    "NewMember",
    "NewName",
    "NewRole",
    "OAuthAnswer",
    "ResetConfirmation",
    "ResetRequest",
    "Session",
    "SessionList",
    "SessionResponse",
    "SignupRequest",
    "SignupResponse",
    "SwitchTeam",
    "Team",
    "TeamDetail",
    "TeamMember",
    "TeamName",
    "TeamWithRole",
    "UserQuery",
    "UserSearchResult",
]

Email = Annotated[str, msgspec.Meta(extra_json_schema={"format": "email"})]
Password = Annotated[str, msgspec.Meta(min_length=8)]
TeamRole = Literal["owner", "admin", "member"]


class SignupRequest(msgspec.Struct):
    """A new account."""

    email: Email
    password: Password
    name: Annotated[str, msgspec.Meta(max_length=100)]


class SignupResponse(msgspec.Struct):
    """What to do next."""

    message: str


class Activation(msgspec.Struct):
    """The text from the link in the activation mail."""

    token: str


class LoginRequest(msgspec.Struct):
    """Who wants to come in."""

    email: Email
    password: str


class SessionResponse(msgspec.Struct, omit_defaults=True):
    """Who the new session is. The session itself is in the cookies."""

    user_id: str
    name: str
    is_admin: bool
    email: str | UnsetType = UNSET
    team_id: str | UnsetType = UNSET
    role: str | UnsetType = UNSET


class SwitchTeam(msgspec.Struct):
    """The team that the session shall be in."""

    team_id: str


class Session(msgspec.Struct, omit_defaults=True):
    """A live session. ``current`` is the one that asks."""

    id: str
    created_at: Moment
    last_seen_at: Moment
    expires_at: Moment
    current: bool
    user_agent: str | UnsetType = UNSET
    ip_address: str | UnsetType = UNSET


class SessionList(msgspec.Struct):
    """The caller's sessions, the last used first."""

    sessions: list[Session]


class Me(msgspec.Struct, omit_defaults=True):
    """The caller's account."""

    name: str
    has_password: bool
    providers: list[str]
    email: Email | UnsetType = UNSET


class NewName(msgspec.Struct):
    """Another name for the account."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]


class DeleteAccount(msgspec.Struct):
    """The account's own address, as the sign that it is meant."""

    confirmation: str


class ChangePasswordRequest(msgspec.Struct):
    """A new password, with the old one or, for an account without one, repeated."""

    new_password: Password
    current_password: str | UnsetType = UNSET
    confirm_password: str | UnsetType = UNSET


class ResetRequest(msgspec.Struct):
    """Whose password is forgotten."""

    email: Email


class ResetConfirmation(msgspec.Struct):
    """The text from the link in the mail, and the new password."""

    token: str
    new_password: Password


class OAuthAnswer(msgspec.Struct):
    """What the provider sends people back with."""

    code: str | UnsetType = UNSET
    state: str | UnsetType = UNSET


class AuthorizationPage(msgspec.Struct):
    """Where the caller allows the login."""

    auth_url: Annotated[str, msgspec.Meta(extra_json_schema={"format": "uri"})]


class CreateAPIKeyRequest(msgspec.Struct):
    """A new key."""

    name: str = "Unnamed API Key"


class APIKey(msgspec.Struct, omit_defaults=True):
    """An API key. ``key`` is its text, in the answer that made it and nowhere else."""

    id: str
    team_id: str
    name: str
    key_prefix: str
    created_at: Moment
    last_used: Moment | UnsetType | None = UNSET
    key: str | UnsetType | None = UNSET


class UserQuery(msgspec.Struct):
    """How the address begins."""

    email: str


class UserSearchResult(msgspec.Struct):
    """A person who may be added to a team."""

    user_id: str
    email: str


class Team(msgspec.Struct):
    """A team."""

    id: str
    name: str
    slug: str
    created_at: Moment


class TeamWithRole(Team):
    """A team, and what the caller is in it."""

    role: TeamRole


class TeamMember(msgspec.Struct, omit_defaults=True):
    """A person in a team."""

    user_id: str
    role: TeamRole
    joined_at: Moment
    email: str | UnsetType = UNSET


class TeamDetail(msgspec.Struct):
    """A team with all who are in it."""

    team: Team
    members: list[TeamMember]


class TeamName(msgspec.Struct):
    """A name for a team."""

    name: str


class NewMember(msgspec.Struct):
    """Who shall be in the team."""

    email: Email


class NewRole(msgspec.Struct):
    """What a member shall be."""

    role: Literal["admin", "member"]
