"""Sessions: what a browser holds after a login."""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta

import msgspec
from sqlalchemy import Connection, Row, insert, select, update

from anvild.core.clock import utcnow
from anvild.core.errors import Forbidden
from anvild.core.ids import new_id
from anvild.core.store import Store
from anvild.sdk import NotFound

from .cache import CredentialCache
from .journal import note
from .last_use import LastUse
from .logins import Logins
from .people import Person, load_person
from .secret_texts import digest
from .tables import sessions, users
from .teams import require_member
from .values import NOWHERE, Origin, Principal

__all__ = ["NewSession", "SessionInfo", "Sessions"]

_AGENT_LENGTH = 400


class NewSession(msgspec.Struct, frozen=True, kw_only=True):
    """A session that has just begun. ``secret`` and ``csrf`` go into the two cookies and are nowhere else."""

    session_id: str
    secret: str
    csrf: str
    expires_at: datetime
    person: Person


class SessionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A session as its owner sees it in a list. ``expires_at`` is the earlier of its two ends."""

    id: str
    user_agent: str | None
    ip: str | None
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime


class Sessions:
    """The sessions. One ends after ``idle`` without a request, after ``lifetime`` in any case, or when revoked."""

    def __init__(
        self,
        store: Store,
        cache: CredentialCache,
        last_use: LastUse,
        logins: Logins,
        *,
        idle: timedelta,
        lifetime: timedelta,
    ) -> None:
        self._store = store
        self._cache = cache
        self._last_use = last_use
        self._logins = logins
        self._idle = idle
        self._lifetime = lifetime

    async def login(self, account: str, password: str, *, origin: Origin = NOWHERE) -> NewSession:
        """Begin a session by password, in the person's default team. Raises what :meth:`Logins.check` raises."""
        person = await self._logins.check(account, password, origin=origin)
        return await self.create(person.user_id, origin=origin)

    async def create(self, user_id: str, *, team_id: str | None = None, origin: Origin = NOWHERE) -> NewSession:
        """Begin a session of a person who has proved who they are in another way.

        ``team_id`` None means their default team. Raises NotFound for a team that they are not in, Forbidden when the
        account is not active.
        """
        secret, csrf = _secrets()
        return await self._store.write(
            lambda connection: self._insert(connection, user_id, team_id, secret, csrf, origin)
        )

    async def switch_team(self, by: Principal, team_id: str, *, origin: Origin = NOWHERE) -> NewSession:
        """End the asking session and begin another one in the given team.

        Raises NotFound for a team that is not there, Forbidden for one that the person is not in, or when there is no
        session to switch.
        """
        session_id, user_id = by.session_id, by.user_id
        if session_id is None or user_id is None:
            raise Forbidden("only a session can switch to another team")
        secret, csrf = _secrets()

        def job(connection: Connection) -> NewSession:
            require_member(connection, team_id, user_id)
            _revoke(connection, user_id, session_id)
            note(connection, "session.revoked", ("session", session_id), None, by.actor, origin, user_id=user_id)
            return self._insert(connection, user_id, team_id, secret, csrf, origin)

        new = await self._store.write(job)
        self._cache.invalidate(f"session:{session_id}")
        return new

    async def list(self, user_id: str) -> list[SessionInfo]:
        """Return a person's live sessions, the last used first."""
        now = utcnow()
        statement = (
            select(sessions)
            .where(
                sessions.c.user_id == user_id,
                sessions.c.revoked_at.is_(None),
                sessions.c.expires_at > now,
                sessions.c.last_seen_at > now - self._idle,
            )
            .order_by(sessions.c.last_seen_at.desc(), sessions.c.id.desc())
        )
        return await self._store.read(lambda connection: [self._info(row) for row in connection.execute(statement)])

    async def revoke(self, session_id: str, *, user_id: str, by: Principal, origin: Origin = NOWHERE) -> None:
        """End one session of a person. Ending it twice is fine. Raises NotFound for one that is not theirs."""

        def job(connection: Connection) -> None:
            mine = select(sessions.c.id).where(sessions.c.id == session_id, sessions.c.user_id == user_id)
            if connection.execute(mine).first() is None:
                raise NotFound("there is no such session")
            if _revoke(connection, user_id, session_id):
                note(connection, "session.revoked", ("session", session_id), None, by.actor, origin, user_id=user_id)

        await self._store.write(job)
        self._cache.invalidate(f"session:{session_id}")

    async def revoke_all(self, user_id: str, *, by: Principal, origin: Origin = NOWHERE) -> int:
        """End all sessions and login tokens of a person and return how many sessions that were."""

        def job(connection: Connection) -> int:
            count = _revoke(connection, user_id)
            connection.execute(
                update(users).where(users.c.id == user_id).values(token_generation=users.c.token_generation + 1)
            )
            note(connection, "session.revoked", ("user", user_id), None, by.actor, origin, sessions=count)
            return count

        ended = await self._store.write(job)
        self._cache.invalidate(f"user:{user_id}")
        return ended

    def _insert(
        self, connection: Connection, user_id: str, team_id: str | None, secret: str, csrf: str, origin: Origin
    ) -> NewSession:
        person = load_person(connection, user_id, team_id)
        if person is None:
            raise NotFound("there is no such user")
        person.require_active()
        if team_id is not None and person.team_id is None:
            raise NotFound("there is no such team")
        now, session_id = utcnow(), new_id()
        expires_at = now + self._lifetime
        connection.execute(
            insert(sessions).values(
                id=session_id,
                digest=digest(secret),
                csrf_digest=digest(csrf),
                user_id=user_id,
                team_id=person.team_id,
                user_agent=origin.user_agent and origin.user_agent[:_AGENT_LENGTH],
                ip=origin.ip,
                created_at=now,
                last_seen_at=now,
                expires_at=expires_at,
            )
        )
        connection.execute(update(users).where(users.c.id == user_id).values(last_login_at=now))
        actor = f"user:{user_id}"
        note(connection, "session.created", ("session", session_id), None, actor, origin, user_id=user_id)
        return NewSession(session_id=session_id, secret=secret, csrf=csrf, expires_at=expires_at, person=person)

    def _info(self, row: Row[tuple[object, ...]]) -> SessionInfo:
        seen = max(row.last_seen_at, self._last_use.seen("session", row.id) or row.last_seen_at)
        return SessionInfo(
            id=row.id,
            user_agent=row.user_agent,
            ip=row.ip,
            created_at=row.created_at,
            last_seen_at=seen,
            expires_at=min(row.expires_at, seen + self._idle),
        )


def _secrets() -> tuple[str, str]:
    return secrets.token_urlsafe(32), secrets.token_urlsafe(32)


def _revoke(connection: Connection, user_id: str, session_id: str | None = None) -> int:
    statement = update(sessions).where(sessions.c.user_id == user_id, sessions.c.revoked_at.is_(None))
    if session_id is not None:
        statement = statement.where(sessions.c.id == session_id)
    return connection.execute(statement.values(revoked_at=utcnow())).rowcount
