"""The wire shapes of events."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from .capsules import Capsule
from .common import Moment

__all__ = ["KINDS", "Kind", "SSEActor", "SSEEvent", "SSEResource"]

Kind = Literal[
    "connected",
    "capsule.create",
    "capsule.pause",
    "capsule.resume",
    "capsule.destroy",
    "capsule.state.changed",
    "template.snapshot.create",
    "template.snapshot.delete",
    "host.up",
    "host.down",
]

KINDS: tuple[Kind, ...] = (
    "capsule.create",
    "capsule.pause",
    "capsule.resume",
    "capsule.destroy",
    "capsule.state.changed",
    "template.snapshot.create",
    "template.snapshot.delete",
    "host.up",
    "host.down",
)
"""What is told of, beside the greeting."""


class SSEResource(msgspec.Struct):
    """What an event is about."""

    id: str
    type: str


class SSEActor(msgspec.Struct, omit_defaults=True):
    """Who did it."""

    type: Literal["user", "api_key", "system"]
    id: str | UnsetType = UNSET
    name: str | UnsetType = UNSET


class SSEEvent(msgspec.Struct, omit_defaults=True):
    """One message of the stream. ``sandbox`` is the capsule as it was then."""

    event: Kind
    timestamp: Moment
    outcome: Literal["success", "error"] | UnsetType = UNSET
    resource: SSEResource | UnsetType = UNSET
    actor: SSEActor | UnsetType = UNSET
    metadata: dict[str, str] | UnsetType = UNSET
    error: str | UnsetType = UNSET
    sandbox: Capsule | UnsetType = UNSET
