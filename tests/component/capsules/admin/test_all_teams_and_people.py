"""What the platform's admins do with teams and people."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select, update

from anvild.capsules.ids import from_wire, to_wire
from anvild.core.events.tables import events
from anvild.core.identity.tables import users
from tests.support.capsules import Caller, Lab
from tests.support.wing import EMAIL

TEAMS = "/v1/admin/teams"
USERS = "/v1/admin/users"


async def shown(lab: Lab, email: str) -> dict[str, str]:
    """The path's parameter for a person."""
    user = await lab.identity.users.find(email=email)
    assert user is not None
    return {"id": to_wire("usr", user.id)}


async def one(admin: Caller, path: str, id_: str) -> Any:
    (found,) = [each for each in await admin("GET", path, 200) if each["id"] == id_]
    return found


async def count_events(lab: Lab) -> int:
    return len(await lab.wing.store.read(lambda connection: connection.execute(select(events.c.id)).all()))


async def test_all_teams(lab: Lab) -> None:
    admin, stranger = await lab.signed_in(), await lab.stranger()
    await lab.member("member@example.org")
    (theirs,) = await stranger("GET", "/v1/teams", 200)
    address = {"provider": "webhook", "config": {"url": "https://127.0.0.1"}}
    await admin("POST", "/v1/channels", 201, json={**address, "name": "mail", "events": ["host.up"]})
    listed = await admin("GET", TEAMS, 200)
    assert [each["id"] for each in listed] == [theirs["id"], lab.team]  # newest first
    mine = await one(admin, TEAMS, lab.team)
    me = await lab.identity.users.find(email=EMAIL)
    assert me is not None
    del mine["slug"], mine["created_at"]
    assert mine == {
        "id": lab.team,
        "name": "Lab",
        "is_byoc": False,
        "member_count": 2,
        "active_sandbox_count": 0,
        "channel_count": 1,
        "owner_name": me.name,
        "owner_email": EMAIL,
    }
    for wanted in (True, True, False):
        await admin("PUT", f"{TEAMS}/{{id}}/byoc", 204, values={"id": lab.team}, json={"byoc": wanted})
        assert (await one(admin, TEAMS, lab.team))["is_byoc"] is wanted
    await admin("DELETE", f"{TEAMS}/{{id}}", 204, values={"id": theirs["id"]})
    assert "deleted_at" in await one(admin, TEAMS, theirs["id"])
    assert await stranger("GET", "/v1/teams", 200) == []
    await admin("DELETE", f"{TEAMS}/{{id}}", 404, promised=False, values={"id": theirs["id"]})
    await admin("PUT", f"{TEAMS}/{{id}}/byoc", 400, promised=False, values={"id": lab.team}, json={"byoc": "yes"})


async def test_all_people(lab: Lab) -> None:
    admin = await lab.signed_in()
    await lab.stranger()
    await lab.member("member@example.org")
    gone = await lab.stranger("gone@example.org")
    await gone("DELETE", "/v1/me", 204, json={"confirmation": "gone@example.org"})
    listed = await admin("GET", USERS, 200)
    told = ("email", "is_admin", "status", "teams_joined", "teams_owned")
    assert [tuple(each[name] for name in told) for each in listed] == [
        ("member@example.org", False, "active", 1, 0),
        ("stranger@example.org", False, "active", 1, 1),
        (EMAIL, True, "active", 1, 1),
    ]
    assert listed[0]["id"] == (await shown(lab, "member@example.org"))["id"]


async def test_who_is_deactivated_is_out_at_once(lab: Lab) -> None:
    admin, member = await lab.signed_in(), await lab.member("member@example.org")
    their = await shown(lab, "member@example.org")
    made = await member("POST", "/v1/api-keys", 201, json={"name": "theirs"})
    robot = lab.by_key(made["key"])
    await robot("GET", "/v1/capsules", 200)
    active = f"{USERS}/{{id}}/active"
    await admin("PUT", active, 204, values=their, json={"active": False})
    refused = await member("GET", "/v1/me", 403, promised=False)
    assert refused["code"] == "account_deactivated"
    await robot("GET", "/v1/capsules", 401, promised=False)
    assert made["id"] not in [key["id"] for key in await admin("GET", "/v1/api-keys", 200)]
    login = {"email": "member@example.org", "password": "correct horse battery"}
    refused = await lab.anybody()("POST", "/v1/auth/login", 403, promised=False, json=login)
    assert refused["code"] == "account_disabled"
    before = await count_events(lab)
    await admin("PUT", active, 204, values=their, json={"active": False})
    assert await count_events(lab) == before
    await admin("PUT", active, 204, values=their, json={"active": True})
    await member("GET", "/v1/me", 401, promised=False)
    await lab.signed_in("member@example.org")
    await robot("GET", "/v1/capsules", 401, promised=False)


async def test_nobody_shuts_out_themselves_or_the_last_admin(lab: Lab) -> None:
    admin = await lab.signed_in()
    mine = await shown(lab, EMAIL)
    refused = await admin("PUT", f"{USERS}/{{id}}/active", 400, promised=False, values=mine, json={"active": False})
    assert refused["code"] == "invalid_request"
    await admin("PUT", f"{USERS}/{{id}}/active", 204, values=mine, json={"active": True})
    refused = await admin("PUT", f"{USERS}/{{id}}/admin", 400, values=mine, json={"admin": False})
    assert refused["code"] == "invalid_request"
    before = await count_events(lab)
    await admin("PUT", f"{USERS}/{{id}}/admin", 204, values=mine, json={"admin": True})
    assert await count_events(lab) == before
    other, their = await lab.stranger(), await shown(lab, "stranger@example.org")
    await admin("PUT", f"{USERS}/{{id}}/admin", 204, values=their, json={"admin": True})
    await other("PUT", f"{USERS}/{{id}}/admin", 204, values=mine, json={"admin": False})
    await admin("GET", USERS, 403, promised=False)
    await other("PUT", f"{USERS}/{{id}}/admin", 400, values=their, json={"admin": False})
    await other("PUT", f"{USERS}/{{id}}/active", 204, values=mine, json={"active": False})


async def test_an_admins_right_is_read_for_each_request(lab: Lab) -> None:
    """Also when another daemon, of which this one has not heard yet, takes it away or gives it."""
    somebody = await lab.stranger()
    id_ = from_wire("usr", (await shown(lab, "stranger@example.org"))["id"])
    for is_admin, status in ((False, 403), (True, 200), (False, 403)):
        change = update(users).where(users.c.id == id_).values(is_admin=is_admin)
        await lab.wing.store.write(lambda connection, change=change: connection.execute(change))
        await somebody("GET", "/v1/me", 200)
        await somebody("GET", TEAMS, status, promised=False)
