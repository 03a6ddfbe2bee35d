"""People: their accounts, passwords and roles in the lab."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, Select, delete, func, insert, select, update

from anvild.core.clock import utcnow
from anvild.core.errors import Conflict, FieldProblem, InvalidRequest
from anvild.core.ids import new_id
from anvild.core.store import Store
from anvild.sdk import AlreadyExists, NotFound

from .api_keys import revoke_api_keys
from .cache import CredentialCache
from .journal import note
from .passwords import Passwords
from .single_use import end_mail_tokens
from .tables import api_keys, linked_logins, memberships, sessions, tokens, users
from .values import NOWHERE, LabRole, Origin, Principal, User, UserStatus

__all__ = [
    "USER_COLUMNS",
    "Users",
    "change_status",
    "checked_name",
    "insert_user",
    "load_user",
    "normal_email",
    "put_password",
    "revoke_credentials",
    "user_of",
]

USER_COLUMNS = (
    *(c for c in users.c if c.name != "password_hash"),
    users.c.password_hash.is_not(None).label("has_password"),
)


def normal_email(text: str, *, field: str = "body.email") -> str:
    """Return an address as it is stored and compared: trimmed, in lower case. Raises InvalidRequest for a text that
    is no address."""
    email = text.strip().lower()
    local, at, domain = email.rpartition("@")
    if not (local and at and domain) or len(email) > 254 or any(c.isspace() or c == "\0" for c in email):
        expected = "an e-mail address of at most 254 characters"
        raise InvalidRequest(f"expected {expected}", (FieldProblem(field, expected),))
    return email


class Users:
    """The accounts. Every change ends or keeps credentials as it must, and appends its event in the same transaction.

    ``by`` is who makes the change and ``origin`` where the request came from; both go into the audit log.
    """

    def __init__(self, store: Store, passwords: Passwords, cache: CredentialCache) -> None:
        self._store = store
        self._passwords = passwords
        self._cache = cache

    async def create(
        self,
        *,
        by: Principal,
        name: str,
        email: str | None = None,
        username: str | None = None,
        password: str | None = None,
        status: UserStatus = "active",
        lab_role: LabRole = "viewer",
        is_admin: bool = False,
        origin: Origin = NOWHERE,
    ) -> User:
        """Make an account with an e-mail address, a user name, or both. Raises InvalidRequest, and AlreadyExists
        whose detail ``field`` says which of the two is taken."""
        address = None if email is None else normal_email(email)
        if username is not None and not (1 <= len(username) <= 128 and username.isprintable() and username.strip()):
            expected = "1 to 128 printable characters"
            raise InvalidRequest(f"a user name has {expected}", (FieldProblem("body.username", expected),))
        if address is None and username is None:
            raise InvalidRequest(
                "an account needs an e-mail address or a user name", (FieldProblem("body.email", "an e-mail address"),)
            )
        stored = None if password is None else await self._passwords.hash(password)
        return await self._store.write(
            lambda connection: insert_user(
                connection,
                name=checked_name(name),
                email=address,
                username=username,
                password_hash=stored,
                status=status,
                lab_role=lab_role,
                is_admin=is_admin,
                actor=by.actor,
                origin=origin,
            )
        )

    async def get(self, user_id: str) -> User:
        """Return an account that is not deleted. Raises NotFound."""
        return await self._store.read(lambda connection: load_user(connection, user_id))

    async def find(self, *, email: str | None = None, username: str | None = None) -> User | None:
        """Return the account with this address or this user name, unless it is deleted."""
        condition = users.c.username == username if email is None else users.c.email == normal_email(email)
        statement = _selected().where(condition)
        row = await self._store.read(lambda connection: connection.execute(statement).one_or_none())
        return None if row is None else user_of(row)

    async def search(self, prefix: str, *, limit: int = 10) -> list[User]:
        """Return active accounts whose address begins with the text, by address."""
        statement = (
            _selected()
            .where(users.c.status == "active", users.c.email.startswith(prefix.strip().lower(), autoescape=True))
            .order_by(users.c.email)
            .limit(limit)
        )
        return await self._store.read(lambda connection: [user_of(row) for row in connection.execute(statement)])

    async def list(self, *, after: int = 0, limit: int = 1000) -> list[User]:
        """Return accounts that are not deleted, oldest first, from the one after the number ``after`` on."""
        statement = _selected().where(users.c.number > after).order_by(users.c.number).limit(limit)
        return await self._store.read(lambda connection: [user_of(row) for row in connection.execute(statement)])

    async def rename(self, user_id: str, name: str, *, by: Principal, origin: Origin = NOWHERE) -> User:
        """Change the name that is shown. Raises NotFound, InvalidRequest."""
        new = checked_name(name)
        return await self._change(user_id, "user.renamed", {"name": new}, {"new_name": new}, by=by, origin=origin)

    async def set_lab_role(self, user_id: str, lab_role: LabRole, *, by: Principal, origin: Origin = NOWHERE) -> User:
        """Change the role in the lab. Raises NotFound."""
        return await self._change(
            user_id, "user.lab_role_changed", {"lab_role": lab_role}, {"lab_role": lab_role}, by=by, origin=origin
        )

    async def set_admin(self, user_id: str, is_admin: bool, *, by: Principal, origin: Origin = NOWHERE) -> User:
        """Make an account a platform admin, or no longer one. Raises NotFound, and Conflict for the last active one."""

        def job(connection: Connection) -> User:
            user = load_user(connection, user_id)
            if user.is_admin == is_admin:
                return user
            if not is_admin:
                _keep_an_admin(connection, user)
            connection.execute(update(users).where(users.c.id == user_id).values(is_admin=is_admin))
            kind = "user.admin_granted" if is_admin else "user.admin_revoked"
            _note(connection, kind, user, by.actor, origin)
            return load_user(connection, user_id)

        return await self._write(user_id, job)

    async def set_status(
        self,
        user_id: str,
        status: UserStatus,
        *,
        by: Principal,
        origin: Origin = NOWHERE,
        also: Callable[[Connection], None] | None = None,
    ) -> User:
        """Activate, disable or delete an account. Raises NotFound, and Conflict for the last active platform admin.

        A disabled or deleted account loses its sessions, tokens and the API keys that it made. A deleted one also
        leaves its teams, and its address and user name become free. ``also`` is done in the same transaction, when
        the status has been another one.
        """

        def job(connection: Connection) -> User:
            user = load_user(connection, user_id)
            changed = change_status(connection, user, status, actor=by.actor, origin=origin)
            if also is not None and user.status != status:
                also(connection)
            return changed

        return await self._write(user_id, job)

    async def set_password(self, user_id: str, password: str, *, by: Principal, origin: Origin = NOWHERE) -> User:
        """Set a new password and end all sessions and login tokens. Raises NotFound, InvalidRequest, Unavailable."""
        stored = await self._passwords.hash(password)

        def job(connection: Connection) -> User:
            put_password(connection, load_user(connection, user_id), stored, actor=by.actor, origin=origin)
            return load_user(connection, user_id)

        return await self._write(user_id, job)

    async def check_password(self, user_id: str, password: str) -> bool:
        """Say whether this is the account's password, for a person who is known already and confirms a change."""
        statement = select(users.c.password_hash).where(users.c.id == user_id)
        stored = await self._store.read(lambda connection: connection.execute(statement).scalar_one_or_none())
        return await self._passwords.verify(stored, password)

    async def _change(
        self,
        user_id: str,
        kind: str,
        values: dict[str, object],
        data: dict[str, object] | None = None,
        *,
        by: Principal,
        origin: Origin,
    ) -> User:
        def job(connection: Connection) -> User:
            user = load_user(connection, user_id)
            connection.execute(update(users).where(users.c.id == user_id).values(values))
            _note(connection, kind, user, by.actor, origin, **(data or {}))
            return load_user(connection, user_id)

        return await self._write(user_id, job)

    async def _write(self, user_id: str, job: Any) -> User:
        changed: User = await self._store.write(job)
        self._cache.invalidate(f"user:{user_id}")
        return changed


