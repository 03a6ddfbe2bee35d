"""The wire shapes of templates."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, UnsetType

from .common import Moment

__all__ = ["CreateSnapshotRequest", "NewTemplate", "SnapshotQuery", "Template"]


class CreateSnapshotRequest(msgspec.Struct):
    """A template to be made of a running capsule."""

    sandbox_id: str
    name: str | UnsetType = UNSET


class NewTemplate(msgspec.Struct):
    """A template for all teams, to be made of a running capsule."""

    name: str


class SnapshotQuery(msgspec.Struct):
    """Which type of templates; there are none of an unknown one."""

    type: Annotated[str, msgspec.Meta(extra_json_schema={"enum": ["base", "snapshot"]})] | UnsetType = UNSET


class Template(msgspec.Struct, omit_defaults=True):
    """What capsules are made from. ``platform`` ones are for all teams."""

    name: str
    type: Literal["base", "snapshot"]
    size_bytes: Annotated[int, msgspec.Meta(extra_json_schema={"format": "int64"})]
    created_at: Moment
    platform: bool
    vcpus: int | UnsetType | None = UNSET
    memory_mb: int | UnsetType | None = UNSET
    metadata: dict[str, str] | UnsetType | None = UNSET
