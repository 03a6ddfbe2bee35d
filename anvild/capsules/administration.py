"""All teams and people of the lab, for the platform's admins."""

from __future__ import annotations

from datetime import datetime

import msgspec
from sqlalchemy import ColumnElement, Connection, ScalarSelect, and_, func, select

from anvild.core.engine import Actor
from anvild.core.errors import InvalidRequest
from anvild.core.identity import Identity, Origin, Principal
from anvild.core.identity.tables import memberships, teams, users
from anvild.core.notify.tables import channels
from anvild.core.store import Store

from .book import stop_of_owner
from .life import Capsules
from .tables import alive, capsules
from .values import Capsule

__all__ = ["Administration", "Person", "TeamOverview"]


class TeamOverview(msgspec.Struct, frozen=True, kw_only=True):
    """A team, deleted or not, with how much it has. ``capsules`` are those that have not ended."""

    id: str
    name: str
    slug: str
    byoc: bool
    created_at: datetime
    deleted_at: datetime | None
    owner_name: str | None
    owner_email: str | None
    members: int
    capsules: int
    channels: int


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """An account that is not deleted, with how many teams it is in and owns."""

    id: str
    email: str | None
    name: str
    is_admin: bool
    status: str
    created_at: datetime
    joined: int
    owned: int


class Administration:
    """Looks over all teams and people, and lets people in or keeps them out."""

    def __init__(self, store: Store, identity: Identity, capsules: Capsules) -> None:
        self._store = store
        self._identity = identity
        self._capsules = capsules

    async def teams(self) -> list[TeamOverview]:
        """Return all teams, newest first."""
        owner = and_(memberships.c.team_id == teams.c.id, memberships.c.role == "owner")
        query = (
            select(
                teams.c.id,
                teams.c.name,
                teams.c.slug,
                teams.c.byoc,
                teams.c.created_at,
                teams.c.deleted_at,
                users.c.name.label("owner_name"),
                users.c.email.label("owner_email"),
                _count(memberships.alias().c.team_id == teams.c.id).label("members"),
                _count(capsules.c.team_id == teams.c.id, alive).label("capsules"),
                _count(channels.c.team_id == teams.c.id).label("channels"),
            )
            .outerjoin(memberships, owner)
            .outerjoin(users, users.c.id == memberships.c.user_id)
            .order_by(teams.c.id.desc())
        )

        def job(conn: Connection) -> list[TeamOverview]:
            return [TeamOverview(**row) for row in conn.execute(query).mappings()]

        return await self._store.read(job)

    async def people(self) -> list[Person]:
        """Return all accounts, newest first. Teams that were deleted do not count."""
        there = and_(teams.c.id == memberships.c.team_id, teams.c.deleted_at.is_(None))
        mine = and_(memberships.c.user_id == users.c.id, there)
        query = (
            select(
                users.c.id,
                users.c.email,
                users.c.name,
                users.c.is_admin,
                users.c.status,
                users.c.created_at,
                _count(mine).label("joined"),
                _count(mine, memberships.c.role == "owner").label("owned"),
            )
            .where(users.c.status != "deleted")
            .order_by(users.c.number.desc())
        )

        def job(conn: Connection) -> list[Person]:
            return [Person(**row) for row in conn.execute(query).mappings()]

        return await self._store.read(job)

    async def set_active(self, user_id: str, active: bool, *, by: Principal, origin: Origin) -> None:
        """Let a person in, or keep them out: then their sessions, their API keys and the capsules of their teams end.

        What they are already is no error and changes nothing. Raises NotFound, and InvalidRequest to who would shut
        themselves out.
        """
        user = await self._identity.users.get(user_id)
        if (user.status == "active") == active:
            return
        if active:
            await self._identity.users.set_status(user_id, "active", by=by, origin=origin)
            return
        if user_id == by.user_id:
            raise InvalidRequest("you cannot deactivate your own account")
        ending: list[Capsule] = []

        def also(conn: Connection) -> None:
            ending[:] = stop_of_owner(conn, user_id)

        await self._identity.users.set_status(user_id, "disabled", by=by, origin=origin, also=also)
        self._capsules.go_on_ending(ending, Actor(by.actor, by.team_id, origin.ip, origin.user_agent))


def _count(*conditions: ColumnElement[bool]) -> ScalarSelect[int]:
    return select(func.count()).where(*conditions).scalar_subquery()
