"""Teams, who is in them, their keys, and finding people."""

from __future__ import annotations

import re

import pytest

from anvild.core.errors import Unauthenticated
from anvild.core.identity import Credentials
from tests.support.capsules import Lab
from tests.support.wing import EMAIL

NOWHERE = "team-" + "0" * 25


async def id_of(lab: Lab, email: str) -> str:
    """The id that the interface shows of a person."""
    owner = await lab.signed_in()
    (found,) = await owner("GET", "/v1/users/search", 200, params={"email": email})
    user_id: str = found["user_id"]
    return user_id


async def test_a_team_is_made_renamed_and_deleted(lab: Lab) -> None:
    owner = await lab.signed_in()
    made = await owner("POST", "/v1/teams", 201, json={"name": "  The_2nd Team  "})
    assert (made["name"], made["role"]) == ("The_2nd Team", "owner")
    assert re.fullmatch(r"[0-9a-f]{6}-[0-9a-f]{6}", made["slug"])
    assert [team["id"] for team in await owner("GET", "/v1/teams", 200)] == [lab.team, made["id"]]

    me = await owner("POST", "/v1/auth/switch-team", 200, json={"team_id": made["id"]})
    assert (me["team_id"], me["role"]) == (made["id"], "owner")
    await owner("PATCH", "/v1/teams/{id}", 204, values=made, json={"name": "Ada's @home-team"})
    detail = await owner("GET", "/v1/teams/{id}", 200, values=made)
    assert detail["team"] == {key: made[key] for key in ("id", "slug", "created_at")} | {"name": "Ada's @home-team"}
    assert [(member["email"], member["role"]) for member in detail["members"]] == [(EMAIL, "owner")]

    key = (await owner("POST", "/v1/api-keys", 201, json={}))["key"]
    await owner("DELETE", "/v1/teams/{id}", 204, values=made)
    with pytest.raises(Unauthenticated):
        await lab.identity.authenticate(Credentials(api_key=key))
    assert (await owner("GET", "/v1/api-keys", 403, promised=False))["code"] == "no_team"
    await owner("GET", "/v1/teams/{id}", 403, values=made)
    assert [team["id"] for team in await owner("GET", "/v1/teams", 200)] == [lab.team]
    await owner("POST", "/v1/auth/switch-team", 404, json={"team_id": made["id"]})
    await owner("POST", "/v1/auth/switch-team", 200, json={"team_id": lab.team})


async def test_some_names_are_no_teams(lab: Lab) -> None:
    owner = await lab.signed_in()
    for name in ("", "   ", "x" * 129, "über", "a\nb", "a/b", "<b>"):
        assert (await owner("POST", "/v1/teams", 400, json={"name": name}))["code"] == "invalid_request"
        await owner("PATCH", "/v1/teams/{id}", 400, values={"id": lab.team}, json={"name": name})


async def test_a_switch_ends_the_old_session(lab: Lab) -> None:
    owner = await lab.signed_in()
    made = await owner("POST", "/v1/teams", 201, json={"name": "Second"})
    old = dict(owner.cookies)
    await owner("POST", "/v1/auth/switch-team", 200, json={"team_id": made["id"]})
    assert owner.cookies.keys() == old.keys()
    assert set(owner.cookies.values()).isdisjoint(old.values())
    before = lab.anybody()
    before.cookies = old
    await before("GET", "/v1/me", 401, promised=False)
    await owner("GET", "/v1/teams/{id}", 403, values={"id": lab.team})


async def test_one_switches_into_own_teams_only(lab: Lab) -> None:
    stranger = await lab.stranger()
    assert (await stranger("POST", "/v1/auth/switch-team", 403, json={"team_id": lab.team}))["code"] == "forbidden"
    for team_id in (NOWHERE, "team-x", "", lab.wing.first.team_id):
        error = await stranger("POST", "/v1/auth/switch-team", 404, json={"team_id": team_id})
        assert error["code"] == "not_found"
    await stranger("GET", "/v1/teams", 200)


async def test_members_come_change_and_go(lab: Lab) -> None:
    owner = await lab.signed_in()
    await lab.user("ann@example.org")
    ann_there = await lab.signed_in("ann@example.org")
    added = await owner(
        "POST", "/v1/teams/{id}/members", 201, values={"id": lab.team}, json={"email": " Ann@Example.org"}
    )
    assert (added["email"], added["role"]) == ("ann@example.org", "member")
    where = {"id": lab.team, "uid": added["user_id"]}
    error = await owner("POST", "/v1/teams/{id}/members", 400, values=where, json={"email": "ann@example.org"})
    assert error["code"] == "invalid_request"
    error = await owner("POST", "/v1/teams/{id}/members", 404, values=where, json={"email": "nobody@example.org"})
    assert error["code"] == "not_found"
    listed = await owner("GET", "/v1/teams/{id}/members", 200, values=where)
    assert [(member["email"], member["role"]) for member in listed] == [(EMAIL, "owner"), ("ann@example.org", "member")]

    me = await ann_there("POST", "/v1/auth/switch-team", 200, json={"team_id": lab.team})
    assert me["role"] == "member"
    key = (await ann_there("POST", "/v1/api-keys", 201, json={}))["key"]
    await ann_there("PATCH", "/v1/teams/{id}", 403, values=where, json={"name": "Mine"})
    await owner("PATCH", "/v1/teams/{id}/members/{uid}", 204, values=where, json={"role": "admin"})
    await ann_there("PATCH", "/v1/teams/{id}", 204, values=where, json={"name": "Ours"})
    await ann_there("DELETE", "/v1/teams/{id}", 403, values=where)

    await owner("DELETE", "/v1/teams/{id}/members/{uid}", 204, values=where)
    await ann_there("GET", "/v1/me", 401, promised=False)
    with pytest.raises(Unauthenticated):
        await lab.identity.authenticate(Credentials(api_key=key))
    for method, body in (("DELETE", None), ("PATCH", {"role": "admin"})):
        error = await owner(method, "/v1/teams/{id}/members/{uid}", 404, values=where, json=body)
        assert error["code"] == "not_found"


