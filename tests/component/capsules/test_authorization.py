"""Who may do what: every served operation, by every kind of caller, on own, foreign and missing objects.

The cases are generated from the served document. What the document cannot say stands in ROWS: from which role on an
operation is allowed, an object of one's own for it, and what a foreign and a missing object are answered with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from sqlalchemy import select

from anvild.capsules.ids import to_wire
from anvild.core.hosts import Hosts
from anvild.core.hosts.tables import hosts
from anvild.core.identity import SYSTEM, Principal, Role
from anvild.core.identity.tables import api_keys, memberships, sessions, teams, tokens, users
from anvild.core.ids import new_id
from anvild.core.notify.tables import channels
from tests.support.capsules import Caller, Lab, lab
from tests.support.contract import BEYOND, METHODS, Document, schemes
from tests.support.wing import PASSWORD

__all__ = ["lab"]

SUBJECTS = {"auth", "me", "account", "api-keys", "users", "teams", "hosts", "channels"}
"""The tags of the operations that must have a row."""

ROLES: tuple[Role, ...] = ("member", "admin", "owner")
CALLERS = ("nowhere", *ROLES)
"""``nowhere`` has a session in no team."""

Ids = Mapping[str, str]


@dataclass(frozen=True)
class Team:
    """A team with a person in each role: their sessions in it, and what the interface calls its things."""

    callers: Mapping[str, Caller]
    ids: Ids


@dataclass(frozen=True)
class Row:
    """What is expected of one operation. ``least`` None asks for no role. ``status`` is the answer to who may, on an
    own object; ``but`` is where a caller gets another. ``foreign`` and ``missing`` answer who may otherwise."""

    least: Role | None
    status: int
    values: Callable[[Ids], Mapping[str, str]] = lambda ids: {}
    body: Callable[[Ids], Any] = lambda ids: None
    query: Mapping[str, str] = field(default_factory=dict)
    but: Mapping[str, int] = field(default_factory=dict)
    foreign: int | None = None
    missing: int | None = None


def _team(ids: Ids) -> Mapping[str, str]:
    return {"id": ids["team"]}


def _person(ids: Ids) -> Mapping[str, str]:
    return {"id": ids["own_team"], "uid": ids["other"]}


def _host(ids: Ids) -> Mapping[str, str]:
    return {"id": ids["host"]}


def _channel(ids: Ids) -> Mapping[str, str]:
    return {"id": ids["channel"]}


def _receiver(ids: Ids) -> Mapping[str, Any]:
    return {"provider": "webhook", "config": {"url": "https://127.0.0.1"}}


def _change(ids: Ids) -> Mapping[str, Any]:
    return {"name": "other", "events": ["host.up"]}


UNSEEN = {"nowhere": 404}
MANAGED = {"nowhere": 404, "member": 403}

ROWS: Mapping[str, Row] = {
    "POST /v1/auth/logout": Row(None, 204),
    "POST /v1/auth/logout-all": Row(None, 204),
    "POST /v1/auth/switch-team": Row(
        None, 200, body=lambda ids: {"team_id": ids["team"]}, but={"nowhere": 403}, foreign=403, missing=404
    ),
    "GET /v1/me/sessions": Row(None, 200),
    "DELETE /v1/me/sessions/{id}": Row(
        None, 204, values=lambda ids: {"id": ids["session"]}, but={"nowhere": 404}, foreign=404, missing=404
    ),
    "GET /v1/me": Row(None, 200),
    "PATCH /v1/me": Row(None, 204, body=lambda ids: {"name": "Other"}),
    "DELETE /v1/me": Row(None, 204, body=lambda ids: {"confirmation": ids["email"]}, but={"owner": 409}),
    "POST /v1/me/password": Row(
        None, 204, body=lambda ids: {"current_password": PASSWORD, "new_password": "something else"}
    ),
    "GET /v1/me/providers/{provider}/connect": Row(None, 404, values=lambda ids: {"provider": "github"}),
    "DELETE /v1/me/providers/{provider}": Row(None, 404, values=lambda ids: {"provider": "github"}),
    "POST /v1/api-keys": Row("member", 201, body=lambda ids: {}),
    "GET /v1/api-keys": Row("member", 200),
    "DELETE /v1/api-keys/{id}": Row("member", 204, values=lambda ids: {"id": ids["key"]}, foreign=204, missing=204),
    "GET /v1/users/search": Row(None, 200, query={"email": "nobody@"}),
    "GET /v1/teams": Row(None, 200),
    "POST /v1/teams": Row(None, 201, body=lambda ids: {"name": "New"}),
    "GET /v1/teams/{id}": Row("member", 200, values=_team, foreign=403, missing=403),
    "PATCH /v1/teams/{id}": Row("admin", 204, values=_team, body=lambda ids: {"name": "New"}, foreign=403, missing=403),
    "DELETE /v1/teams/{id}": Row("owner", 204, values=_team, foreign=403, missing=403),
    "GET /v1/teams/{id}/members": Row("member", 200, values=_team, foreign=403, missing=403),
    "POST /v1/teams/{id}/members": Row(
        "admin", 201, values=_team, body=lambda ids: {"email": ids["outsider"]}, foreign=403, missing=403
    ),
    "PATCH /v1/teams/{id}/members/{uid}": Row(
        "admin", 204, values=_person, body=lambda ids: {"role": "admin"}, foreign=404, missing=404
    ),
    "DELETE /v1/teams/{id}/members/{uid}": Row("admin", 204, values=_person, foreign=404, missing=404),
    "POST /v1/hosts": Row(
        "admin", 201, body=lambda ids: {"type": "byoc", "team_id": ids["team"]}, foreign=403, missing=403
    ),
    "GET /v1/hosts": Row(None, 200),
    "GET /v1/hosts/{id}": Row(None, 200, values=_host, but=UNSEEN, foreign=404, missing=404),
    "DELETE /v1/hosts/{id}": Row(None, 204, values=_host, but=MANAGED, foreign=404, missing=404),
    "POST /v1/hosts/{id}/token": Row(None, 201, values=_host, but=MANAGED, foreign=404, missing=404),
    "GET /v1/hosts/{id}/delete-preview": Row(None, 200, values=_host, but=MANAGED, foreign=404, missing=404),
    "GET /v1/hosts/{id}/tags": Row(None, 200, values=_host, but=UNSEEN, foreign=404, missing=404),
    "POST /v1/hosts/{id}/tags": Row(
        None, 204, values=_host, body=lambda ids: {"tag": "fast"}, but=MANAGED, foreign=404, missing=404
    ),
    "DELETE /v1/hosts/{id}/tags/{tag}": Row(
        None, 204, values=lambda ids: {**_host(ids), "tag": "fast"}, but=MANAGED, foreign=404, missing=404
    ),
    "POST /v1/channels": Row("admin", 201, body=lambda ids: {**_receiver(ids), **_change(ids)}),
    "GET /v1/channels": Row("member", 200),
    "POST /v1/channels/test": Row("admin", 400, body=_receiver),
    "GET /v1/channels/{id}": Row("member", 200, values=_channel, foreign=404, missing=404),
    "PATCH /v1/channels/{id}": Row("admin", 200, values=_channel, body=_change, foreign=404, missing=404),
    "DELETE /v1/channels/{id}": Row("admin", 204, values=_channel, foreign=204, missing=204),
    "PUT /v1/channels/{id}/config": Row("admin", 200, values=_channel, body=_receiver, foreign=404, missing=404),
    "POST /v1/teams/{id}/leave": Row("member", 204, values=_team, but={"owner": 403}, foreign=403, missing=403),
}


class World:
    """A lab in which teams with all that belongs to them are made as they are needed."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._count = 0
        self._callers: dict[str, Caller] = {name: lab.anybody() for name in CALLERS}

    async def team(self) -> Team:
        """Make a team with new people and sessions."""
        identity, made = self.lab.identity, {}
        for name in (*CALLERS, "other", "outsider"):
            self._count += 1
            made[name] = await self.lab.user(f"{name}{self._count}@example.org")
        team = await identity.teams.create("Team", owner_id=made["owner"].id, by=SYSTEM)
        for name, role in (("admin", "admin"), ("member", "member"), ("other", "member")):
            await identity.teams.add_member(team.id, made[name].id, role, by=SYSTEM)
        maker = Principal(kind="user", id=made["owner"].id, user_id=made["owner"].id, team_id=team.id, role="owner")
        key = await identity.api_keys.create(by=maker, team_id=team.id, name="key")
        await identity.teams.set_byoc(team.id, True, by=SYSTEM)
        host, _ = await self.lab.wing.services.get(Hosts).create("byoc", team_id=team.id, by=SYSTEM)
        shown = to_wire("team", team.id)
        ids = {
            "team": shown,
            "own_team": shown,
            "key": to_wire("key", key.key.id),
            "host": to_wire("host", host.id),
            "other": to_wire("usr", made["other"].id),
            "outsider": made["outsider"].email or "",
        }
        callers = {}
        for name in CALLERS:
            new = await identity.sessions.create(made[name].id)
            another = await identity.sessions.create(made[name].id)
            caller = self._callers[name]
            caller.cookies = {"wrenn_sid": new.secret, "wrenn_csrf": new.csrf}
            callers[name] = caller
            ids |= {f"session of {name}": another.session_id, f"email of {name}": made[name].email or ""}
        channel = {**_receiver(ids), "name": "channel", "events": ["host.up"]}
        ids["channel"] = (await callers["owner"]("POST", "/v1/channels", 201, json=channel))["id"]
        return Team(callers, ids)

    async def kept(self) -> bytes:
        """All that must be as it was when a call was refused."""

        def job(connection: Any) -> bytes:
            rows = []
            for table in (teams, users, memberships, api_keys, sessions, hosts, tokens, channels):
                # How far a channel has read the event log is no change that somebody made.
                columns = [each for each in table.c if not each.name.startswith("last_") and each.name != "position"]
                rows += [tuple(row) for row in connection.execute(select(*columns).order_by(*table.primary_key))]
            return msgspec.json.encode(rows)

        return await self.lab.wing.store.read(job)


