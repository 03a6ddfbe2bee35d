"""The first account: made once, found again, beside a running daemon too."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from anvild.core.errors import InvalidRequest, Unauthenticated
from anvild.core.identity import Bootstrapped, Identity, Passwords, Principal, bootstrap
from anvild.core.store import Store, open_store

Who = Callable[..., Awaitable[Principal]]
EMAIL, PASSWORD = "ada@lab.example", "correct horse"


async def test_on_a_store_that_nobody_has_used(empty_store_url: str, passwords: Passwords) -> None:
    async with open_store(empty_store_url) as store:
        first = await bootstrap(store, email=EMAIL, password=PASSWORD, passwords=passwords)
    async with open_store(empty_store_url) as store:
        again = await bootstrap(store, email=f" {EMAIL.upper()}", password=PASSWORD, passwords=passwords)
    assert (first.user_id, first.team_id) == (again.user_id, again.team_id)


async def test_the_first_user_is_admin_and_owner(identity: Identity, lab: Bootstrapped) -> None:
    user = await identity.users.get(lab.user_id)
    assert (user.email, user.is_admin, user.lab_role, user.status, user.number) == (EMAIL, True, "admin", "active", 1)
    [member] = await identity.teams.members(lab.team_id)
    assert (member.user, member.membership.role, member.membership.is_default) == (user, "owner", True)
    team = await identity.teams.get(lab.team_id)
    assert team.name == "Lab"
    session = await identity.sessions.login(EMAIL, PASSWORD)
    assert session.person.is_admin


async def test_a_second_call_makes_new_keys_and_ends_the_old_ones(
    identity: Identity, lab: Bootstrapped, store: Store, passwords: Passwords, who: Who
) -> None:
    await who(api_key=lab.api_key)
    again = await bootstrap(store, email=EMAIL, password=PASSWORD, team="Another", passwords=passwords)
    assert (again.user_id, again.team_id) == (lab.user_id, lab.team_id)
    assert again.api_key != lab.api_key
    assert (await who(api_key=again.live_key)).team_id == lab.team_id
    for old in (lab.api_key, lab.live_key):
        with pytest.raises(Unauthenticated):
            await who(api_key=old)
    assert len(await identity.teams.list()) == 1


async def test_an_account_that_lost_its_rights_gets_them_back(
    identity: Identity, lab: Bootstrapped, admin: Principal, store: Store, passwords: Passwords
) -> None:
    bob = await identity.users.create(by=admin, name="Bob", email="bob@lab.example", password=PASSWORD)
    made = await bootstrap(store, email="bob@lab.example", password=PASSWORD, passwords=passwords)
    assert made.user_id == bob.id
    assert made.team_id != lab.team_id
    now = await identity.users.get(bob.id)
    assert (now.is_admin, now.lab_role) == (True, "admin")
    [granted] = (await identity.audit.list(None, kinds=("user.admin_granted",))).events
    assert granted.subject_id == bob.id


async def test_a_wrong_password_changes_nothing(
    identity: Identity, lab: Bootstrapped, store: Store, passwords: Passwords, who: Who
) -> None:
    with pytest.raises(Unauthenticated, match=EMAIL):
        await bootstrap(store, email=EMAIL, password="wrong horse", passwords=passwords)
    for email, password in (("nobody", PASSWORD), ("eve@lab.example", "short")):
        with pytest.raises(InvalidRequest):
            await bootstrap(store, email=email, password=password, passwords=passwords)
    assert (await who(api_key=lab.api_key)).user_id == lab.user_id
