"""What the capsules of each team take up, sampled every ten seconds from the book.

Samples that are alike are one row, a stretch: a lab in which nothing changes writes nothing about it. Only how far the
samples have come is written with each of them, in one row for all teams, and that too only while there is any capsule:
so a stretch that is open when the daemon is killed ends where it was last seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    select,
    update,
)

from anvild.core.identity.tables import teams

from .tables import alive, capsules, levels, watch

__all__ = ["STEP_SECONDS", "Level", "current", "later", "sample", "seen_until"]

STEP_SECONDS = 10
GAP_SECONDS = 3 * STEP_SECONDS
"""Samples that are further apart than this are of two stretches: nobody has looked in between."""


class Level(msgspec.Struct, frozen=True):
    """How many capsules run, how many processors they have, and how much memory is kept for all."""

    running: int = 0
    vcpus: int = 0
    memory_mb: int = 0


def _sum(value: ColumnElement[int]) -> ColumnElement[int]:
    return func.coalesce(func.sum(value), 0)


_runs = capsules.c.status.in_(["running", "starting"])
_memory = case((_runs, capsules.c.memory_mb), (capsules.c.status == "paused", (capsules.c.memory_mb + 1) // 2), else_=0)
_levels = (
    _sum(case((_runs, 1), else_=0)).label("running"),
    _sum(case((_runs, capsules.c.vcpus), else_=0)).label("vcpus"),
    _sum(_memory).label("memory_mb"),
)
_there = and_(alive, capsules.c.status.in_(["running", "starting", "paused"]))

_of_all: Select[Any] = (
    select(teams.c.id.label("team_id"), *_levels)
    .select_from(teams.outerjoin(capsules, and_(capsules.c.team_id == teams.c.id, _there)))
    .where(teams.c.deleted_at.is_(None))
    .group_by(teams.c.id)
)

_open = levels.c.until.is_(None)
_anything: ColumnElement[bool] = levels.c.running + levels.c.memory_mb > 0

seen_until: ColumnElement[int] = func.coalesce(
    levels.c.until,
    case((_anything, select(watch.c.until).scalar_subquery()), else_=bindparam("tick", type_=BigInteger)),
)
"""The time of the last sample of a stretch; ``tick`` is that of the last sample of all there are."""


def later(team_id: str, start: int) -> ColumnElement[bool]:
    """The condition that a stretch of a team may have samples at ``start`` or after it."""
    before = select(func.max(levels.c.since)).where(levels.c.team_id == team_id, levels.c.since <= start)
    return and_(levels.c.team_id == team_id, levels.c.since >= func.coalesce(before.scalar_subquery(), 0))


def current(conn: Connection, team_id: str) -> Level:
    """Return what the capsules of a team take up now."""
    row = conn.execute(select(*_levels).where(capsules.c.team_id == team_id, _there)).one()
    return Level(int(row.running), int(row.vcpus), int(row.memory_mb))


def sample(conn: Connection, tick: int) -> None:
    """Take the sample of a moment, a multiple of :data:`STEP_SECONDS`, unless it has been taken."""
    seen: int | None = conn.execute(select(watch.c.until)).scalar_one_or_none()
    if seen == tick:
        return
    changed = False
    if seen is not None and tick < seen:
        _forget_after(conn, tick)
        changed = True
    elif seen is not None and tick - seen > GAP_SECONDS:
        conn.execute(update(levels).where(_open, _anything).values(until=seen))
    now = {row.team_id: Level(int(row.running), int(row.vcpus), int(row.memory_mb)) for row in conn.execute(_of_all)}
    known = {
        row.team_id: Level(row.running, row.vcpus, row.memory_mb) for row in conn.execute(select(levels).where(_open))
    }
    changed |= _write_changes(conn, tick, known, now)
    if changed or any(level != Level() for level in now.values()):
        if seen is None:
            conn.execute(insert(watch).values(id=1, until=tick))
        else:
            conn.execute(update(watch).values(until=tick))


def _write_changes(conn: Connection, tick: int, known: Mapping[str, Level], now: Mapping[str, Level]) -> bool:
    ended = [team for team, level in known.items() if now.get(team) != level]
    begun = [(team, level) for team, level in now.items() if known.get(team) != level]
    if ended:
        end = update(levels).where(levels.c.team_id == bindparam("team"), _open).values(until=tick - STEP_SECONDS)
        conn.execute(end, [{"team": team} for team in ended])
    if begun:
        rows = [{"team_id": team, "since": tick, **msgspec.structs.asdict(level)} for team, level in begun]
        conn.execute(insert(levels), rows)
    return bool(ended or begun)


def _forget_after(conn: Connection, tick: int) -> None:
    """The clock has been set back: what was written of the time from now on has not happened."""
    conn.execute(delete(levels).where(levels.c.since >= tick))
    conn.execute(update(levels).where(levels.c.until >= tick).values(until=tick - STEP_SECONDS))
