"""The audit logs, of a team and of all: who sees which entries, what is in them, page by page."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, insert

from anvild.capsules.audit import ENTRIES
from anvild.capsules.ids import to_wire
from anvild.core.clock import utcnow
from anvild.core.events import append
from anvild.core.events.tables import events
from anvild.core.identity import SYSTEM
from anvild.core.ids import new_id
from tests.support.capsules import Caller, Lab
from tests.support.wing import EMAIL

LOG = "/v1/audit-logs"
LOG_OF_ALL = "/v1/admin/audit-logs"


async def entries(caller: Caller, path: str = LOG, **query: Any) -> list[Any]:
    found: list[Any] = (await caller("GET", path, 200, params={"limit": 200, **query}))["entries"]
    return found


async def happens(lab: Lab, kind: str, *, count: int = 1, team_id: str | None = None, **data: Any) -> None:
    """Append events as other parts of the daemon do."""
    subject = (ENTRIES[kind].resource, new_id())

    def job(connection: Connection) -> None:
        for _ in range(count):
            append(connection, kind, subject=subject, team_id=team_id, audit=True, data=data)

    await lab.wing.store.write(job)


async def test_what_people_do_is_in_the_log(lab: Lab) -> None:
    """Each action on teams, keys, people, channels and hosts, done through the interface."""
    owner, ann = await lab.signed_in(), await lab.member("ann@example.org")
    person = await lab.identity.users.find(email="ann@example.org")
    assert person is not None
    at, hers = {"id": lab.team}, to_wire("usr", person.id)
    mine = {**at, "uid": hers}
    await owner("PATCH", "/v1/teams/{id}", 204, values=at, json={"name": "Renamed"})
    key = await owner("POST", "/v1/api-keys", 201, json={"name": "robot"})
    await owner("DELETE", "/v1/api-keys/{id}", 204, values={"id": key["id"]})
    await owner("PATCH", "/v1/teams/{id}/members/{uid}", 204, values=mine, json={"role": "admin"})
    await ann("POST", "/v1/teams/{id}/leave", 204, values=at)
    await owner("POST", "/v1/teams/{id}/members", 201, values=at, json={"email": "ann@example.org"})
    await owner("DELETE", "/v1/teams/{id}/members/{uid}", 204, values=mine)
    address = {"provider": "webhook", "config": {"url": "https://127.0.0.1"}}
    channel = await owner("POST", "/v1/channels", 201, json={**address, "name": "mail", "events": ["host.up"]})
    of = {"id": channel["id"]}
    await owner("PATCH", "/v1/channels/{id}", 200, values=of, json={"name": "post", "events": ["host.up"]})
    await owner("PUT", "/v1/channels/{id}/config", 200, values=of, json=address)
    await owner("DELETE", "/v1/channels/{id}", 204, values=of)
    await owner("PUT", "/v1/admin/teams/{id}/byoc", 204, values=at, json={"byoc": True})
    host = (await owner("POST", "/v1/hosts", 201, json={"type": "byoc", "team_id": lab.team}))["host"]
    await owner("DELETE", "/v1/hosts/{id}", 204, values={"id": host["id"]})
    await owner("PUT", "/v1/admin/users/{id}/admin", 204, values={"id": hers}, json={"admin": True})
    await owner("PUT", "/v1/admin/users/{id}/admin", 204, values={"id": hers}, json={"admin": False})
    await owner("PUT", "/v1/admin/users/{id}/active", 204, values={"id": hers}, json={"active": False})
    await owner("PUT", "/v1/admin/users/{id}/active", 204, values={"id": hers}, json={"active": True})
    other = await lab.stranger()
    (team,) = await other("GET", "/v1/teams", 200)
    await owner("DELETE", "/v1/admin/teams/{id}", 204, values={"id": team["id"]})
    email = {"email": "ann@example.org"}
    done = [
        ("team", "rename", lab.team, "team", {"old_name": "Lab", "new_name": "Renamed"}),
        ("api_key", "create", key["id"], "team", {"name": "robot"}),
        ("api_key", "revoke", key["id"], "team", {"name": "robot"}),
        ("member", "role_update", hers, "admin", {**email, "new_role": "admin"}),
        ("member", "leave", hers, "admin", email),
        ("member", "add", hers, "admin", {**email, "role": "member"}),
        ("member", "remove", hers, "admin", email),
        ("channel", "create", channel["id"], "team", {"name": "mail", "provider": "webhook"}),
        ("channel", "update", channel["id"], "team", {"name": "post"}),
        ("channel", "rotate_config", channel["id"], "team", {"name": "post"}),
        ("channel", "delete", channel["id"], "team", {"name": "post"}),
        ("team", "set_byoc", lab.team, "admin", {"enabled": True}),
        ("host", "create", host["id"], "admin", {}),
        ("host", "delete", host["id"], "admin", {}),
        ("user", "grant_admin", hers, "admin", email),
        ("user", "revoke_admin", hers, "admin", email),
        ("user", "deactivate", hers, "admin", email),
        ("user", "activate", hers, "admin", email),
        ("team", "delete", team["id"], "admin", {"name": team["name"]}),
    ]
    platforms = {(entry.resource, entry.action) for entry in ENTRIES.values() if entry.platform}
    teams = [each for each in done if each[:2] not in platforms]
    assert len(teams) == 13
    assert shape(await entries(owner))[-len(teams) :] == teams
    told = [each for each in shape(await entries(owner, LOG_OF_ALL)) if each in done]
    assert told[-len(done) :] == done
    me = await lab.identity.users.find(email=EMAIL)
    assert me is not None
    for each in await entries(owner, resource_type="channel"):
        assert (each["actor_type"], each["actor_id"], each["actor_name"]) == ("user", to_wire("usr", me.id), me.name)
        assert each["status"] == "success"


def shape(found: list[Any]) -> list[Any]:
    """What entries say, oldest first."""
    names = ("resource_type", "action", "resource_id", "scope")
    return [(*(each[name] for name in names), each.get("metadata", {})) for each in reversed(found)]


async def test_who_sees_what(lab: Lab) -> None:
    """Members see what all may see, owners and admins all of their team, the platform's admins everything."""
    platform = await lab.signed_in()
    admin, member = await lab.member("admin@example.org", "admin"), await lab.member("member@example.org")
    stranger = await lab.stranger()
    for kind in ENTRIES:
        for team in (lab.wing.first.team_id, None):
            await happens(lab, kind, team_id=team, sign="made up")

    async def kinds(caller: Caller, path: str = LOG) -> set[tuple[str, str]]:
        return {(each["resource_type"], each["action"]) for each in await entries(caller, path)}

    everything = {(entry.resource, entry.action) for entry in ENTRIES.values()}
    of_team = {(entry.resource, entry.action) for entry in ENTRIES.values() if not entry.platform}
    of_members = {(entry.resource, entry.action) for entry in ENTRIES.values() if entry.scope == "team"}
    assert await kinds(platform, LOG_OF_ALL) == everything
    assert await kinds(admin) == await kinds(platform) == of_team
    assert await kinds(member) == of_members
    assert await kinds(stranger) == {("member", "add")}  # of their own team, whose owner they are
    assert {each["scope"] for each in await entries(member)} == {"team"}