def of(ids: Ids, caller: str) -> dict[str, str]:
    """The ids as one caller of the team sees them."""
    session = ids["session of member" if caller == "nowhere" else f"session of {caller}"]
    return {**ids, "session": session, "email": ids[f"email of {caller}"]}


def missing(ids: Ids) -> dict[str, str]:
    """Ids of the same form that nothing has."""
    none = new_id()
    return {
        **ids,
        "team": to_wire("team", none),
        "key": to_wire("key", none),
        "channel": to_wire("ch", none),
        "host": to_wire("host", none),
        "other": to_wire("usr", none),
        "session": none,
    }


async def served(lab: Lab) -> dict[str, Document]:
    """The operations of the contract that are served, by method and path."""
    document = await lab.anybody()("GET", "/v1/openapi.json", 200, promised=False)
    return {
        f"{method.upper()} {path}": item[method]
        for path, item in document["paths"].items()
        for method in METHODS
        if method in item and not item[method].get(BEYOND)
    }


async def call(name: str, row: Row, caller: Caller, ids: Ids, status: int, **more: Any) -> Any:
    """Call an operation on the objects that ``ids`` names."""
    method, path = name.split()
    body = {} if row.body(ids) is None else {"json": row.body(ids)}
    return await caller(
        method, path, status, promised=False, values=row.values(ids), params=dict(row.query), **body, **more
    )


