"""What capsules use of their machines: samples of the last minutes, means of the last hours.

They are kept in memory and written every half minute, the new ones alone: a daemon that is killed loses no more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import takewhile
from types import MappingProxyType
from typing import Any, Literal

import msgspec
import trio
from sqlalchemy import Connection, and_, bindparam, delete, insert, select

from anvild.core.engine.persist import fetch, persist
from anvild.core.errors import StorageFull
from anvild.core.logging import get_logger
from anvild.core.store import Store
from anvild.sdk import Sample, Unavailable

from .tables import alive, capsules, metrics

__all__ = ["RANGES", "SAMPLE_SECONDS", "Metrics", "Point", "Range", "Rings", "cut", "keep_coarse", "once_a_second"]

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

SPANS = (timedelta(minutes=10), timedelta(hours=2), timedelta(days=1))
"""How long the points of each ring are kept in the store, while the capsule runs."""

COARSEST = len(SLOTS) - 1
WRITE_SECONDS = 30.0
LAST_WRITE_SECONDS = 5.0

log = get_logger(__name__)


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
        self._written = [ring[-1].at if ring else 0.0 for ring in self._rings]
        self._gathering = [self._since_mean(ring) for ring in range(len(GATHERED))]

    @property
    def points(self) -> tuple[list[Point], ...]:
        """What is known, a list for each ring, oldest first."""
        return tuple(list(ring) for ring in self._rings)

    def add(self, sample: Sample, vcpus: int) -> None:
        """Take a sample in."""
        cpu = min(PERCENT, max(0.0, sample.cpu / vcpus))
        self._add(0, Point(sample.at.timestamp(), cpu, sample.memory, sample.disk))

    def news(self) -> list[list[Point]]:
        """Return what is not written yet, a list for each ring, oldest first."""
        found = []
        for ring, written in zip(self._rings, self._written, strict=True):
            newer = list(takewhile(partial(_after, written), reversed(ring)))
            found.append(newer[::-1])
        return found

    def note_written(self, news: Sequence[Sequence[Point]]) -> None:
        """Note that these have been written."""
        self._written = [new[-1].at if new else old for new, old in zip(news, self._written, strict=True)]

    def _since_mean(self, ring: int) -> list[Point]:
        """Return the points that are in no mean yet."""
        means = self._rings[ring + 1]
        newer = list(takewhile(partial(_after, means[-1].at if means else 0.0), reversed(self._rings[ring])))
        return newer[: GATHERED[ring] - 1][::-1]

    def _add(self, ring: int, point: Point) -> None:
        self._rings[ring].append(point)
        if ring < len(self._gathering):
            gathered = self._gathering[ring]
            gathered.append(point)
            if len(gathered) == GATHERED[ring]:
                self._add(ring + 1, _mean(gathered))
                gathered.clear()


class Metrics:
    """The metrics of the capsules that run here, in memory and in the store; those of paused ones are in the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rings: dict[str, Rings] = {}
        self._writing = trio.Lock()

    async def run(self) -> None:
        """Write what is new now and then until cancelled, and once more then."""
        try:
            while True:
                await trio.sleep(WRITE_SECONDS)
                await self._write_if_possible()
        finally:
            with trio.move_on_after(LAST_WRITE_SECONDS, shield=True):
                await self._write_if_possible()

    async def begin(self, capsule_id: str) -> Rings:
        """Return the rings of a capsule that runs, with what was written of them."""
        rings = self._rings.get(capsule_id)
        if rings is None:
            rings = Rings(await self._read(capsule_id))
            self._rings[capsule_id] = rings
        return rings

    async def end(self, capsule_id: str) -> None:
        """A capsule does not run any more: write what is new of it, however long that takes."""
        rings = self._rings.get(capsule_id)
        if rings is not None:
            async with self._writing:
                await persist(self._store, partial(_write, {capsule_id: rings.news()}))
            self._rings.pop(capsule_id, None)

    async def of(self, capsule_id: str) -> Sequence[Sequence[Point]]:
        """Return what is known of a capsule, a list for each ring, oldest first."""
        rings = self._rings.get(capsule_id)
        return await self._read(capsule_id) if rings is None else rings.points

    async def _read(self, capsule_id: str) -> list[list[Point]]:
        query = select(metrics.c.ring, metrics.c.points).where(metrics.c.capsule_id == capsule_id)
        rows = await fetch(self._store, lambda conn: conn.execute(query.order_by(metrics.c.ring, metrics.c.id)).all())
        found: list[list[Point]] = [[] for _ in SLOTS]
        for row in rows:
            found[row.ring] += _decode(row.points)
        return found

    async def _write_if_possible(self) -> None:
        async with self._writing:
            news = {capsule_id: rings.news() for capsule_id, rings in self._rings.items()}
            if not news:
                return
            try:
                await self._store.write(partial(_write, news))
            except (StorageFull, Unavailable) as error:
                log.warning("metrics_put_off", reason=error.message)
                return
            for capsule_id, points in news.items():
                if capsule_id in self._rings:
                    self._rings[capsule_id].note_written(points)


def keep_coarse(conn: Connection, capsule_id: str) -> None:
    """Keep of a capsule that has ended the means of five minutes alone."""
    conn.execute(delete(metrics).where(metrics.c.capsule_id == capsule_id, metrics.c.ring < COARSEST))


def once_a_second(points: Sequence[Point]) -> list[Point]:
    """Leave out points within the same second as the one before."""
    return list({int(point.at): point for point in reversed(points)}.values())[::-1]


def cut(points: Sequence[Sequence[Point]], wanted: Range, now: float) -> list[Point]:
    """Return what a range shows of the rings."""
    ring, seconds = RANGES[wanted]
    return [point for point in points[ring] if point.at > now - seconds]


_forget = delete(metrics).where(
    and_(
        metrics.c.capsule_id == bindparam("capsule"),
        metrics.c.ring == bindparam("of_ring"),
        metrics.c.at < bindparam("horizon"),
    )
)


def _write(news: Mapping[str, Sequence[Sequence[Point]]], conn: Connection) -> None:
    """Write the new points of capsules that have not ended, and forget those that are too old for their rings."""
    there = set(conn.scalars(select(capsules.c.id).where(alive, capsules.c.id.in_(news))))
    rows: list[dict[str, Any]] = []
    for capsule_id in there:
        for ring, points in enumerate(news[capsule_id]):
            if points:
                at = datetime.fromtimestamp(points[-1].at, UTC)
                rows.append({"capsule_id": capsule_id, "ring": ring, "at": at, "points": _encode(points)})
    if rows:
        conn.execute(insert(metrics), rows)
        old = [
            {"capsule": row["capsule_id"], "of_ring": row["ring"], "horizon": row["at"] - SPANS[row["ring"]]}
            for row in rows
        ]
        conn.execute(_forget, old)


def _encode(points: Sequence[Point]) -> bytes:
    return msgspec.msgpack.encode(points)


def _decode(points: bytes) -> list[Point]:
    return msgspec.msgpack.decode(points, type=list[Point])


def _after(moment: float, point: Point) -> bool:
    return point.at > moment


def _mean(points: Sequence[Point]) -> Point:
    """Return the mean of some points, at the time of the last one."""
    number = len(points)
    return Point(
        points[-1].at,
        sum(point.cpu for point in points) / number,
        sum(point.memory for point in points) // number,
        sum(point.disk for point in points) // number,
    )