_STATUS_EVENTS: dict[UserStatus, str] = {
    "inactive": "user.deactivated",
    "active": "user.activated",
    "disabled": "user.disabled",
    "deleted": "user.deleted",
}


def insert_user(
    connection: Connection,
    *,
    name: str,
    email: str | None,
    username: str | None,
    password_hash: str | None,
    status: UserStatus,
    lab_role: LabRole,
    is_admin: bool,
    actor: str,
    origin: Origin = NOWHERE,
) -> User:
    """Insert an account within a transaction. Raises AlreadyExists."""
    for column, value in ((users.c.email, email), (users.c.username, username)):
        if value is not None and connection.execute(select(users.c.id).where(column == value)).first() is not None:
            raise AlreadyExists(f"there is an account with this {column.name}", field=column.name)
    number = connection.execute(select(func.coalesce(func.max(users.c.number), 0) + 1)).scalar_one()
    user_id = new_id()
    connection.execute(
        insert(users).values(
            id=user_id,
            number=number,
            email=email,
            username=username,
            name=name,
            password_hash=password_hash,
            status=status,
            is_admin=is_admin,
            lab_role=lab_role,
            token_generation=0,
            created_at=utcnow(),
        )
    )
    user = load_user(connection, user_id)
    _note(connection, "user.created", user, actor, origin, username=username)
    return user