async def test_the_owner_stays_the_owner(lab: Lab) -> None:
    owner = await lab.signed_in()
    admin = await lab.member("ann@example.org", "admin")
    where = {"id": lab.team, "uid": await id_of(lab, EMAIL)}
    for caller in (owner, admin):
        for method, body in (("DELETE", None), ("PATCH", {"role": "member"})):
            error = await caller(method, "/v1/teams/{id}/members/{uid}", 403, values=where, json=body)
            assert error["code"] == "forbidden"
    assert (await owner("POST", "/v1/teams/{id}/leave", 403, values=where))["code"] == "forbidden"
    for role in ("owner", "boss", "", 1):
        await owner("PATCH", "/v1/teams/{id}/members/{uid}", 400, values=where, json={"role": role}, promised=False)


async def test_who_leaves_keeps_the_session_without_a_team(lab: Lab) -> None:
    ann = await lab.member("ann@example.org")
    await ann("POST", "/v1/teams/{id}/leave", 204, values={"id": lab.team})
    assert await ann("GET", "/v1/teams", 200) == []
    assert (await ann("GET", "/v1/api-keys", 403, promised=False))["code"] == "no_team"
    await ann("GET", "/v1/teams/{id}", 403, values={"id": lab.team})
    made = await ann("POST", "/v1/teams", 201, json={"name": "Own"})
    await ann("POST", "/v1/auth/switch-team", 200, json={"team_id": made["id"]})


async def test_a_key_is_shown_once_and_is_the_teams(lab: Lab) -> None:
    owner = await lab.signed_in()
    made = await owner("POST", "/v1/api-keys", 201, json={"name": " ci "})
    assert re.fullmatch(r"wrn_[0-9a-f]{32}", made["key"])
    assert made["key_prefix"] == f"{made['key'][:10]}..."
    assert (made["name"], made["team_id"]) == ("ci", lab.team)
    assert "last_used" not in made
    for body in ({}, {"name": ""}, {"name": "  "}):
        assert (await owner("POST", "/v1/api-keys", 201, json=body))["name"] == "Unnamed API Key"
    assert (await owner("POST", "/v1/api-keys", 400, json={"name": "x" * 200}, promised=False))[
        "code"
    ] == "invalid_request"

    listed = await owner("GET", "/v1/api-keys", 200)
    assert [key["name"] for key in listed[:4]] == ["Unnamed API Key"] * 3 + ["ci"]
    assert not any("key" in key for key in listed)
    principal = await lab.identity.authenticate(Credentials(api_key=made["key"]))
    assert principal is not None
    assert principal.team_id == lab.wing.first.team_id

    stranger = await lab.stranger()
    await stranger("DELETE", "/v1/api-keys/{id}", 204, values=made)
    await lab.identity.authenticate(Credentials(api_key=made["key"]))
    for _ in range(2):
        await owner("DELETE", "/v1/api-keys/{id}", 204, values=made)
        with pytest.raises(Unauthenticated):
            await lab.identity.authenticate(Credentials(api_key=made["key"]))
    for unknown in ("key-" + "0" * 25, "x", "key-", made["id"].replace("key", "cl")):
        await owner("DELETE", "/v1/api-keys/{id}", 204, values={"id": unknown})


async def test_a_key_opens_no_door_of_people(lab: Lab) -> None:
    program = lab.by_key()
    for method, path in (("GET", "/v1/me"), ("GET", "/v1/teams"), ("GET", "/v1/api-keys"), ("POST", "/v1/api-keys")):
        error = await program(method, path, 401, promised=False, json={} if method == "POST" else None)
        assert error["code"] == "unauthorized"
    owner = await lab.signed_in()
    await owner("GET", "/v1/me", 200, headers={"X-API-Key": "wrn_" + "0" * 32})


async def test_people_are_found_by_the_beginning_of_their_address(lab: Lab) -> None:
    for number in range(12):
        await lab.user(f"ann@{number:02}.example.org")
    await lab.user("ann%@example.org")
    owner = await lab.signed_in()

    async def found(email: str) -> list[str]:
        return [each["email"] for each in await owner("GET", "/v1/users/search", 200, params={"email": email})]

    assert await found("ANN@") == [f"ann@{number:02}.example.org" for number in range(10)]
    assert await found("ann@11") == ["ann@11.example.org"]
    assert await found("ann%@") == ["ann%@example.org"]
    assert await found("zoe@") == []
    for params in ({"email": "ann"}, {"email": "@a"}, {"email": ""}, {}):
        assert (await owner("GET", "/v1/users/search", 400, params=params))["code"] == "invalid_request"
