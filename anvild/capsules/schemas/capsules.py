"""The wire shapes of capsules. What is not known is left out."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType

from ..values import Status, Wish
from .common import Moment

__all__ = ["Capsule", "CreateCapsuleRequest"]

_BEYOND = msgspec.Meta(extra_json_schema={"x-beyond-contract": True})


class CreateCapsuleRequest(msgspec.Struct):
    """A new capsule."""

    template: str = "minimal"
    vcpus: int = 1
    memory_mb: int = 512
    disk_size_mb: Annotated[int, msgspec.Meta(extra_json_schema={"default": 5120})] | UnsetType = UNSET
    timeout_sec: Annotated[int, msgspec.Meta(ge=0)] = 0
    network: Annotated[Wish | UnsetType, _BEYOND] = UNSET


class Capsule(msgspec.Struct, omit_defaults=True):
    """A capsule as it stands."""

    id: str
    status: Status
    template: str
    vcpus: int
    memory_mb: int
    timeout_sec: int
    created_at: Moment
    last_updated: Moment
    guest_ip: str | UnsetType = UNSET
    host_ip: str | UnsetType = UNSET
    started_at: Moment | UnsetType | None = UNSET
    last_active_at: Moment | UnsetType | None = UNSET
    metadata: dict[str, str] | UnsetType | None = UNSET
    disk_size_mb: int | UnsetType | None = UNSET
    network: Annotated[Wish | UnsetType, _BEYOND] = UNSET