def change_status(
    connection: Connection, user: User, status: UserStatus, *, actor: str, origin: Origin = NOWHERE
) -> User:
    """Do what :meth:`Users.set_status` does, within a transaction."""
    if user.status == status:
        return user
    now = utcnow()
    values: dict[str, object] = {"status": status}
    if status != "active":
        _keep_an_admin(connection, user)
        revoke_credentials(connection, user.id, now, actor=actor, origin=origin)
        values["token_generation"] = users.c.token_generation + 1
    if status == "deleted":
        values |= {"deleted_at": now, "email": None, "username": None, "password_hash": None, "is_admin": False}
        for table in (memberships, linked_logins):
            connection.execute(delete(table).where(table.c.user_id == user.id))
    connection.execute(update(users).where(users.c.id == user.id).values(values))
    _note(connection, _STATUS_EVENTS[status], user, actor, origin)
    return msgspec.structs.replace(user, status=status)


def put_password(connection: Connection, user: User, stored: str, *, actor: str, origin: Origin = NOWHERE) -> None:
    """Set a hashed password and end all sessions, login tokens and links to a new password, within a transaction."""
    values = {"password_hash": stored, "token_generation": users.c.token_generation + 1}
    connection.execute(update(users).where(users.c.id == user.id).values(values))
    _end_sessions(connection, user.id, utcnow())
    end_mail_tokens(connection, "password_reset", user.id)
    _note(connection, "user.password_changed", user, actor, origin)


def checked_name(name: str) -> str:
    """Return a person's name, trimmed. Raises InvalidRequest unless it has 1 to 100 printable characters."""
    name = name.strip()
    if not 1 <= len(name) <= 100 or not name.isprintable():
        expected = "1 to 100 printable characters"
        raise InvalidRequest(f"a name has {expected}", (FieldProblem("body.name", expected),))
    return name


def revoke_credentials(connection: Connection, user_id: str, now: datetime, *, actor: str, origin: Origin) -> None:
    """End all that a person could still come in with: sessions, tokens, and the API keys that they made."""
    _end_sessions(connection, user_id, now)
    connection.execute(
        update(tokens).where(tokens.c.user_id == user_id, tokens.c.revoked_at.is_(None)).values(revoked_at=now)
    )
    revoke_api_keys(connection, api_keys.c.created_by == user_id, actor=actor, origin=origin)


def _end_sessions(connection: Connection, user_id: str, now: datetime) -> None:
    connection.execute(
        update(sessions).where(sessions.c.user_id == user_id, sessions.c.revoked_at.is_(None)).values(revoked_at=now)
    )


def _selected() -> Select[Any]:
    return select(*USER_COLUMNS).where(users.c.status != "deleted")


def load_user(connection: Connection, user_id: str) -> User:
    """Read an account that is not deleted. Raises NotFound."""
    row = connection.execute(_selected().where(users.c.id == user_id)).one_or_none()
    if row is None:
        raise NotFound("there is no such user")
    return user_of(row)


def user_of(row: Row[Any]) -> User:
    return msgspec.convert(row, User, from_attributes=True)


def _keep_an_admin(connection: Connection, user: User) -> None:
    others = select(users.c.id).where(users.c.is_admin, users.c.status == "active", users.c.id != user.id).limit(1)
    if user.is_admin and user.status == "active" and connection.execute(others).first() is None:
        raise Conflict("this is the last active platform admin; make another one first", reason="last_admin")


def _note(connection: Connection, kind: str, user: User, actor: str, origin: Origin, **data: object) -> None:
    shown = {"name": user.name, "email": user.email, **data}
    note(connection, kind, ("user", user.id), None, actor, origin, **shown)
