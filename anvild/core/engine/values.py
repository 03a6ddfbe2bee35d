"""The plain values that the engine hands to the rest of the daemon."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from anvild.sdk import DeviceStatus, HealthState, Requirements, Severity

__all__ = [
    "Actor",
    "Attempt",
    "Device",
    "DriverInfo",
    "EngineStatistics",
    "Finding",
    "LeaseInfo",
    "Run",
    "RunRequest",
    "RunState",
]

Json = Any


class RunState(StrEnum):
    """Where a run is in its life. PASSED, FAILED and CANCELLED are terminal."""

    DRAFT = "draft"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    PASSED = "passed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        return self in (RunState.PASSED, RunState.FAILED, RunState.CANCELLED)


class Actor(msgspec.Struct, frozen=True):
    """Who does something, as the event log keeps it: ``user:<id>``, ``api_key:<id>``, ``system``.

    ``team_id`` is the team in which they act; it is what person leases belong to.
    """

    actor: str = "system"
    team_id: str | None = None
    ip: str | None = None
    user_agent: str | None = None


class RunRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A run to be: who it is for, what executes it, and what it needs.

    ``spec`` is the frozen, validated description of the work for the workload of ``kind``; ``name`` is what people
    call it (of a pipeline run, the pipeline). ``deadline`` is seconds for one attempt, standing still while the run
    is paused. ``max_attempts`` counts attempts whose workload has begun; see :mod:`anvild.core.engine.states`.
    A higher ``priority`` goes first. A ``draft`` waits for :meth:`Runs.start`.
    """

    team_id: str
    kind: str
    name: str
    spec: Json = None
    requirements: Requirements = Requirements()
    metadata: Mapping[str, Json] | None = None
    device_id: str | None = None
    priority: int = 0
    deadline: float | None = None
    max_attempts: int = 1
    draft: bool = False


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A run as it stands. ``device_id`` is the device that was asked for, ``used_device_id`` the one that its latest
    attempt has got. ``waiting`` is what blocks a queued run; None while it only waits for its turn."""

    id: str
    number: int
    team_id: str
    kind: str
    name: str
    metadata: Mapping[str, Json] | None
    device_id: str | None
    used_device_id: str | None
    priority: int
    deadline: float | None
    state: RunState
    phase: str | None
    version: int
    attempt: int
    max_attempts: int
    reason_code: str | None
    reason: str | None
    waiting: str | None
    retry_of: str | None
    created_by: str
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One try at a run on one device."""

    run_id: str
    attempt: int
    device_id: str
    lease_id: str
    incarnation: str
    verdict: str | None
    reason_code: str | None
    reason: str | None
    started_at: datetime
    ended_at: datetime | None


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A judged result of a run."""

    id: str
    run_id: str
    attempt: int
    severity: Severity
    category: str | None
    title: str | None
    detail: str | None
    created_at: datetime


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A device as the lab knows it. ``team_id`` None means that it is shared by the lab. ``driver`` None means that
    it was registered by hand and no driver reaches it yet."""

    id: str
    driver: str | None
    host: str
    identity: str
    platform: str | None
    name: str
    model: str | None
    firmware_version: str | None
    capabilities: tuple[str, ...]
    facts: dict[str, str]
    metadata: dict[str, Json] | None
    status: DeviceStatus
    reason: str | None
    team_id: str | None
    made_to_order: bool
    quarantine: str | None
    unclean: bool
    by_hand: bool
    created_at: datetime
    last_seen_at: datetime | None


class LeaseInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The right to a device. ``duration`` is seconds for a person's lease; None ends with whoever took it."""

    id: str
    device_id: str
    driver: str
    host: str
    slot: int | None
    fence: int
    holder: str
    team_id: str | None
    run_id: str | None
    attempt: int | None
    incarnation: str
    duration: float | None
    granted_at: datetime
    released_at: datetime | None
    reason: str | None


class DriverInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A hosted driver. ``state`` is starting, running, waiting (for its next try) or quarantined; ``elsewhere`` says
    that it stands on another machine, and ``team_id`` for which team alone it is."""

    name: str
    version: str
    state: str
    health: HealthState
    reason: str
    platforms: tuple[str, ...]
    capabilities: tuple[str, ...]
    slots: int
    slots_used: int
    devices: int
    faults: int
    facts: dict[str, str]
    elsewhere: bool = False
    team_id: str | None = None


class EngineStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine of this process does now and has done since it started."""

    executing: int
    person_leases: int
    drivers_usable: int
    devices_present: int
    granted: int
    ended: int
    claims: int
    claims_failed: int
    runaways: int
    last_claim_seconds: float
