"""The plain values of hosts."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

__all__ = ["Host", "HostStatus", "HostType", "Machine", "place_of"]

HostType = Literal["regular", "byoc"]
"""A regular host serves all teams; a ``byoc`` one the team that has brought it."""

HostStatus = Literal["pending", "online", "offline", "draining", "unreachable"]
"""``pending`` until it has registered, ``unreachable`` while it is silent, ``draining`` while it is being deleted."""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What a host says of itself when it registers."""

    address: str
    arch: str | None = None
    cpu_cores: int | None = None
    memory_mb: int | None = None
    disk_gb: int | None = None


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """A lab machine that has joined this one. ``name`` is None before it has connected for the first time;
    ``drivers`` are those that it lends or has lent, by their own names."""

    id: str
    type: HostType
    team_id: str | None
    name: str | None
    provider: str | None
    availability_zone: str | None
    arch: str | None
    cpu_cores: int | None
    memory_mb: int | None
    disk_gb: int | None
    address: str | None
    status: HostStatus
    tags: tuple[str, ...]
    drivers: tuple[str, ...]
    last_heartbeat_at: datetime | None
    created_by: str
    created_at: datetime
    updated_at: datetime

    @property
    def places(self) -> tuple[str, ...]:
        """What the engine calls its drivers."""
        return tuple(place_of(driver, self.name) for driver in self.drivers if self.name is not None)


def place_of(driver: str, host: str) -> str:
    """Return what the engine calls a driver of another machine."""
    return f"{driver}@{host}"
