"""People and teams: the rules that hold whoever asks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from anvild.core.errors import Conflict, InvalidRequest, Unauthenticated
from anvild.core.identity import Bootstrapped, Identity, Principal
from anvild.sdk import AlreadyExists, NotFound

Who = Callable[..., Awaitable[Principal]]


async def test_addresses_and_user_names_are_unique(identity: Identity, lab: Bootstrapped, admin: Principal) -> None:
    await identity.users.create(by=admin, name="Eve", username="eve")
    for fields in ({"email": " ADA@lab.example"}, {"username": "eve"}):
        with pytest.raises(AlreadyExists) as caught:
            await identity.users.create(by=admin, name="Other", **fields)
        assert caught.value.details["field"] == next(iter(fields))
    for fields in ({}, {"email": "no address"}, {"email": "@"}, {"username": ""}, {"username": "a\nb"}):
        with pytest.raises(InvalidRequest):
            await identity.users.create(by=admin, name="Other", **fields)
    with pytest.raises(InvalidRequest):
        await identity.users.create(by=admin, name=" ", username="other")


async def test_accounts_are_found_searched_and_listed(identity: Identity, lab: Bootstrapped, admin: Principal) -> None:
    bob = await identity.users.create(by=admin, name="Bob", email="bob@lab.example")
    eve = await identity.users.create(by=admin, name="Eve", username="eve", status="inactive")
    assert [user.number for user in await identity.users.list()] == [1, 2, 3]
    assert await identity.users.list(after=2) == [eve]
    assert await identity.users.find(email="BOB@lab.example") == bob
    assert await identity.users.find(username="eve") == eve
    assert await identity.users.find(username="bob") is None
    assert await identity.users.search("bob@") == [bob]
    assert await identity.users.search("b_b@") == []
    assert (await identity.users.rename(bob.id, " Robert ", by=admin)).name == "Robert"
    for missing in (lab.team_id, "no-uuid"):
        with pytest.raises(NotFound):
            await identity.users.get(missing)


async def test_the_last_admin_stays(identity: Identity, lab: Bootstrapped, admin: Principal) -> None:
    with pytest.raises(Conflict):
        await identity.users.set_admin(lab.user_id, False, by=admin)
    for status in ("disabled", "deleted"):
        with pytest.raises(Conflict):
            await identity.users.set_status(lab.user_id, status, by=admin)
    bob = await identity.users.create(by=admin, name="Bob", email="bob@lab.example")
    assert (await identity.users.set_admin(bob.id, True, by=admin)).is_admin
    assert not (await identity.users.set_admin(lab.user_id, False, by=admin)).is_admin
    with pytest.raises(Conflict):
        await identity.users.set_status(bob.id, "disabled", by=admin)


async def test_a_deleted_account_leaves_nothing_to_come_in_with(
    identity: Identity, lab: Bootstrapped, admin: Principal, who: Who
) -> None:
    bob = await identity.users.create(by=admin, name="Bob", email="bob@lab.example", username="bob")
    await identity.teams.add_member(lab.team_id, bob.id, by=admin)
    session = await identity.sessions.create(bob.id)
    me = await who(session=session.secret)
    key = await identity.api_keys.create(by=me, team_id=lab.team_id, name="bob's")
    token = await identity.personal_tokens.create(bob.id, name="phone", abilities=["*"], by=me)
    await identity.users.set_status(bob.id, "deleted", by=admin)
    for fields in (
        {"session": session.secret},
        {"api_key": key.plaintext},
        {"authorization": f"Bearer {token.plaintext}"},
    ):
        with pytest.raises(Unauthenticated):
            await who(**fields)
    with pytest.raises(NotFound):
        await identity.users.get(bob.id)
    assert len(await identity.teams.members(lab.team_id)) == 1
    again = await identity.users.create(by=admin, name="Bob", email="bob@lab.example", username="bob")
    assert again.number == bob.number + 1


async def test_members_and_roles(identity: Identity, lab: Bootstrapped, admin: Principal) -> None:
    bob = await identity.users.create(by=admin, name="Bob", email="bob@lab.example")
    await identity.teams.add_member(lab.team_id, bob.id, by=admin)
    assert await identity.teams.role_of(lab.team_id, bob.id) == "member"
    with pytest.raises(AlreadyExists):
        await identity.teams.add_member(lab.team_id, bob.id, by=admin)
    with pytest.raises(NotFound):
        await identity.teams.add_member(lab.team_id, lab.team_id, by=admin)
    await identity.teams.set_role(lab.team_id, bob.id, "admin", by=admin)
    assert [member.membership.role for member in await identity.teams.members(lab.team_id)] == ["owner", "admin"]
    with pytest.raises(Conflict):
        await identity.teams.set_role(lab.team_id, bob.id, "owner", by=admin)
    with pytest.raises(Conflict):
        await identity.teams.set_role(lab.team_id, lab.user_id, "member", by=admin)
    with pytest.raises(Conflict):
        await identity.teams.remove_member(lab.team_id, lab.user_id, by=admin)
    await identity.teams.remove_member(lab.team_id, bob.id, by=admin)
    with pytest.raises(NotFound):
        await identity.teams.remove_member(lab.team_id, bob.id, by=admin)
    assert await identity.teams.role_of(lab.team_id, bob.id) is None


async def test_teams_change_and_end(identity: Identity, lab: Bootstrapped, admin: Principal, who: Who) -> None:
    team = await identity.teams.create("Second", owner_id=lab.user_id, by=admin)
    assert [found.name for found, _ in await identity.teams.of_user(lab.user_id)] == ["Lab", "Second"]
    assert len(team.slug) == 13
    assert (await identity.teams.rename(team.id, "Ada's Team", by=admin)).slug == team.slug
    assert (await identity.teams.set_device_cap(team.id, 3, by=admin)).device_cap == 3
    with pytest.raises(InvalidRequest):
        await identity.teams.rename(team.id, "", by=admin)
    key = await identity.api_keys.create(by=admin, team_id=team.id, name="k")
    device = await identity.device_tokens.issue(await who(api_key=key.plaintext), udid="S1", platform="thing")
    await who(authorization=f"Bearer {device.token}")
    await identity.teams.delete(team.id, by=admin)
    for fields in ({"api_key": key.plaintext}, {"authorization": f"Bearer {device.token}"}):
        with pytest.raises(Unauthenticated):
            await who(**fields)
    with pytest.raises(NotFound):
        await identity.teams.get(team.id)
    assert await identity.teams.role_of(team.id, lab.user_id) is None
    assert [found.id for found, _ in await identity.teams.of_user(lab.user_id)] == [lab.team_id]
