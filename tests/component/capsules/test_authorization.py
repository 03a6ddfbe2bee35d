"""Who may do what: every served operation, by every kind of caller, on own, foreign and missing objects.

The cases are generated from the served document, which says what credentials an operation takes, what its body is and
whether it is a stream. What it cannot say stands in ROWS: from which role on an operation is allowed, an object of
one's own for it, and what a foreign and a missing object are answered with. An operation without a row is a failure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from anvild.capsules.ids import to_wire
from anvild.core.identity import Role
from anvild.core.ids import new_id
from tests.support.capsules import Lab, lab
from tests.support.contract import BEYOND, METHODS, Document, example_request, schemes
from tests.support.teams import CALLERS, RECEIVER, ROLES, Ids, Team, World, as_seen_by, missing
from tests.support.wing import PASSWORD

__all__ = ["lab"]

UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@dataclass(frozen=True)
class Row:
    """What is expected of one operation.

    ``least`` is the role in a team from which on it is allowed; None asks for no role, and ``platform`` is for the
    platform's admins alone, in whatever team. ``status`` is the answer to who may, on an own object; ``but`` is where a
    caller gets another. ``foreign`` and ``missing`` answer who may otherwise. With ``spans`` what is another team's is
    the platform's admins' as well.
    """

    least: Role | Literal["platform"] | None
    status: int
    values: Callable[[Ids], Mapping[str, str]] = lambda ids: {}
    body: Callable[[Ids], Any] = lambda ids: None
    query: Mapping[str, str] = field(default_factory=dict)
    but: Mapping[str, int] = field(default_factory=dict)
    foreign: int | None = None
    missing: int | None = None
    spans: bool = False

    def allows(self, who: str) -> bool:
        """Whether a caller has the role, in the team that they are in. A key has that of an admin."""
        if self.least is None or self.least == "platform":
            return self.least is None or who == "platform"
        rank = {"platform": "owner", "key": "admin"}.get(who, who)
        return who != "nowhere" and [*ROLES].index(rank) >= ROLES.index(self.least)  # type: ignore[arg-type]


def _team(ids: Ids) -> Mapping[str, str]:
    return {"id": ids["team"]}


def _person(ids: Ids) -> Mapping[str, str]:
    return {"id": ids["own_team"], "uid": ids["other"]}


def _user(ids: Ids) -> Mapping[str, str]:
    return {"id": ids["other"]}


def _host(ids: Ids) -> Mapping[str, str]:
    return {"id": ids["host"]}


def _channel(ids: Ids) -> Mapping[str, str]:
    return {"id": ids["channel"]}


def _receiver(ids: Ids) -> Mapping[str, Any]:
    return RECEIVER


def _change(ids: Ids) -> Mapping[str, Any]:
    return {"name": "other", "events": ["host.up"]}


def _capsule(ids: Ids) -> Mapping[str, str]:
    return {"id": ids["capsule"], "selector": "1"}


def _template(ids: Ids) -> Mapping[str, str]:
    return {"name": ids["template"]}


def _no_build(ids: Ids) -> Mapping[str, str]:
    return {"id": to_wire("bld", new_id())}


def on_capsule(status: int, **more: Any) -> Row:
    """What a team does with its capsules, which are paused here: what needs one that runs is a conflict."""
    return Row("member", status, values=_capsule, foreign=404, missing=404, **more)


def for_admins(status: int, **more: Any) -> Row:
    """What the platform's admins do, with the objects of all teams."""
    return Row("platform", status, **more)


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
        None,
        204,
        values=lambda ids: {"id": ids["session"]},
        but={"nowhere": 404, "platform": 204},
        foreign=404,
        missing=404,
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
        "admin", 201, body=lambda ids: {"type": "byoc", "team_id": ids["team"]}, foreign=403, missing=403, spans=True
    ),
    "GET /v1/hosts": Row(None, 200, spans=True),
    "GET /v1/hosts/{id}": Row(None, 200, values=_host, but=UNSEEN, foreign=404, missing=404, spans=True),
    "DELETE /v1/hosts/{id}": Row(None, 204, values=_host, but=MANAGED, foreign=404, missing=404, spans=True),
    "POST /v1/hosts/{id}/token": Row(None, 201, values=_host, but=MANAGED, foreign=404, missing=404, spans=True),
    "GET /v1/hosts/{id}/delete-preview": Row(
        None, 200, values=_host, but=MANAGED, foreign=404, missing=404, spans=True
    ),
    "GET /v1/hosts/{id}/tags": Row(None, 200, values=_host, but=UNSEEN, foreign=404, missing=404, spans=True),
    "POST /v1/hosts/{id}/tags": Row(
        None, 204, values=_host, body=lambda ids: {"tag": "fast"}, but=MANAGED, foreign=404, missing=404, spans=True
    ),
    "DELETE /v1/hosts/{id}/tags/{tag}": Row(
        None, 204, values=lambda ids: {**_host(ids), "tag": "fast"}, but=MANAGED, foreign=404, missing=404, spans=True
    ),
    "POST /v1/channels": Row("admin", 201, body=lambda ids: {**_receiver(ids), **_change(ids)}),
    "GET /v1/channels": Row("member", 200),
    "POST /v1/channels/test": Row("admin", 400, body=_receiver),
    "GET /v1/channels/{id}": Row("member", 200, values=_channel, foreign=404, missing=404),
    "PATCH /v1/channels/{id}": Row("admin", 200, values=_channel, body=_change, foreign=404, missing=404),
    "DELETE /v1/channels/{id}": Row("admin", 204, values=_channel, foreign=204, missing=204),
    "PUT /v1/channels/{id}/config": Row("admin", 200, values=_channel, body=_receiver, foreign=404, missing=404),
    "POST /v1/teams/{id}/leave": Row("member", 204, values=_team, but={"owner": 403}, foreign=403, missing=403),
    "GET /v1/audit-logs": Row("member", 200),
    "GET /v1/events/stream": Row("member", 200),
    "POST /v1/capsules": Row("member", 404),
    "GET /v1/capsules": Row("member", 200),
    "GET /v1/capsules/stats": Row("member", 200),
    "GET /v1/capsules/usage": Row("member", 200),
    "GET /v1/capsules/{id}": on_capsule(200),
    "DELETE /v1/capsules/{id}": on_capsule(202),
    "POST /v1/capsules/{id}/pause": on_capsule(501),
    "POST /v1/capsules/{id}/resume": on_capsule(202),
    "POST /v1/capsules/{id}/ping": on_capsule(409),
    "GET /v1/capsules/{id}/metrics": on_capsule(200),
    "POST /v1/capsules/{id}/exec": on_capsule(409),
    "GET /v1/capsules/{id}/exec/stream": on_capsule(409),
    "GET /v1/capsules/{id}/pty": on_capsule(409),
    "GET /v1/capsules/{id}/processes": on_capsule(409),
    "DELETE /v1/capsules/{id}/processes/{selector}": on_capsule(409),
    "GET /v1/capsules/{id}/processes/{selector}/stream": on_capsule(409),
    "POST /v1/capsules/{id}/files/write": on_capsule(409),
    "POST /v1/capsules/{id}/files/stream/write": on_capsule(409),
    "POST /v1/capsules/{id}/files/read": on_capsule(409),
    "POST /v1/capsules/{id}/files/stream/read": on_capsule(409),
    "POST /v1/capsules/{id}/files/list": on_capsule(409),
    "POST /v1/capsules/{id}/files/mkdir": on_capsule(409),
    "POST /v1/capsules/{id}/files/remove": on_capsule(409),
    "POST /v1/snapshots": Row("member", 409, body=lambda ids: {"sandbox_id": ids["capsule"]}, foreign=404, missing=404),
    "GET /v1/snapshots": Row("member", 200),
    "DELETE /v1/snapshots/{name}": Row("member", 204, values=_template, foreign=404, missing=404),
    "GET /v1/admin/audit-logs": for_admins(200),
    "GET /v1/admin/events/stream": for_admins(200),
    "GET /v1/admin/teams": for_admins(200),
    "PUT /v1/admin/teams/{id}/byoc": for_admins(204, values=_team, body=lambda ids: {"byoc": False}, missing=404),
    "DELETE /v1/admin/teams/{id}": for_admins(204, values=_team, missing=404),
    "GET /v1/admin/users": for_admins(200),
    "PUT /v1/admin/users/{id}/active": for_admins(204, values=_user, body=lambda ids: {"active": False}, missing=404),
    "PUT /v1/admin/users/{id}/admin": for_admins(204, values=_user, body=lambda ids: {"admin": True}, missing=404),
    "GET /v1/admin/templates": for_admins(200),
    "DELETE /v1/admin/templates/{name}": for_admins(204, values=_template, missing=404),
    "POST /v1/admin/builds": for_admins(400, body=lambda ids: {}),
    "GET /v1/admin/builds": for_admins(200),
    "GET /v1/admin/builds/{id}": for_admins(404, values=_no_build),
    "POST /v1/admin/builds/{id}/cancel": for_admins(404, values=_no_build),
    "POST /v1/admin/capsules": for_admins(404),
    "GET /v1/admin/capsules": for_admins(200),
    "GET /v1/admin/capsules/{id}": for_admins(200, values=_capsule, missing=404),
    "DELETE /v1/admin/capsules/{id}": for_admins(204, values=_capsule, missing=404),
    "POST /v1/admin/capsules/{id}/snapshot": for_admins(409, values=_capsule, missing=404),
    "GET /v1/admin/capsules/{id}/metrics": for_admins(200, values=_capsule, missing=404),
    "POST /v1/admin/capsules/{id}/exec": for_admins(409, values=_capsule, missing=404),
    "GET /v1/admin/capsules/{id}/exec/stream": for_admins(409, values=_capsule, missing=404),
    "GET /v1/admin/capsules/{id}/pty": for_admins(409, values=_capsule, missing=404),
    "GET /v1/admin/capsules/{id}/processes": for_admins(409, values=_capsule, missing=404),
    "DELETE /v1/admin/capsules/{id}/processes/{selector}": for_admins(409, values=_capsule, missing=404),
    "GET /v1/admin/capsules/{id}/processes/{selector}/stream": for_admins(409, values=_capsule, missing=404),
    "POST /v1/admin/capsules/{id}/files/write": for_admins(409, values=_capsule, missing=404),
    "POST /v1/admin/capsules/{id}/files/read": for_admins(409, values=_capsule, missing=404),
    "POST /v1/admin/capsules/{id}/files/list": for_admins(409, values=_capsule, missing=404),
    "POST /v1/admin/capsules/{id}/files/mkdir": for_admins(409, values=_capsule, missing=404),
    "POST /v1/admin/capsules/{id}/files/remove": for_admins(409, values=_capsule, missing=404),
}