async def test_who_did_it_and_how_it_ended(lab: Lab) -> None:
    owner = await lab.signed_in()
    team_id, host = lab.wing.first.team_id, new_id()
    (key,) = [each for each in await lab.identity.api_keys.list(team_id) if each.prefix.startswith("wrn_")]
    me = await lab.identity.users.find(email=EMAIL)
    assert me is not None
    token = await lab.identity.personal_tokens.create(me.id, name="laptop", abilities=("*",), by=SYSTEM)
    actors = [f"api_key:{key.id}", f"host:{host}", f"token:{token.token.id}", "system", "automation:automation"]

    def job(connection: Connection) -> None:
        for actor in actors:
            capsule = ("capsule", new_id())
            data = {"template": "minimal", "outcome": "error", "error": "no room", "capsule": {"much": "more"}}
            append(connection, "capsule.create", subject=capsule, team_id=team_id, actor=actor, data=data, audit=True)
        append(connection, "host.down", subject=("host", host), team_id=team_id, data={"reason": "silent"}, audit=True)

    await lab.wing.store.write(job)
    down, *created = await entries(owner, resource_type="sandbox,host", action="create,marked_down")
    assert (down["status"], down["metadata"], down["resource_id"]) == (
        "failure",
        {"reason": "silent"},
        to_wire("host", host),
    )
    assert [(each["actor_type"], each.get("actor_id"), each.get("actor_name")) for each in reversed(created)] == [
        ("api_key", to_wire("key", key.id), key.name),
        ("host", to_wire("host", host), None),
        ("user", to_wire("usr", me.id), me.name),
        ("system", None, None),
        ("system", None, None),
    ]
    for each in created:
        assert (each["status"], each["metadata"]) == ("failure", {"template": "minimal", "error": "no room"})


