"""The figures of a team: what its capsules take up now, have taken up, and have used."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from types import MappingProxyType
from typing import Any, Literal

import msgspec
import trio
from sqlalchemy import Connection, Select, case, func, select

from anvild.core.errors import StorageFull
from anvild.core.logging import get_logger
from anvild.core.store import Store
from anvild.sdk import Unavailable

from .levels import STEP_SECONDS, Level, current, later, sample, seen_until
from .tables import levels
from .usage import DAY_SECONDS, Day, roll_up, used

__all__ = ["BUCKETS", "Range", "Stats", "TeamStats", "tick_of"]

PEAK_SECONDS = 30 * DAY_SECONDS

Range = Literal["5m", "1h", "6h", "24h", "30d"]
BUCKETS: Mapping[Range, tuple[int, int]] = MappingProxyType(
    {"5m": (300, 3), "1h": (3600, 30), "6h": (21600, 180), "24h": (86400, 720), "30d": (30 * 86400, 21600)}
)
"""How many seconds a range has, and each of its buckets."""

log = get_logger(__name__)


class TeamStats(msgspec.Struct, frozen=True, kw_only=True):
    """What the capsules of a team take up ``at`` a moment, at most did in 30 days, and at most in each bucket of a
    range, by the Unix seconds of the bucket's begin; buckets without a sample are left out."""

    at: datetime
    current: Level
    peaks: Level
    series: Sequence[tuple[int, Level]]


class Stats:
    """The figures of all teams. They come from the wing's own book: no machine is asked for them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._added_up: int | None = None

    async def run(self) -> None:
        """Take samples until cancelled. One that the store cannot take is left out."""
        while True:
            try:
                await self.sample(time.time())
            except (StorageFull, Unavailable) as error:
                log.warning("figures_left_out", reason=error.message)
            await trio.sleep(STEP_SECONDS - time.time() % STEP_SECONDS)

    async def sample(self, now: float) -> None:
        """Take a sample, and add up the days that are over."""
        tick = tick_of(now)
        day = tick // DAY_SECONDS

        def job(conn: Connection) -> None:
            sample(conn, tick)
            if day != self._added_up:
                roll_up(conn, tick)

        await self._store.write(job)
        self._added_up = day

    async def team(self, team_id: str, wanted: Range, now: float) -> TeamStats:
        """Return what the capsules of a team take up."""
        seconds, bucket = BUCKETS[wanted]
        tick = tick_of(now)

        def job(conn: Connection) -> TeamStats:
            level = current(conn, team_id)
            peaks = conn.execute(_peaks(team_id, tick - PEAK_SECONDS), {"tick": tick}).one()
            rows = conn.execute(_series(team_id, tick_of(now - seconds) + STEP_SECONDS, bucket), {"tick": tick}).all()
            highest = Level(
                *(max(were or 0, now) for were, now in zip(peaks, msgspec.structs.astuple(level), strict=True))
            )
            return TeamStats(
                at=datetime.fromtimestamp(now, UTC), current=level, peaks=highest, series=_in_buckets(rows, bucket)
            )

        return await self._store.read(job)

    async def usage(self, team_id: str, first: date, last: date, now: float) -> Sequence[Day]:
        """Return what the capsules of a team have used on the days from ``first`` to ``last``."""
        return await self._store.read(lambda conn: used(conn, team_id, first, last, tick_of(now)))


def tick_of(now: float) -> int:
    """Return the moment of the last sample at a time, both in Unix seconds."""
    return int(now) // STEP_SECONDS * STEP_SECONDS


def _peaks(team_id: str, start: int) -> Select[Any]:
    highest = [func.max(levels.c[name]) for name in Level.__struct_fields__]
    return select(*highest).where(later(team_id, start), seen_until >= start)


def _series(team_id: str, start: int, bucket: int) -> Select[Any]:
    """Select the highest levels of stretches that begin in the same grain of time and end in the same one: few rows,
    however many stretches there are. A grain is a bucket, or the time between two samples where that is longer."""
    grain = max(bucket, STEP_SECONDS)
    first = case((levels.c.since < start, start), else_=levels.c.since)
    stretches = (
        select((first // grain).label("low"), (seen_until // grain).label("high"), levels)
        .where(later(team_id, start), seen_until >= start)
        .subquery()
    )
    low, high = stretches.c.low, stretches.c.high
    highest = [func.max(stretches.c[name]) for name in Level.__struct_fields__]
    return select(low, high, *highest).group_by(low, high).where(low <= high)


def _in_buckets(rows: Sequence[Any], bucket: int) -> list[tuple[int, Level]]:
    grain = max(bucket, STEP_SECONDS)
    found: dict[int, Level] = {}
    for low, high, *highest in rows:
        for number in range(low, high + 1):
            begin = number * grain // bucket * bucket
            found[begin] = _highest(found.get(begin, Level()), highest)
    return sorted(found.items())


def _highest(level: Level, others: Iterable[int]) -> Level:
    return Level(*map(max, msgspec.structs.astuple(level), others))
