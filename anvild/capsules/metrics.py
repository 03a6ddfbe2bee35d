"""What capsules use of their machines: samples of the last minutes, means of the last hours."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import msgspec

from anvild.sdk import Sample

__all__ = ["RANGES", "SAMPLE_SECONDS", "Point", "Range", "Rings", "cut"]

SAMPLE_SECONDS = 0.5
PERCENT = 100.0

Range = Literal["5m", "10m", "1h", "2h", "6h", "12h", "24h"]
RANGES: Mapping[Range, tuple[int, int]] = MappingProxyType(
    {
        "5m": (0, 300),
        "10m": (0, 600),
        "1h": (1, 3600),
        "2h": (1, 7200),
        "6h": (2, 21600),
        "12h": (2, 43200),
        "24h": (2, 86400),
    }
)
"""From which ring a range is served, and how many seconds of it."""

SLOTS = (1200, 240, 288)
"""Samples every half second for 10 minutes, means of 30 seconds for 2 hours, of 5 minutes for a day."""

GATHERED = (60, 10)
"""How many points of one ring make a point of the next."""


class Point(msgspec.Struct, frozen=True, array_like=True):
    """One measurement. ``cpu`` is percent of all the capsule's processors; ``at`` is Unix seconds, the rest bytes."""

    at: float
    cpu: float
    memory: int
    disk: int


class Rings:
    """The measurements of one capsule, each ring bounded."""

    def __init__(self, kept: Sequence[Sequence[Point]] = ((), (), ())) -> None:
        self._rings = tuple(deque(points, maxlen=slots) for points, slots in zip(kept, SLOTS, strict=True))
        self._gathering: tuple[list[Point], ...] = ([], [])

    @property
    def points(self) -> tuple[list[Point], ...]:
        """What is known, a list for each ring, oldest first."""
        return tuple(list(ring) for ring in self._rings)

    def add(self, sample: Sample, vcpus: int) -> None:
        """Take a sample in."""
        cpu = min(PERCENT, max(0.0, sample.cpu / vcpus))
        self._add(0, Point(sample.at.timestamp(), cpu, sample.memory, sample.disk))

    def _add(self, ring: int, point: Point) -> None:
        self._rings[ring].append(point)
        if ring < len(self._gathering):
            gathered = self._gathering[ring]
            gathered.append(point)
            if len(gathered) == GATHERED[ring]:
                self._add(ring + 1, _mean(gathered))
                gathered.clear()


def cut(points: Sequence[Sequence[Point]], wanted: Range, now: float) -> list[Point]:
    """Return what a range shows of the rings."""
    ring, seconds = RANGES[wanted]
    return [point for point in points[ring] if point.at > now - seconds]


def _mean(points: Sequence[Point]) -> Point:
    """Return the mean of some points, at the time of the last one."""
    number = len(points)
    return Point(
        points[-1].at,
        sum(point.cpu for point in points) / number,
        sum(point.memory for point in points) // number,
        sum(point.disk for point in points) // number,
    )
