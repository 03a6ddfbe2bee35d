"""A name and a password become a person, or nothing that tells why not."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, select, update

from anvild.core.errors import Unauthenticated
from anvild.core.store import Store

from .journal import note
from .passwords import Passwords
from .people import Person, load_person
from .rate_limits import Limits
from .secret_texts import digest
from .tables import users
from .values import NOWHERE, Origin

__all__ = ["Logins"]


class _Known(msgspec.Struct, frozen=True):
    user_id: str
    password_hash: str | None


class Logins:
    """Checks passwords.

    Attempts are counted by address and by account, before any work is done. An unknown account, one without a
    password, and a wrong password take the same time and give the same answer; each failure is an audit event.
    """

    def __init__(self, store: Store, passwords: Passwords, limits: Limits) -> None:
        self._store = store
        self._passwords = passwords
        self._limits = limits

    async def check(self, account: str, password: str, *, origin: Origin = NOWHERE) -> Person:
        """Return the person whose e-mail address or user name and password these are.

        Raises RateLimited; Unauthenticated; Unavailable when too many log in at once; and, after the right password
        alone, Forbidden with the detail ``reason`` for an account that is not active.
        """
        self._limits.check("password_ip", origin.ip or "")
        self._limits.check("password_account", digest(account.strip().lower()))
        known = await self._store.read(lambda connection: _find(connection, account))
        stored = None if known is None else known.password_hash
        if not await self._passwords.verify(stored, password):
            await self._store.write(lambda connection: _note_failure(connection, known, origin))
            raise Unauthenticated("the account or the password is wrong")
        assert known is not None
        assert stored is not None
        if self._passwords.outdated(stored):
            await self._renew(known.user_id, stored, password)
        person = await self._store.read(lambda connection: load_person(connection, known.user_id))
        if person is None:
            raise Unauthenticated("the account or the password is wrong")
        person.require_active()
        return person

    async def _renew(self, user_id: str, old: str, password: str) -> None:
        """Keep the password at today's cost."""
        new = await self._passwords.hash(password)
        statement = update(users).where(users.c.id == user_id, users.c.password_hash == old).values(password_hash=new)
        await self._store.write(lambda connection: connection.execute(statement))


def _find(connection: Connection, account: str) -> _Known | None:
    name = account.strip()
    statement = select(users.c.id, users.c.password_hash).where(users.c.status != "deleted")
    for condition in (users.c.email == name.lower(), users.c.username == name):
        row = connection.execute(statement.where(condition)).one_or_none()
        if row is not None:
            return _Known(row.id, row.password_hash)
    return None


def _note_failure(connection: Connection, known: _Known | None, origin: Origin) -> None:
    # What was typed as the name is not kept: people type passwords there.
    subject = ("user", known.user_id) if known is not None else ("address", origin.ip or "unknown")
    note(connection, "login.failed", subject, None, "system", origin)
