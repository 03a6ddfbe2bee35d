"""Teams and who is in them."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection, Select, delete, insert, select, update

from anvild.core.clock import utcnow
from anvild.core.errors import Conflict, FieldProblem, Forbidden, InvalidRequest
from anvild.core.ids import new_id
from anvild.core.store import Store
from anvild.sdk import AlreadyExists, NotFound

from .api_keys import revoke_api_keys
from .cache import CredentialCache
from .journal import note
from .tables import api_keys, device_tokens, memberships, sessions, teams, users
from .users import USER_COLUMNS, load_user, user_of
from .values import NOWHERE, Membership, Origin, Principal, Role, Team, User

__all__ = [
    "Member",
    "Teams",
    "default_team",
    "delete_team",
    "insert_membership",
    "insert_team",
    "require_member",
    "teams_of",
]

T = TypeVar("T")


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A person in a team, with what they are there."""

    user: User
    membership: Membership


class Teams:
    """The teams. Every change appends its event in the same transaction; ``by`` and ``origin`` go into it."""

    def __init__(self, store: Store, cache: CredentialCache) -> None:
        self._store = store
        self._cache = cache

    async def create(self, name: str, *, owner_id: str, by: Principal, origin: Origin = NOWHERE) -> Team:
        """Make a team with its owner. Raises InvalidRequest, NotFound."""

        def job(connection: Connection) -> Team:
            team = insert_team(connection, name, actor=by.actor, origin=origin)
            insert_membership(connection, team.id, owner_id, "owner", actor=by.actor, origin=origin)
            return team

        return await self._write(job, f"user:{owner_id}")

    async def get(self, team_id: str) -> Team:
        """Return a team that is not deleted. Raises NotFound."""
        return await self._store.read(lambda connection: _get(connection, team_id))

    async def of_user(self, user_id: str) -> list[tuple[Team, Membership]]:
        """Return the teams of a person by joining time, each with what they are there."""
        return await self._store.read(lambda connection: teams_of(connection, user_id))

    async def rename(self, team_id: str, name: str, *, by: Principal, origin: Origin = NOWHERE) -> Team:
        """Change the name; the slug stays. Raises NotFound, InvalidRequest."""

        def job(connection: Connection) -> Team:
            old, new = _get(connection, team_id), _checked_name(name)
            connection.execute(update(teams).where(teams.c.id == team_id).values(name=new))
            _note(connection, "team.renamed", team_id, by.actor, origin, old_name=old.name, new_name=new)
            return _get(connection, team_id)

        return await self._write(job)

    async def set_device_cap(
        self, team_id: str, device_cap: int | None, *, by: Principal, origin: Origin = NOWHERE
    ) -> Team:
        """Change how many devices the team may register; None means the lab's default. Raises NotFound."""

        def job(connection: Connection) -> Team:
            _get(connection, team_id)
            connection.execute(update(teams).where(teams.c.id == team_id).values(device_cap=device_cap))
            _note(connection, "team.device_cap_changed", team_id, by.actor, origin, device_cap=device_cap)
            return _get(connection, team_id)

        return await self._write(job)

    async def set_byoc(self, team_id: str, byoc: bool, *, by: Principal, origin: Origin = NOWHERE) -> Team:
        """Let a team bring hosts of its own, or no longer. Raises NotFound."""

        def job(connection: Connection) -> Team:
            if _get(connection, team_id).byoc != byoc:
                connection.execute(update(teams).where(teams.c.id == team_id).values(byoc=byoc))
                _note(connection, "team.byoc_changed", team_id, by.actor, origin, enabled=byoc)
            return _get(connection, team_id)

        return await self._write(job)

    async def delete(self, team_id: str, *, by: Principal, origin: Origin = NOWHERE) -> None:
        """Delete a team: it can no longer be reached, its API keys and device tokens end. Raises NotFound."""

        def job(connection: Connection) -> None:
            delete_team(connection, team_id, actor=by.actor, origin=origin)

        await self._write(job, f"team:{team_id}")

    async def members(self, team_id: str) -> list[Member]:
        """Return who is in a team, by joining time. Raises NotFound."""
        statement = (
            select(memberships, *USER_COLUMNS)
            .join(users, users.c.id == memberships.c.user_id)
            .where(memberships.c.team_id == team_id)
            .order_by(memberships.c.joined_at, memberships.c.user_id)
        )

        def job(connection: Connection) -> list[Member]:
            _get(connection, team_id)
            return [Member(user=user_of(row), membership=_membership(row)) for row in connection.execute(statement)]

        return await self._store.read(job)

    async def role_of(self, team_id: str, user_id: str) -> Role | None:
        """Return what a person is in a team; None when they are not in it, or it is deleted."""

        def job(connection: Connection) -> Role | None:
            _get(connection, team_id)
            return _role(connection, team_id, user_id)

        try:
            return await self._store.read(job)
        except NotFound:
            return None

    async def add_member(
        self, team_id: str, user_id: str, role: Role = "member", *, by: Principal, origin: Origin = NOWHERE
    ) -> None:
        """Add a person. Raises NotFound, AlreadyExists, and Conflict for a second owner."""

        def job(connection: Connection) -> None:
            _get(connection, team_id)
            if role == "owner":
                raise Conflict("a team has one owner", reason="owner")
            insert_membership(connection, team_id, user_id, role, actor=by.actor, origin=origin)

        await self._write(job, f"user:{user_id}")

    async def set_role(
        self, team_id: str, user_id: str, role: Role, *, by: Principal, origin: Origin = NOWHERE
    ) -> None:
        """Change what a member is. Raises NotFound, and Conflict for the owner or a second one."""

        def job(connection: Connection) -> None:
            old = _other_than_owner(connection, team_id, user_id)
            if role == "owner":
                raise Conflict("a team has one owner", reason="owner")
            connection.execute(update(memberships).where(*_of(team_id, user_id)).values(role=role))
            _note_member(
                connection, "member.role_changed", team_id, user_id, by.actor, origin, old_role=old, new_role=role
            )

        await self._write(job, f"user:{user_id}")

    async def remove_member(self, team_id: str, user_id: str, *, by: Principal, origin: Origin = NOWHERE) -> None:
        """Take a person out of a team: the API keys that they made in it and their sessions in it end.

        Raises NotFound, and Conflict for the owner.
        """

        def job(connection: Connection) -> None:
            role = _take_out(connection, team_id, user_id, by.actor, origin)
            connection.execute(
                update(sessions)
                .where(sessions.c.user_id == user_id, sessions.c.team_id == team_id, sessions.c.revoked_at.is_(None))
                .values(revoked_at=utcnow())
            )
            _note_member(connection, "member.removed", team_id, user_id, by.actor, origin, role=role)

        await self._write(job, f"user:{user_id}")

    async def leave(self, team_id: str, *, by: Principal, origin: Origin = NOWHERE) -> None:
        """Let a person go out of a team: the API keys that they made in it end.

        Their sessions in it stay, in no team, so that they can go to another one. Raises NotFound, and Conflict for
        the owner.
        """
        user_id = by.user_id
        if user_id is None:
            raise NotFound("only a person can leave a team")

        def job(connection: Connection) -> None:
            role = _take_out(connection, team_id, user_id, by.actor, origin)
            _note_member(connection, "member.left", team_id, user_id, by.actor, origin, role=role)

        await self._write(job, f"user:{user_id}")

    async def list(self, *, limit: int = 1000) -> list[Team]:
        """Return the teams that are not deleted, oldest first."""
        statement = _selected().order_by(teams.c.created_at, teams.c.id).limit(limit)
        return await self._store.read(lambda connection: [_team(row) for row in connection.execute(statement)])

    async def _write(self, job: Callable[[Connection], T], *tags: str) -> T:
        result = await self._store.write(job)
        self._cache.invalidate(*tags)
        return result


