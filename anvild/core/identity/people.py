"""What the authenticator needs to know of a person, read in one job."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, select

from anvild.core.errors import Forbidden

from .tables import memberships, teams, users
from .teams import default_team
from .values import LabRole, Principal, PrincipalKind, Role, UserStatus

__all__ = ["Person", "load_person"]


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """A person within one team; without a team when they are in none, or no longer in the one that was asked for."""

    user_id: str
    name: str
    status: UserStatus
    is_admin: bool
    lab_role: LabRole
    token_generation: int
    team_id: str | None
    role: Role | None

    def require_active(self) -> None:
        """Raise Forbidden, with the detail ``reason``, unless the account is active."""
        if self.status == "inactive":
            raise Forbidden("this account is not activated yet", reason="account_not_activated")
        if self.status != "active":
            raise Forbidden("this account is disabled", reason="account_disabled")

    def principal(
        self,
        kind: PrincipalKind,
        id_: str,
        *,
        scopes: frozenset[str] | None = None,
        session_id: str | None = None,
    ) -> Principal:
        """Return who asks when this person comes with that credential."""
        return Principal(
            kind=kind,
            id=id_,
            team_id=self.team_id,
            role=self.role,
            lab_role=self.lab_role,
            is_admin=self.is_admin,
            scopes=scopes,
            name=self.name,
            user_id=self.user_id,
            session_id=session_id,
        )

    @property
    def tags(self) -> tuple[str, ...]:
        """The changes after which this must be read again."""
        person = f"user:{self.user_id}"
        return (person,) if self.team_id is None else (person, f"team:{self.team_id}")


def load_person(connection: Connection, user_id: str, team_id: str | None = None) -> Person | None:
    """Read a person in the given team, or in the one that they come into by default. None when deleted or unknown."""
    row = connection.execute(select(users).where(users.c.id == user_id, users.c.status != "deleted")).one_or_none()
    if row is None:
        return None
    role: Role | None = None
    if team_id is not None:
        role = connection.execute(
            select(memberships.c.role)
            .join(teams, teams.c.id == memberships.c.team_id)
            .where(memberships.c.team_id == team_id, memberships.c.user_id == user_id, teams.c.deleted_at.is_(None))
        ).scalar_one_or_none()
    elif (default := default_team(connection, user_id)) is not None:
        team_id, role = default[0].id, default[1].role
    return Person(
        user_id=row.id,
        name=row.name,
        status=row.status,
        is_admin=row.is_admin,
        lab_role=row.lab_role,
        token_generation=row.token_generation,
        team_id=None if role is None else team_id,
        role=role,
    )
