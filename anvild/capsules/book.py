"""The book of capsules: their rows, and the events of what becomes of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, bindparam, insert, select, true, update

from anvild.core.clock import utcnow
from anvild.core.engine import Actor
from anvild.core.engine.persist import fetch, persist
from anvild.core.events import append
from anvild.core.identity.tables import memberships, teams
from anvild.core.store import Store
from anvild.sdk import NotFound

from .errors import InvalidState
from .metrics import keep_coarse
from .tables import alive, capsules
from .values import ALIVE, ENDS, Capsule, Status, Wish

__all__ = ["SYSTEM", "Book", "add", "stop_of_owner"]

SYSTEM = Actor()

_all = select(*(capsules.c[name] for name in Capsule.__struct_fields__))
_one = _all.where(capsules.c.id == bindparam("capsule_id"))


class Book:
    """The capsules of all teams. A capsule of another team looks missing. Where a team is None, those of all are
    meant."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def get(self, capsule_id: str, team_id: str | None) -> Capsule:
        """Return a capsule of a team. Raises NotFound."""
        row = await self._store.read(lambda conn: conn.execute(_one, {"capsule_id": capsule_id}).one_or_none())
        if row is None or team_id not in (None, row.team_id):
            raise NotFound("there is no such capsule")
        return _capsule(row)

    async def alive(self) -> list[Capsule]:
        """Return the capsules of all teams that there are, or may be."""
        query = _all.where(alive, capsules.c.status.in_(ALIVE)).order_by(capsules.c.id)
        return await fetch(self._store, lambda conn: [_capsule(row) for row in conn.execute(query)])

    async def list(self, team_id: str | None) -> list[Capsule]:
        """Return the capsules of a team that have not ended, newest first."""
        where = (_of(team_id), alive)
        query = _all.where(*where).order_by(capsules.c.id.desc())
        return await self._store.read(lambda conn: [_capsule(row) for row in conn.execute(query)])

    async def on(self, drivers: Collection[str], states: Collection[Status]) -> Sequence[Capsule]:
        """Return the capsules of all teams that these drivers have, and that are in one of the states."""
        query = _all.where(capsules.c.driver.in_(drivers), capsules.c.status.in_(states)).order_by(capsules.c.id)
        return await self._store.read(lambda conn: [_capsule(row) for row in conn.execute(query)])

    async def orphans(self) -> Sequence[Capsule]:
        """Return the capsules that there are, or may be, of teams that have been deleted."""
        query = _all.join(teams, teams.c.id == capsules.c.team_id).where(
            alive, capsules.c.status.in_(ALIVE), teams.c.deleted_at.is_not(None)
        )
        return await fetch(self._store, lambda conn: [_capsule(row) for row in conn.execute(query)])

    async def begin(self, capsule: Capsule, allowed: Collection[Status], to: Status) -> Capsule:
        """Take a capsule into a state that somebody has asked for. Raises InvalidState when it is in none of those
        from which that is allowed."""
        moved = await self._store.write(partial(_move, capsule_id=capsule.id, allowed=allowed, to=to, values={}))
        if moved is None:
            now = (await self.get(capsule.id, capsule.team_id)).status
            raise InvalidState(f"the capsule is {now}; this needs one that is {' or '.join(allowed)}")
        return moved

    async def settle(
        self,
        capsule_id: str,
        allowed: Collection[Status],
        to: Status,
        *,
        action: str | None = None,
        by: Actor = SYSTEM,
        reason: str | None = None,
        failed: bool = False,
        **values: Any,
    ) -> Capsule | None:
        """Write what has become of a capsule, however long that takes. None when it is in another state meanwhile.

        ``action`` is what has ended with it, well or ``failed``: it becomes the event ``capsule.ACTION``.
        """

        def job(conn: Connection) -> Capsule | None:
            moved = _move(conn, capsule_id=capsule_id, allowed=allowed, to=to, values=values, reason=reason)
            if moved is not None and action is not None:
                _tell(conn, moved, action, by=by, reason=reason, failed=failed)
            return moved

        return await persist(self._store, job)

    async def note_use(self, capsule_id: str, at: datetime) -> None:
        """Write when a capsule was last used."""
        change = update(capsules).where(capsules.c.id == capsule_id).values(last_active_at=at)
        await persist(self._store, lambda conn: conn.execute(change))


def add(conn: Connection, capsule: Capsule) -> None:
    """Enter a new capsule."""
    values = {name: getattr(capsule, name) for name in capsule.__struct_fields__}
    conn.execute(insert(capsules).values(**values))
    _changed(conn, capsule, "pending")


def stop_of_owner(conn: Connection, user_id: str) -> Sequence[Capsule]:
    """Take the capsules of all teams that a person owns to ``stopping``, and return them."""
    owned = select(memberships.c.team_id).where(memberships.c.user_id == user_id, memberships.c.role == "owner")
    states = [state for state in ALIVE if state != "stopping"]
    query = select(capsules.c.id).where(alive, capsules.c.team_id.in_(owned), capsules.c.status.in_(states))
    found = conn.execute(query).scalars().all()
    moved = [_move(conn, capsule_id=id_, allowed=states, to="stopping", values={}) for id_ in found]
    return [capsule for capsule in moved if capsule is not None]


def _move(
    conn: Connection,
    *,
    capsule_id: str,
    allowed: Collection[Status],
    to: Status,
    values: dict[str, Any],
    reason: str | None = None,
) -> Capsule | None:
    row = conn.execute(_all.where(capsules.c.id == capsule_id)).one_or_none()
    if row is None or row.status not in allowed:
        return None
    change = update(capsules).where(capsules.c.id == capsule_id, capsules.c.status == row.status)
    conn.execute(change.values(status=to, reason=reason, updated_at=utcnow(), **values))
    moved = _capsule(conn.execute(_all.where(capsules.c.id == capsule_id)).one())
    if to in ENDS:
        keep_coarse(conn, capsule_id)
    if row.status != to:
        _changed(conn, moved, row.status)
    return moved


def _changed(conn: Connection, capsule: Capsule, before: Status) -> None:
    data: dict[str, Any] = {"from": before, "to": capsule.status, "capsule": capsule}
    if capsule.reason:
        data["reason"] = capsule.reason
    append(conn, "capsule.state.changed", subject=("capsule", capsule.id), team_id=capsule.team_id, data=data)


def _tell(conn: Connection, capsule: Capsule, action: str, *, by: Actor, reason: str | None, failed: bool) -> None:
    data: dict[str, Any] = {
        "outcome": "error" if failed else "success",
        "template": capsule.template,
        "capsule": capsule,
    }
    if reason is not None:
        data["error" if failed else "reason"] = reason
    append(
        conn,
        f"capsule.{action}",
        subject=("capsule", capsule.id),
        team_id=capsule.team_id,
        actor=by.actor,
        data=data,
        audit=True,
        ip=by.ip,
        user_agent=by.user_agent,
    )


def _of(team_id: str | None) -> ColumnElement[bool]:
    return true() if team_id is None else capsules.c.team_id == team_id


def _capsule(row: Row[Any]) -> Capsule:
    values = row._asdict()
    if values["network"] is not None:
        values["network"] = msgspec.convert(values["network"], Wish)
    return Capsule(**values)