async def test_pages_of_both_logs(lab: Lab) -> None:
    """Page by page by the cursor of each answer, or by the last entry of a page, while others go on writing."""
    owner, team_id = await lab.signed_in(), lab.wing.first.team_id
    await happens(lab, "channel.updated", count=9, team_id=team_id)
    for path in (LOG, LOG_OF_ALL):
        there = [each["id"] for each in await entries(owner, path)]
        for by_cursor in (True, False):
            seen: list[str] = []
            query: dict[str, Any] = {}
            while True:
                page = await owner("GET", path, 200, params={"limit": 2, **query})
                found, cursor = page["entries"], page["next_cursor"]
                seen += [each["id"] for each in found if each["id"] in there]
                await happens(lab, "channel.updated", team_id=team_id)
                if cursor is None:
                    break
                last = {"before": found[-1]["created_at"], "before_id": found[-1]["id"]}
                assert cursor == last
                query = cursor if by_cursor else last
            assert seen == there


async def test_what_is_asked_for(lab: Lab) -> None:
    owner, team_id = await lab.signed_in(), lab.wing.first.team_id
    row = {"at": utcnow(), "kind": "team.renamed", "subject_type": "team", "subject_id": team_id, "team_id": team_id}
    rows = [{**row, "actor": "system", "data": {}, "audit": True}] * 210
    await lab.wing.store.write(lambda connection: connection.execute(insert(events), rows))
    assert len((await owner("GET", LOG, 200))["entries"]) == 50
    assert len((await owner("GET", LOG, 200, params={"limit": 1000}))["entries"]) == 200
    newest, *_ = await entries(owner)
    assert await entries(owner, before=newest["created_at"]) != []
    assert newest["id"] not in [each["id"] for each in await entries(owner, before=newest["created_at"])]
    alone = await entries(owner, before_id=newest["id"])
    assert alone[0] == newest  # an id without a time says nothing
    for query in ({"action": "no-such"}, {"resource_type": "team", "action": "create"}):
        assert await owner("GET", LOG, 200, params=query) == {"entries": [], "next_cursor": None}
    several = await entries(owner, resource_type=["member", "api_key"], action="add,create")
    assert {(each["resource_type"], each["action"]) for each in several} == {("member", "add"), ("api_key", "create")}
    time = newest["created_at"]
    for query in (
        {"before": "yesterday"},
        {"before": "2026-01-01T00:00:00"},
        {"before": time, "before_id": "x"},
        {"before": time, "before_id": to_wire("log", new_id())},
        {"before": time, "before_id": newest["id"].replace("log", "key")},
        {"limit": 0},
        {"limit": "many"},
    ):
        refused = await owner("GET", LOG, 400, promised=False, params=query)
        assert refused["code"] == "invalid_request"
