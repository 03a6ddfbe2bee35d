"""How people get an account, get back into it, and give it up."""

from __future__ import annotations

from datetime import timedelta

import msgspec
from sqlalchemy import Connection, func, select, update

from anvild.core.clock import utcnow
from anvild.core.errors import Conflict, InvalidRequest
from anvild.core.store import Store

from .cache import CredentialCache
from .journal import note
from .passwords import Passwords
from .single_use import issue_mail_token, take_token
from .tables import memberships, users
from .teams import default_team, delete_team, insert_membership, insert_team, teams_of
from .users import change_status, checked_name, insert_user, load_user, normal_email, put_password
from .values import NOWHERE, Origin, Principal, User

__all__ = ["ACTIVATION_LIFETIME", "RESET_LIFETIME", "Accounts", "SignUp", "begin", "make_room"]

ACTIVATION_LIFETIME = timedelta(minutes=30)
RESET_LIFETIME = timedelta(minutes=15)


class SignUp(msgspec.Struct, frozen=True, kw_only=True):
    """An account that waits to be activated by the token, which is nowhere else."""

    user: User
    token: str


class Accounts:
    """Signing up, activation, forgotten passwords, and the end of an account, each in one transaction.

    Errors that a person can do something about carry the detail ``reason``.
    """

    def __init__(self, store: Store, passwords: Passwords, cache: CredentialCache) -> None:
        self._store = store
        self._passwords = passwords
        self._cache = cache

    async def add(self, *, email: str, password: str, name: str, admin: bool = False, by: Principal) -> User:
        """Make an active account with a team of its own, where no mail proves whose the address is.

        Raises InvalidRequest, AlreadyExists.
        """
        address, shown = normal_email(email), checked_name(name)
        stored = await self._passwords.hash(password)

        def job(connection: Connection) -> User:
            user = insert_user(
                connection,
                name=shown,
                email=address,
                username=None,
                password_hash=stored,
                status="active",
                lab_role="admin" if admin else "viewer",
                is_admin=admin,
                actor=by.actor,
            )
            return begin(connection, user.id, actor=by.actor)

        return await self._store.write(job)

    async def sign_up(self, *, email: str, password: str, name: str, origin: Origin = NOWHERE) -> SignUp:
        """Make an account that nobody can come in with before :meth:`activate`.

        Raises InvalidRequest, and Conflict: ``email_taken``, or ``signup_cooldown`` while an earlier token for the
        same address is still good. An account that was not activated in time makes room for the new one.
        """
        address, shown = normal_email(email), checked_name(name)
        stored = await self._passwords.hash(password)

        def job(connection: Connection) -> SignUp:
            make_room(connection, address, origin=origin)
            user = insert_user(
                connection,
                name=shown,
                email=address,
                username=None,
                password_hash=stored,
                status="inactive",
                lab_role="viewer",
                is_admin=False,
                actor="system",
                origin=origin,
            )
            token = issue_mail_token(connection, "activation", user.id, lifetime=ACTIVATION_LIFETIME)
            return SignUp(user=user, token=token)

        return await self._store.write(job)

    async def withdraw(self, user_id: str) -> None:
        """Take back an account that is not activated, so that its address is free. Another one stays as it is."""

        def job(connection: Connection) -> None:
            user = load_user(connection, user_id)
            if user.status == "inactive":
                change_status(connection, user, "deleted", actor="system")

        await self._store.write(job)
        self._cache.invalidate(f"user:{user_id}")

    async def activate(self, token: str, *, origin: Origin = NOWHERE) -> User:
        """Use an activation token up: its account becomes active and gets a team of its own.

        The first active account of all is made platform admin. Raises InvalidRequest: ``invalid_token``, or
        ``already_activated``.
        """

        def job(connection: Connection) -> User:
            row = take_token(connection, "activation", token)
            if row is None:
                raise _bad_token()
            user = load_user(connection, row.user_id)
            if user.status != "inactive":
                raise InvalidRequest("this account has been activated already", reason="already_activated")
            actor = f"user:{user.id}"
            change_status(connection, user, "active", actor=actor, origin=origin)
            return begin(connection, user.id, actor=actor, origin=origin)

        user = await self._store.write(job)
        self._cache.invalidate(f"user:{user.id}")
        return user

    async def give_team(self, user_id: str, *, origin: Origin = NOWHERE) -> None:
        """Make a team for a person who is in none."""

        def job(connection: Connection) -> None:
            _give_team(connection, load_user(connection, user_id), actor=f"user:{user_id}", origin=origin)

        await self._store.write(job)
        self._cache.invalidate(f"user:{user_id}")

    async def forgot_password(self, email: str) -> SignUp | None:
        """Return a token for a new password, if there is an active account with this address; an older one ends.

        What it takes depends on whether there is one: do not let the asker wait for it.
        """
        try:
            address = normal_email(email)
        except InvalidRequest:
            return None

        def job(connection: Connection) -> SignUp | None:
            found = select(users.c.id).where(users.c.email == address, users.c.status == "active")
            user_id = connection.execute(found).scalar_one_or_none()
            if user_id is None:
                return None
            token = issue_mail_token(connection, "password_reset", user_id, lifetime=RESET_LIFETIME)
            return SignUp(user=load_user(connection, user_id), token=token)

        return await self._store.write(job)

    async def reset_password(self, token: str, password: str, *, origin: Origin = NOWHERE) -> None:
        """Use a token up and set the password; all sessions end.

        Raises InvalidRequest for a wrong password, which leaves the token good, or ``invalid_token``.
        """
        stored = await self._passwords.hash(password)

        def job(connection: Connection) -> str:
            row = take_token(connection, "password_reset", token)
            if row is None:
                raise _bad_token()
            user = load_user(connection, row.user_id)
            if user.status != "active":
                raise _bad_token()
            put_password(connection, user, stored, actor=f"user:{user.id}", origin=origin)
            return user.id

        user_id = await self._store.write(job)
        self._cache.invalidate(f"user:{user_id}")

    async def close(self, user_id: str, *, by: Principal, origin: Origin = NOWHERE) -> None:
        """Delete an account with the teams that it is alone in. What names the person goes 15 days later.

        Raises Conflict: ``owns_team_with_members``, or ``last_admin``.
        """

        def job(connection: Connection) -> list[str]:
            user = load_user(connection, user_id)
            owned = [team for team, membership in teams_of(connection, user_id) if membership.role == "owner"]
            for team in owned:
                count = select(func.count()).select_from(memberships).where(memberships.c.team_id == team.id)
                if connection.execute(count).scalar_one() > 1:
                    raise Conflict(
                        f"you own the team {team.name!r}, which has other members; delete it first",
                        reason="owns_team_with_members",
                    )
            for team in owned:
                delete_team(connection, team.id, actor=by.actor, origin=origin)
            change_status(connection, user, "deleted", actor=by.actor, origin=origin)
            return [team.id for team in owned]

        teams = await self._store.write(job)
        self._cache.invalidate(f"user:{user_id}", *(f"team:{team_id}" for team_id in teams))


