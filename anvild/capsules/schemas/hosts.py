"""The wire shapes of hosts. What is not known is left out."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType

from anvild.core.hosts import HostStatus, HostType

from .common import Moment

__all__ = [
    "AddTagRequest",
    "CreateHostRequest",
    "CreateHostResponse",
    "Host",
    "HostDeletePreview",
    "HostHasCapsules",
    "HostHasCapsulesError",
    "RefreshHostTokenRequest",
    "RefreshHostTokenResponse",
    "RegisterHostRequest",
    "RegisterHostResponse",
    "SandboxEvent",
]


class CreateHostRequest(msgspec.Struct):
    """A new host."""

    type: HostType
    team_id: str | UnsetType = UNSET
    provider: str | UnsetType = UNSET
    availability_zone: str | UnsetType = UNSET


class RegisterHostRequest(msgspec.Struct):
    """What a host says of itself when it registers."""

    token: str
    address: str
    arch: str | UnsetType = UNSET
    cpu_cores: int | UnsetType = UNSET
    memory_mb: int | UnsetType = UNSET
    disk_gb: int | UnsetType = UNSET


class Host(msgspec.Struct, omit_defaults=True):
    """A host as it stands."""

    id: str
    type: HostType
    status: HostStatus
    created_by: str
    created_at: Moment
    updated_at: Moment
    team_id: str | UnsetType | None = UNSET
    provider: str | UnsetType | None = UNSET
    availability_zone: str | UnsetType | None = UNSET
    arch: str | UnsetType | None = UNSET
    cpu_cores: int | UnsetType | None = UNSET
    memory_mb: int | UnsetType | None = UNSET
    disk_gb: int | UnsetType | None = UNSET
    address: str | UnsetType | None = UNSET
    last_heartbeat_at: Moment | UnsetType | None = UNSET


class CreateHostResponse(msgspec.Struct):
    """A host, and the text that it registers with, which is in no other answer."""

    host: Host
    registration_token: str


class RegisterHostResponse(msgspec.Struct):
    """What a host holds from its registration on."""

    host: Host
    token: str
    refresh_token: str


class RefreshHostTokenRequest(msgspec.Struct):
    """A refresh token, which is used up."""

    refresh_token: str


class RefreshHostTokenResponse(msgspec.Struct):
    """What a host holds from now on."""

    host: Host
    token: str
    refresh_token: str


class SandboxEvent(msgspec.Struct):
    """What a host tells of a capsule. Events that are not known are taken too."""

    event: str
    sandbox_id: str
    host_id: str
    timestamp: Annotated[int, msgspec.Meta(extra_json_schema={"format": "int64"})] | UnsetType = UNSET


class HostDeletePreview(msgspec.Struct):
    """A host, and the capsules that its deletion would end."""

    host: Host
    sandbox_ids: list[str]


class HostHasCapsules(msgspec.Struct):
    """Why a host is not deleted."""

    code: str
    message: str
    sandbox_ids: list[str]


class HostHasCapsulesError(msgspec.Struct):
    """The answer when capsules are in the way."""

    error: HostHasCapsules


class AddTagRequest(msgspec.Struct):
    """A tag for a host."""

    tag: str