class Matrix:
    """The served operations, and calls of them."""

    def __init__(self, lab: Lab, document: Document) -> None:
        self.world = World(lab)
        self._document = document
        self.operations: dict[str, Document] = {
            f"{method.upper()} {path}": item[method]
            for path, item in document["paths"].items()
            for method in METHODS
            if method in item and not item[method].get(BEYOND)
        }

    @classmethod
    async def of(cls, lab: Lab) -> Matrix:
        """Read the document."""
        return cls(lab, await lab.anybody()("GET", "/v1/openapi.json", 200, promised=False))

    def takes(self, name: str, who: str) -> bool:
        """Whether an operation takes the credential of a caller."""
        return ("apiKeyAuth" if who == "key" else "sessionAuth") in schemes(self.operations[name])

    async def call(self, name: str, who: str, team: Team, ids: Ids, status: int) -> Any:
        """Call an operation on the objects that ``ids`` names. Returns what it says; nothing of a stream."""
        row, operation, caller = ROWS[name], self.operations[name], team.callers[who]
        method, path = name.split()
        body = row.body(ids)
        request = example_request(self._document, operation) if body is None else {"json": body}
        if "text/event-stream" in operation["responses"].get("200", {}).get("content", {}):
            url, headers = path.format_map(row.values(ids)), caller.credentials(method)
            async with caller.client.stream(method, url, headers=headers) as answer:
                assert answer.status_code == status, f"{name} answered {who} {answer.status_code}"
            return None
        headers = UPGRADE if "101" in operation["responses"] else {}
        return await caller(
            method,
            path,
            status,
            promised=False,
            values=row.values(ids),
            params=dict(row.query),
            headers=headers,
            **request,
        )