def begin(connection: Connection, user_id: str, *, actor: str, origin: Origin = NOWHERE) -> User:
    """Give a new active account what it begins with, within a transaction: a team, and the first one the platform."""
    user = load_user(connection, user_id)
    _give_team(connection, user, actor=actor, origin=origin)
    others = select(users.c.id).where(users.c.status == "active", users.c.id != user_id).limit(1)
    if not user.is_admin and connection.execute(others).first() is None:
        values = {"is_admin": True, "lab_role": "admin"}
        connection.execute(update(users).where(users.c.id == user_id).values(values))
        note(connection, "user.admin_granted", ("user", user_id), None, actor, origin, name=user.name, email=user.email)
    return load_user(connection, user_id)


def _give_team(connection: Connection, user: User, *, actor: str, origin: Origin) -> None:
    if default_team(connection, user.id) is None:
        team = insert_team(connection, f"{user.name}'s Team", actor=actor, origin=origin)
        insert_membership(connection, team.id, user.id, "owner", actor=actor, origin=origin)


def make_room(connection: Connection, address: str, *, proved: bool = False, origin: Origin = NOWHERE) -> None:
    """Drop an account with this address that was never activated, within a transaction.

    Raises Conflict for any other one, and while its token is still good; unless the address has been ``proved`` to be
    the asker's, so that nobody keeps others out by signing up for them.
    """
    found = select(users.c.id).where(users.c.email == address, users.c.status != "deleted")
    user_id = connection.execute(found).scalar_one_or_none()
    if user_id is None:
        return
    user = load_user(connection, user_id)
    joined = connection.execute(select(memberships.c.team_id).where(memberships.c.user_id == user_id)).first()
    if user.status != "inactive" or joined is not None:
        raise Conflict("there is an account with this address", reason="email_taken")
    if not proved and user.created_at > utcnow() - ACTIVATION_LIFETIME:
        raise Conflict("a mail is on its way to this address; try again in half an hour", reason="signup_cooldown")
    change_status(connection, user, "deleted", actor="system", origin=origin)


def _bad_token() -> InvalidRequest:
    return InvalidRequest("this link is wrong, used or expired", reason="invalid_token")
