"""The first account of a lab, made by the operator at the command line."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, select, update

from anvild.core.errors import Unauthenticated
from anvild.core.store import Store

from .api_keys import insert_api_key, revoke_api_keys
from .journal import note
from .passwords import Passwords
from .secret_texts import KeyStyle, new_api_key
from .tables import api_keys, users
from .teams import default_team, insert_membership, insert_team
from .users import insert_user, normal_email
from .values import NOWHERE, SYSTEM

__all__ = ["Bootstrapped", "bootstrap"]

_KEY_NAME = "bootstrap"
_STYLES: tuple[KeyStyle, KeyStyle] = ("wrn", "live")


class Bootstrapped(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator needs to begin. The keys are shown only here."""

    user_id: str
    team_id: str
    api_key: str
    live_key: str


async def bootstrap(
    store: Store, *, email: str, password: str, team: str | None = None, passwords: Passwords | None = None
) -> Bootstrapped:
    """Make the first user as platform admin and owner of a team, with an API key of either kind.

    It works on a store that no daemon has used yet and beside a running daemon. Called again with the same address it
    finds the account: the password must then be the account's. Keys cannot be shown twice, so each call makes two new
    ones named ``bootstrap`` and revokes the account's older ones of that name. ``team`` names a team that is made for
    a new account; an account that has a team keeps it.

    Raises InvalidRequest for a wrong address or password, Unauthenticated when the account has another password.
    """
    address = normal_email(email, field="email")
    passwords = passwords or Passwords()
    known = await store.read(
        lambda connection: connection.execute(
            select(users.c.password_hash).where(users.c.email == address, users.c.status != "deleted")
        ).one_or_none()
    )
    if known is not None and not await passwords.verify(known.password_hash, password):
        raise Unauthenticated(f"there is an account {address} already, and this is not its password")
    stored = await passwords.hash(password) if known is None else known.password_hash
    keys = {style: new_api_key(style) for style in _STYLES}

    def job(connection: Connection) -> Bootstrapped:
        user_id = _account(connection, address, stored)
        team_id = _team(connection, user_id, team or f"{_name(address)}'s Team")
        mine = (api_keys.c.created_by == user_id, api_keys.c.name == _KEY_NAME)
        revoke_api_keys(connection, *mine, actor=SYSTEM.actor)
        for style, plaintext in keys.items():
            insert_api_key(
                connection,
                plaintext,
                style=style,
                team_id=team_id,
                name=_KEY_NAME,
                scopes=("*",),
                created_by=user_id,
                actor=SYSTEM.actor,
            )
        return Bootstrapped(user_id=user_id, team_id=team_id, api_key=keys["wrn"], live_key=keys["live"])

    return await store.write(job)


def _name(address: str) -> str:
    return address.partition("@")[0][:80]


def _account(connection: Connection, address: str, password_hash: str) -> str:
    row = connection.execute(select(users).where(users.c.email == address, users.c.status != "deleted")).one_or_none()
    if row is None:
        user = insert_user(
            connection,
            name=_name(address),
            email=address,
            username=None,
            password_hash=password_hash,
            status="active",
            lab_role="admin",
            is_admin=True,
            actor=SYSTEM.actor,
        )
        return user.id
    if row.password_hash != password_hash:
        raise Unauthenticated(f"the password of {address} has just changed; try again")
    user_id: str = row.id
    if (row.is_admin, row.lab_role, row.status) != (True, "admin", "active"):
        values = {"is_admin": True, "lab_role": "admin", "status": "active"}
        connection.execute(update(users).where(users.c.id == user_id).values(values))
        note(connection, "user.admin_granted", ("user", user_id), None, SYSTEM.actor, NOWHERE)
    return user_id


def _team(connection: Connection, user_id: str, name: str) -> str:
    present = default_team(connection, user_id)
    if present is not None:
        return present[0].id
    team = insert_team(connection, name, actor=SYSTEM.actor)
    insert_membership(connection, team.id, user_id, "owner", actor=SYSTEM.actor)
    return team.id