async def test_every_operation_has_a_row(lab: Lab) -> None:
    operations = (await Matrix.of(lab)).operations
    assert {name for name, each in operations.items() if schemes(each) - {"hostTokenAuth"}} == ROWS.keys()


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
    for name, operation in (await Matrix.of(lab)).operations.items():
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
    matrix = await Matrix.of(lab)
    world = matrix.world
    team, before = None, b""
    for name, row in ROWS.items():
        if not matrix.takes(name, who):
            continue
        if team is None:
            team = await world.team()
            before = await world.kept(team)
        if not row.allows(who):
            status = 403
        elif who in row.but:
            status = row.but[who]
        elif who == "platform" and not row.spans and row.foreign is not None:
            status = row.foreign  # its own team is another one
        else:
            status = row.status
        await matrix.call(name, who, team, as_seen_by(who, team.ids), status)
        if status >= 400:
            assert await world.kept(team) == before, f"{name} was refused to {who}, and something changed"
        elif not name.startswith("GET"):
            team = None


@pytest.mark.parametrize("who", CALLERS)
async def test_what_is_foreign_is_as_good_as_missing(who: str, lab: Lab) -> None:
    """Both are answered alike, whoever asks, and nothing changes; lists do not show it. Changing the team alone tells
    them apart: its contract says so. To the platform's admins nothing is foreign where they may."""
    matrix = await Matrix.of(lab)
    world = matrix.world
    other, team = await world.team(), await world.team()
    foreign = {**as_seen_by(who, other.ids), "own_team": as_seen_by(who, team.ids)["own_team"]}
    before = await world.kept(other, team)
    for name, row in ROWS.items():
        if not matrix.takes(name, who):
            continue
        across = who == "platform" and (row.spans or row.least == "platform")
        if across and row.missing != 404:
            continue
        if row.missing is not None:
            status = row.missing if row.allows(who) else 403
            nothing = await matrix.call(name, who, team, missing(foreign), status)
            if row.foreign is not None and not across:
                something = await matrix.call(name, who, team, foreign, row.foreign if row.allows(who) else 403)
                if row.foreign == row.missing:
                    told = json.dumps(something).replace(foreign["template"], missing(foreign)["template"])
                    assert json.loads(told) == nothing, f"{name} tells {who} what is foreign from what is missing"
        elif name.startswith("GET") and "{" not in name and row.allows(who) and not across:
            shown = json.dumps(await matrix.call(name, who, team, team.ids, row.but.get(who, row.status)))
            assert not [kind for kind, id_ in other.ids.items() if id_ in shown], f"{name} shows {who} what is foreign"
    assert await world.kept(other, team) == before, f"something has changed that is foreign to {who}"
