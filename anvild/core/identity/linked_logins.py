"""Accounts of other services with which people log in here."""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, select

from anvild.core.clock import utcnow
from anvild.core.errors import Conflict
from anvild.core.store import Store
from anvild.sdk import NotFound

from .accounts import begin, make_room
from .journal import note
from .tables import linked_logins
from .users import checked_name, insert_user, load_user, normal_email
from .values import NOWHERE, Origin, Principal, User

__all__ = ["LinkedLogins"]


class LinkedLogins:
    """Who may come in because another service, the *provider*, says who they are. It knows a person as a *subject*.

    The service's word is proved elsewhere; here is only kept whom it means. A person has one subject a provider.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def find(self, provider: str, subject: str) -> User | None:
        """Return whose subject this is; None when it is nobody's."""
        return await self._store.read(lambda connection: _find(connection, provider, subject))

    async def of_user(self, user_id: str) -> list[str]:
        """Return the providers that a person can log in by, by name."""
        statement = select(linked_logins.c.provider).where(linked_logins.c.user_id == user_id).order_by("provider")
        return await self._store.read(lambda connection: list(connection.execute(statement).scalars()))

    async def sign_up(self, provider: str, subject: str, *, email: str, name: str, origin: Origin = NOWHERE) -> User:
        """Make an active account without a password, for an address that the provider has checked.

        Raises InvalidRequest, and Conflict, ``email_taken`` or ``already_linked``.
        """
        address, shown = normal_email(email), checked_name(name)

        def job(connection: Connection) -> User:
            make_room(connection, address, proved=True, origin=origin)
            user = insert_user(
                connection,
                name=shown,
                email=address,
                username=None,
                password_hash=None,
                status="active",
                lab_role="viewer",
                is_admin=False,
                actor="system",
                origin=origin,
            )
            actor = f"user:{user.id}"
            _link(connection, user, provider, subject, actor, origin)
            return begin(connection, user.id, actor=actor, origin=origin)

        return await self._store.write(job)

    async def link(self, user_id: str, provider: str, subject: str, *, origin: Origin = NOWHERE) -> None:
        """Let a person come in by a provider too, in place of another subject there.

        Raises NotFound, and Conflict, ``already_linked``, for somebody else's subject.
        """
        await self._store.write(
            lambda connection: _link(
                connection, load_user(connection, user_id), provider, subject, f"user:{user_id}", origin
            )
        )

    async def unlink(self, user_id: str, provider: str, *, by: Principal, origin: Origin = NOWHERE) -> None:
        """Let a person no longer come in by a provider.

        Raises NotFound, and Conflict, ``last_login_method``, when they could then not come in at all.
        """

        def job(connection: Connection) -> None:
            user = load_user(connection, user_id)
            mine = linked_logins.c.user_id == user_id
            providers = list(connection.execute(select(linked_logins.c.provider).where(mine)).scalars())
            if provider not in providers:
                raise NotFound("this provider is not connected")
            if len(providers) == 1 and not user.has_password:
                raise Conflict("this is your only way to log in; set a password first", reason="last_login_method")
            connection.execute(delete(linked_logins).where(mine, linked_logins.c.provider == provider))
            note(connection, "user.login_unlinked", ("user", user_id), None, by.actor, origin, provider=provider)

        await self._store.write(job)


def _find(connection: Connection, provider: str, subject: str) -> User | None:
    statement = select(linked_logins.c.user_id).where(
        linked_logins.c.provider == provider, linked_logins.c.subject == subject
    )
    user_id = connection.execute(statement).scalar_one_or_none()
    return None if user_id is None else load_user(connection, user_id)


def _link(connection: Connection, user: User, provider: str, subject: str, actor: str, origin: Origin) -> None:
    present = _find(connection, provider, subject)
    if present is not None and present.id != user.id:
        raise Conflict("this account there is another person's way in", reason="already_linked")
    mine = (linked_logins.c.user_id == user.id, linked_logins.c.provider == provider)
    connection.execute(delete(linked_logins).where(*mine))
    connection.execute(
        insert(linked_logins).values(user_id=user.id, provider=provider, subject=subject, created_at=utcnow())
    )
    note(connection, "user.login_linked", ("user", user.id), None, actor, origin, provider=provider)
