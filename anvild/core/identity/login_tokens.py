"""Login tokens: what a program or a dashboard holds after a login, in place of a session."""

from __future__ import annotations

from sqlalchemy import Connection, update

from anvild.core.clock import utcnow
from anvild.core.store import Store

from .journal import note
from .logins import Logins
from .signing_keys import SignedToken, SigningKeys
from .tables import users
from .values import NOWHERE, Origin

__all__ = ["LoginTokens"]


class LoginTokens:
    """Issues the signed tokens that stand for a person for half a day.

    A token names the role in the lab and the generation that the person had; when either changes it is dead. So a
    changed password, a logout everywhere or a new role ends them all.
    """

    def __init__(self, store: Store, logins: Logins, signing_keys: SigningKeys) -> None:
        self._store = store
        self._logins = logins
        self._signing_keys = signing_keys

    async def login(self, account: str, password: str, *, origin: Origin = NOWHERE) -> SignedToken:
        """Return a token by password. Raises what :meth:`Logins.check` raises."""
        person = await self._logins.check(account, password, origin=origin)

        def job(connection: Connection) -> None:
            connection.execute(update(users).where(users.c.id == person.user_id).values(last_login_at=utcnow()))
            note(connection, "login_token.issued", ("user", person.user_id), None, f"user:{person.user_id}", origin)

        await self._store.write(job)
        claims = {
            "sub": person.user_id,
            "username": person.name,
            "role": person.lab_role,
            "gen": person.token_generation,
        }
        return await self._signing_keys.sign("login", claims)