def insert_team(connection: Connection, name: str, *, actor: str, origin: Origin = NOWHERE) -> Team:
    """Insert a team without members within a transaction. Raises InvalidRequest."""
    slug = _new_slug()
    while connection.execute(select(teams.c.id).where(teams.c.slug == slug)).first() is not None:
        slug = _new_slug()
    team_id, checked = new_id(), _checked_name(name)
    connection.execute(insert(teams).values(id=team_id, name=checked, slug=slug, byoc=False, created_at=utcnow()))
    _note(connection, "team.created", team_id, actor, origin, name=checked, slug=slug)
    return _get(connection, team_id)


def delete_team(connection: Connection, team_id: str, *, actor: str, origin: Origin = NOWHERE) -> None:
    """Do what :meth:`Teams.delete` does, within a transaction."""
    team, now = _get(connection, team_id), utcnow()
    connection.execute(update(teams).where(teams.c.id == team_id).values(deleted_at=now))
    revoke_api_keys(connection, api_keys.c.team_id == team_id, actor=actor, origin=origin)
    connection.execute(
        update(device_tokens)
        .where(device_tokens.c.team_id == team_id, device_tokens.c.revoked_at.is_(None))
        .values(revoked_at=now)
    )
    _note(connection, "team.deleted", team_id, actor, origin, name=team.name)


