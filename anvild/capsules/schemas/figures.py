"""The wire shapes of a team's figures."""

from __future__ import annotations

from datetime import date
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from .common import Moment

__all__ = [
    "CapsuleStats",
    "CurrentStats",
    "PeakStats",
    "StatsQuery",
    "StatsSeries",
    "UsagePoint",
    "UsageQuery",
    "UsageResponse",
]

Range = Literal["5m", "1h", "6h", "24h", "30d"]


class StatsQuery(msgspec.Struct):
    """How far back."""

    range: Range = "1h"


class CurrentStats(msgspec.Struct):
    """What the capsules of a team take up now. Of a paused one, half of the memory is kept."""

    running_count: int
    vcpus_reserved: int
    memory_mb_reserved: int
    sampled_at: Moment | None


class PeakStats(msgspec.Struct):
    """The most of each in 30 days."""

    running_count: int
    vcpus: int
    memory_mb: int


class StatsSeries(msgspec.Struct):
    """The most of each in each bucket of time, oldest first."""

    labels: list[Moment]
    running: list[int]
    vcpus: list[int]
    memory_mb: list[int]


class CapsuleStats(msgspec.Struct):
    """What the capsules of a team take up, and have taken up."""

    range: Range
    current: CurrentStats
    peaks: PeakStats
    series: StatsSeries


class UsageQuery(msgspec.Struct, rename={"first": "from", "last": "to"}):
    """The first day and the last one."""

    first: date | UnsetType = UNSET
    last: date | UnsetType = UNSET


class UsagePoint(msgspec.Struct, rename={"day": "date"}):
    """What was reserved on a day (UTC), times the minutes for which it was."""

    day: date
    cpu_minutes: float
    ram_mb_minutes: float


class UsageResponse(msgspec.Struct, rename={"first": "from", "last": "to"}):
    """What the capsules of a team have used, oldest day first; days of which nothing is known are left out."""

    first: date
    last: date
    points: list[UsagePoint]
