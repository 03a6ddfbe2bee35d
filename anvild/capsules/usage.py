"""What the capsules of a team have used, day by day (UTC): of today from the samples, of other days from their sums."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Select, case, func, insert, select

from .levels import STEP_SECONDS, later, seen_until
from .tables import levels, usage

__all__ = ["DAY_SECONDS", "Day", "roll_up", "used"]

DAY = timedelta(days=1)
DAY_SECONDS = 86400
MINUTE = 60


class Day(msgspec.Struct, frozen=True):
    """What was reserved on a day, times how long."""

    day: date
    cpu_minutes: float
    memory_mb_minutes: float


def roll_up(conn: Connection, tick: int) -> None:
    """Write the sums of the whole days before that of a moment that have none yet."""
    last = conn.execute(select(func.max(usage.c.day))).scalar_one()
    first = conn.execute(select(func.min(levels.c.since))).scalar_one()
    if first is None:
        return
    day = _day_of(first) if last is None else max(last + DAY, _day_of(first))
    while day < _day_of(tick):
        rows = conn.execute(_sums(day), {"tick": tick}).all()
        if rows:
            sums = [(row.team_id, int(row.cpu), int(row.memory)) for row in rows]
            values = [
                {"day": day, "team_id": team, "cpu_seconds": cpu, "memory_mb_seconds": memory}
                for team, cpu, memory in sums
            ]
            conn.execute(insert(usage), values)
        day += DAY


def used(conn: Connection, team_id: str, first: date, last: date, tick: int) -> Sequence[Day]:
    """Return the days from ``first`` to ``last`` of which something is known, and today if it is one of them."""
    today = _day_of(tick)
    query = select(usage).where(usage.c.team_id == team_id, usage.c.day.between(first, last), usage.c.day < today)
    sums = [
        (row.day, row.cpu_seconds, row.memory_mb_seconds) for row in conn.execute(query.order_by(usage.c.day)).all()
    ]
    if first <= today <= last:
        of_today = _sums(today).where(later(team_id, _begin(today)))
        row = conn.execute(of_today, {"tick": tick}).one_or_none()
        sums.append((today, int(row.cpu), int(row.memory)) if row is not None else (today, 0, 0))
    return [Day(day, cpu / MINUTE, memory / MINUTE) for day, cpu, memory in sums]


def _sums(day: date) -> Select[Any]:
    """Add up the samples of a day, for each team that has any."""
    begin = _begin(day)
    end = begin + DAY_SECONDS - STEP_SECONDS
    first = case((levels.c.since < begin, begin), else_=levels.c.since)
    last = case((seen_until > end, end), else_=seen_until)
    seconds = last - first + STEP_SECONDS
    return (
        select(levels.c.team_id, _sum(levels.c.vcpus * seconds, "cpu"), _sum(levels.c.memory_mb * seconds, "memory"))
        .where(levels.c.since <= end, seen_until >= begin, seen_until >= levels.c.since)
        .group_by(levels.c.team_id)
    )


def _sum(value: ColumnElement[int], name: str) -> ColumnElement[int]:
    return func.sum(value).label(name)


def _day_of(seconds: int) -> date:
    return datetime.fromtimestamp(seconds, UTC).date()


def _begin(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())