def insert_membership(
    connection: Connection, team_id: str, user_id: str, role: Role, *, actor: str, origin: Origin = NOWHERE
) -> None:
    """Put a person into a team within a transaction; their first team becomes their default one.

    Raises NotFound for a person who is not there, AlreadyExists for one who is in it.
    """
    load_user(connection, user_id)
    if _role(connection, team_id, user_id) is not None:
        raise AlreadyExists("this person is in the team already")
    first = connection.execute(select(memberships.c.team_id).where(memberships.c.user_id == user_id)).first() is None
    connection.execute(
        insert(memberships).values(team_id=team_id, user_id=user_id, role=role, is_default=first, joined_at=utcnow())
    )
    _note_member(connection, "member.added", team_id, user_id, actor, origin, role=role)


def teams_of(connection: Connection, user_id: str) -> list[tuple[Team, Membership]]:
    """Return the teams of a person by joining time."""
    statement = (
        select(teams, memberships)
        .join(memberships, memberships.c.team_id == teams.c.id)
        .where(memberships.c.user_id == user_id, teams.c.deleted_at.is_(None))
        .order_by(memberships.c.joined_at, teams.c.id)
    )
    return [(_team(row), _membership(row)) for row in connection.execute(statement)]


def default_team(connection: Connection, user_id: str) -> tuple[Team, Membership] | None:
    """Return the team that a person comes into when they log in: their default one, else the earliest joined."""
    joined = teams_of(connection, user_id)
    return next((pair for pair in joined if pair[1].is_default), joined[0] if joined else None)


def require_member(connection: Connection, team_id: str, user_id: str) -> None:
    """Raise NotFound for a team that is not there, Forbidden for one that the person is not in."""
    _get(connection, team_id)
    if _role(connection, team_id, user_id) is None:
        raise Forbidden("you are not a member of this team")


def _new_slug() -> str:
    return f"{secrets.token_hex(3)}-{secrets.token_hex(3)}"


def _checked_name(name: str) -> str:
    name = name.strip()
    if not 1 <= len(name) <= 128 or not name.isprintable():
        expected = "1 to 128 printable characters"
        raise InvalidRequest(f"a team's name has {expected}", (FieldProblem("body.name", expected),))
    return name


def _selected() -> Select[Any]:
    return select(teams).where(teams.c.deleted_at.is_(None))


def _get(connection: Connection, team_id: str) -> Team:
    row = connection.execute(_selected().where(teams.c.id == team_id)).one_or_none()
    if row is None:
        raise NotFound("there is no such team")
    return _team(row)


def _of(team_id: str, user_id: str) -> tuple[Any, Any]:
    return memberships.c.team_id == team_id, memberships.c.user_id == user_id


def _role(connection: Connection, team_id: str, user_id: str) -> Role | None:
    statement = select(memberships.c.role).where(*_of(team_id, user_id))
    role: Role | None = connection.execute(statement).scalar_one_or_none()
    return role


def _other_than_owner(connection: Connection, team_id: str, user_id: str) -> Role:
    _get(connection, team_id)
    role = _role(connection, team_id, user_id)
    if role is None:
        raise NotFound("this person is not in the team")
    if role == "owner":
        raise Conflict("the owner of a team stays its owner", reason="owner")
    return role


def _take_out(connection: Connection, team_id: str, user_id: str, actor: str, origin: Origin) -> Role:
    role = _other_than_owner(connection, team_id, user_id)
    connection.execute(delete(memberships).where(*_of(team_id, user_id)))
    made = (api_keys.c.created_by == user_id, api_keys.c.team_id == team_id)
    revoke_api_keys(connection, *made, actor=actor, origin=origin)
    return role


def _team(row: object) -> Team:
    return msgspec.convert(row, Team, from_attributes=True)


def _membership(row: object) -> Membership:
    return msgspec.convert(row, Membership, from_attributes=True)


def _note(connection: Connection, kind: str, team_id: str, actor: str, origin: Origin, **data: object) -> None:
    note(connection, kind, ("team", team_id), team_id, actor, origin, **data)


def _note_member(
    connection: Connection, kind: str, team_id: str, user_id: str, actor: str, origin: Origin, **data: object
) -> None:
    email = connection.execute(select(users.c.email).where(users.c.id == user_id)).scalar_one()
    note(connection, kind, ("user", user_id), team_id, actor, origin, email=email, **data)
