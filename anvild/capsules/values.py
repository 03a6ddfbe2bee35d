"""The plain values of capsules and templates."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Literal

import msgspec

__all__ = ["ALIVE", "ENDS", "PLATFORM", "Allowed", "Capsule", "Order", "Status", "Template", "Wish"]

Status = Literal[
    "pending",
    "starting",
    "running",
    "pausing",
    "paused",
    "resuming",
    "stopping",
    "hibernated",
    "stopped",
    "missing",
    "error",
]
"""Where a capsule is in its life. ``stopped`` and ``error`` are ends."""

PLATFORM = "00000000-0000-0000-0000-000000000000"
"""The team of what belongs to no team: builds, and the templates that come of them. It has no members."""

ALIVE: tuple[Status, ...] = ("starting", "running", "pausing", "paused", "resuming", "stopping", "missing")
"""The states of a capsule that there is, or may be."""

ENDS: tuple[Status, ...] = ("stopped", "error")


class Allowed(msgspec.Struct, frozen=True):
    """Where a capsule's programs may connect to; see :class:`anvild.sdk.NetworkPolicy` for what an entry is."""

    allow: Annotated[
        tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=300)], ...],
        msgspec.Meta(min_length=1, max_length=256),
    ]


Wish = Literal["none", "internet"] | Allowed
"""The network of a capsule, as people say it."""


class Capsule(msgspec.Struct, frozen=True, kw_only=True):
    """A capsule as it stands. ``reason`` says why it is in the state that it is in, where that was not asked for.
    ``network`` is None for a capsule without one."""

    id: str
    team_id: str
    created_by: str
    status: Status
    reason: str | None = None
    driver: str
    device_id: str
    lease_id: str
    template: str
    vcpus: int
    memory_mb: int
    disk_size_mb: int | None
    timeout_sec: int
    metadata: Mapping[str, str] | None
    network: Wish | None = None
    created_at: datetime
    started_at: datetime | None = None
    last_active_at: datetime | None = None
    updated_at: datetime


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A capsule that somebody wants. None leaves a size to the template, or to what is usual, and the network to the
    settings."""

    template: str
    vcpus: int | None = None
    memory_mb: int | None = None
    disk_size_mb: int | None = None
    timeout_sec: int = 0
    metadata: Mapping[str, str] | None = None
    network: Wish | None = None


class Template(msgspec.Struct, frozen=True, kw_only=True):
    """What capsules are made from. ``team_id`` None means that all teams see it; ``reference`` is its driver's name for
    it. A template with ``memory`` fixes the sizes of what is made from it. ``environment`` and ``account`` are what
    processes in it find by default; None leaves the account to the driver."""

    name: str
    team_id: str | None
    driver: str
    reference: str
    memory: bool
    vcpus: int
    memory_mb: int
    disk_mb: int
    size_bytes: int
    created_at: datetime
    environment: Mapping[str, str] = {}
    account: str | None = None