async def test_every_operation_of_a_session_has_a_row(lab: Lab) -> None:
    operations = await served(lab)
    wanted = {
        name for name, each in operations.items() if SUBJECTS & set(each["tags"]) and "sessionAuth" in schemes(each)
    }
    assert wanted == ROWS.keys()


async def test_nobody_comes_in_by_another_door(lab: Lab) -> None:
    """Without a credential, with a wrong one, or with one that the operation does not take: 401. A session that
    changes something without its CSRF token: 403. All that is before the path is looked at."""
    owner = await lab.signed_in()
    key = {"X-API-Key": lab.wing.first.api_key}
    wrong: dict[str, Mapping[str, str]] = {
        "nothing": {},
        "no session": {"Cookie": "wrenn_sid=x; wrenn_csrf=x", "X-CSRF-Token": "x"},
        "no key": {"X-API-Key": "wrn_" + "0" * 32},
        "no host": {"X-Host-Token": "x.y.z"},
    }
    somebody = lab.anybody()
    asked = 0
    for name, operation in (await served(lab)).items():
        method, path = name.split()
        taken = schemes(operation)
        if not taken:
            continue
        url = path.replace("{", "").replace("}", "")
        attempts = list(wrong.values())
        if "apiKeyAuth" not in taken:
            attempts.append(key)
        if "sessionAuth" not in taken:
            attempts.append(owner.cookie_headers(method))
        for headers in attempts:
            error = await somebody(method, url, 401, promised=False, headers=headers)
            assert error["code"] == "unauthorized", name
        if "sessionAuth" in taken and method != "GET":
            cookie = {"Cookie": owner.cookie_headers("GET")["Cookie"]}
            error = await somebody(method, url, 403, promised=False, headers=cookie)
            assert error["code"] == "forbidden", name
        asked += 1
    assert asked >= len(ROWS)


@pytest.mark.parametrize("who", CALLERS)
async def test_roles(who: str, lab: Lab) -> None:
    """Who has the role may, on an own object; who has not is refused, and nothing changes."""
    world = World(lab)
    for name, row in ROWS.items():
        team = await world.team()
        allowed = row.least is None or (who != "nowhere" and ROLES.index(who) >= ROLES.index(row.least))
        status = row.but.get(who, row.status) if allowed else 403
        before = await world.kept()
        await call(name, row, team.callers[who], of(team.ids, who), status)
        if status >= 400:
            assert await world.kept() == before, f"{name} was refused to {who}, and something changed"


@pytest.mark.parametrize("who", CALLERS)
async def test_what_is_foreign_is_as_good_as_missing(who: str, lab: Lab) -> None:
    """Both are answered alike, whoever asks, and nothing changes. Changing the team alone tells them apart: its
    contract says so."""
    world = World(lab)
    for name, row in ROWS.items():
        if row.foreign is None or row.missing is None:
            continue
        other, team = await world.team(), await world.team()
        allowed = row.least is None or (who != "nowhere" and ROLES.index(who) >= ROLES.index(row.least))
        before = await world.kept()
        foreign = {**of(other.ids, who), "own_team": team.ids["own_team"]}
        answers = [
            await call(name, row, team.callers[who], ids, status if allowed else 403)
            for ids, status in ((foreign, row.foreign), (missing(foreign), row.missing))
        ]
        assert await world.kept() == before, f"{name} changed what is foreign to {who}"
        if row.foreign == row.missing:
            assert answers[0] == answers[1], f"{name} tells {who} what is foreign from what is missing"
