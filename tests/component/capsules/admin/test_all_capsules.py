"""What the platform's admins do with the capsules of all teams, with namespace sandboxes."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from anvild.capsules.ids import to_wire
from anvild.core.ids import new_id
from tests.support.capsules import Caller, Lab
from tests.support.contract import Document
from tests.support.events import listening
from tests.support.sandboxes import reaches
from tests.support.sockets import open_socket

ALL = "/v1/admin/capsules"
ONE = f"{ALL}/{{id}}"
FILES = f"{ONE}/files"
TEMPLATES = "/v1/admin/templates"
LOG = "/v1/admin/audit-logs"


@asynccontextmanager
async def socket_to(lab: Lab, caller: Caller, path: str) -> AsyncIterator[WebSocketConnection]:
    headers = [*caller.credentials("GET").items()]
    async with open_socket(lab.wing.url.replace("http", "ws") + path, extra_headers=headers) as socket:
        yield socket


async def told(socket: WebSocketConnection, last: str) -> list[Any]:
    """The messages up to the first one of a type."""
    found: list[Any] = []
    with trio.fail_after(60):
        while not found or found[-1]["type"] != last:
            found.append(json.loads(await socket.get_message()))
    return found


async def close_code(socket: WebSocketConnection) -> int:
    """Read until the other side closes, and return why."""
    with suppress(ConnectionClosed):
        while True:
            await socket.get_message()
    assert socket.closed is not None
    return int(socket.closed.code)


async def test_a_capsule_of_a_team_is_an_admins_too(api: Caller, capsule: str, sandboxes: Lab) -> None:
    admin = await sandboxes.signed_in()
    at = {"id": capsule}
    assert (await admin("GET", ONE, 200, values=at))["status"] == "running"
    done = await admin("POST", f"{ONE}/exec", 200, values=at, json={"cmd": "echo", "args": ["hello"]})
    assert done["stdout"] == "hello\n"
    form = {"path": (None, "/tmp/there/file"), "file": ("file", b"content")}
    await admin("POST", f"{FILES}/write", 204, values=at, files=form)
    listed = await admin("POST", f"{FILES}/list", 200, values=at, json={"path": "/tmp/there"})
    assert [entry["path"] for entry in listed["entries"]] == ["/tmp/there/file"]
    read = await admin.client.post(
        f"{FILES}/read".format_map(at), headers=admin.credentials("POST"), json={"path": "/tmp/there/file"}
    )
    assert (read.status_code, read.content) == (200, b"content")
    made = await admin("POST", f"{FILES}/mkdir", 200, values=at, json={"path": "/tmp/new"})
    assert made["entry"]["type"] == "directory"
    await admin("POST", f"{FILES}/remove", 204, values=at, json={"path": "/tmp/new"})
    metrics = await admin("GET", f"{ONE}/metrics", 200, values=at)
    assert metrics["sandbox_id"] == capsule
    assert [each["id"] for each in await admin("GET", ALL, 200)] == [capsule]
    await admin("DELETE", ONE, 204, values=at)
    await admin("DELETE", ONE, 204, values=at)
    await reaches(admin, capsule, "stopped", path=ONE)
    assert await admin("GET", ALL, 200) == []
    await admin("GET", ONE, 404, promised=False, values={"id": to_wire("cl", new_id())})


async def test_programs_and_terminals_of_a_capsule_of_a_team(capsule: str, sandboxes: Lab) -> None:
    admin = await sandboxes.signed_in()
    at = {"id": capsule}
    sleep = {"cmd": "sleep", "args": ["600"], "background": True, "tag": "nap"}
    started = await admin("POST", f"{ONE}/exec", 202, values=at, json=sleep)
    listed = await admin("GET", f"{ONE}/processes", 200, values=at)
    assert (started["pid"], "nap") in [(each["pid"], each.get("tag")) for each in listed["processes"]]
    async with socket_to(sandboxes, admin, f"{ALL}/{capsule}/processes/nap/stream") as socket:
        assert (await told(socket, "start"))[0]["pid"] == started["pid"]
        await admin("DELETE", f"{ONE}/processes/{{selector}}", 204, values={**at, "selector": "nap"})
        assert (await told(socket, "exit"))[-1]["exit_code"] == -1
    async with socket_to(sandboxes, admin, f"{ALL}/{capsule}/exec/stream") as socket:
        await socket.send_message(json.dumps({"type": "start", "cmd": "echo", "args": ["streamed"]}))
        assert {"type": "stdout", "data": "streamed\n"} in await told(socket, "exit")
    async with socket_to(sandboxes, admin, f"{ALL}/{capsule}/pty") as socket:
        await socket.send_message(json.dumps({"type": "start", "cmd": "echo", "args": ["in a terminal"]}))
        messages = await told(socket, "exit")
    shown = b"".join(base64.b64decode(each["data"]) for each in messages if each["type"] == "output")
    assert shown == b"in a terminal\r\n"


async def test_a_terminal_closes_when_its_right_is_gone(
    capsule: str, sandboxes: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anvild.capsules.routes.views.RECHECK_SECONDS", 0.05)
    admin, other = await sandboxes.signed_in(), await sandboxes.stranger()
    user = await sandboxes.identity.users.find(email="stranger@example.org")
    assert user is not None
    right = ("PUT", "/v1/admin/users/{id}/admin", 204)
    theirs = {"id": to_wire("usr", user.id)}
    await admin(*right, values=theirs, json={"admin": True})
    with trio.fail_after(60):
        async with socket_to(sandboxes, other, f"{ALL}/{capsule}/pty") as socket:
            await socket.send_message(json.dumps({"type": "start", "cmd": "cat"}))
            await told(socket, "started")
            await admin(*right, values=theirs, json={"admin": False})
            assert await close_code(socket) == 1008


async def test_a_capsule_of_the_platform_is_no_teams(api: Caller, make: Any, sandboxes: Lab) -> None:
    admin, theirs = await sandboxes.signed_in(), await make()
    mine = await admin("POST", ALL, 201, json={"template": "host"})
    await reaches(admin, mine["id"], "running", path=ONE)
    assert [each["id"] for each in await admin("GET", ALL, 200)] == [mine["id"], theirs]
    assert [each["id"] for each in await api("GET", "/v1/capsules", 200)] == [theirs]
    await api("GET", "/v1/capsules/{id}", 404, promised=False, values={"id": mine["id"]})
    assert mine["template"] == "host"
    await admin("POST", ALL, 404, promised=False, json={"template": "no-such"})
    await admin("DELETE", ONE, 204, values={"id": mine["id"]})
    await reaches(admin, mine["id"], "stopped", path=ONE)


async def test_a_template_for_all_teams_is_made_of_any_capsule(api: Caller, capsule: str, sandboxes: Lab) -> None:
    admin, at = await sandboxes.signed_in(), {"id": capsule}
    await admin("POST", f"{ONE}/snapshot", 201, values=at, json={"name": "common"})
    again = await admin("POST", f"{ONE}/snapshot", 201, values=at, json={"name": "common"})
    assert (again["name"], again["platform"]) == ("common", True)
    assert [(each["name"], each["platform"]) for each in await api("GET", "/v1/snapshots", 200)] == [
        ("common", True),
        ("host", True),
    ]
    stranger = await sandboxes.stranger()
    made = await stranger("POST", "/v1/capsules", 202, json={"template": "common"})
    await reaches(admin, made["id"], "running", path=ONE)
    for template in ("common", "host"):
        refused = await api("DELETE", "/v1/snapshots/{name}", 403, promised=False, values={"name": template})
        assert refused["code"] == "forbidden"
    refused = await api("POST", "/v1/snapshots", 409, json={"sandbox_id": capsule, "name": "common"})
    assert refused["code"] == "name_reserved"
    refused = await admin("POST", f"{ONE}/snapshot", 409, promised=False, values=at, json={"name": "host"})
    assert refused["code"] == "name_reserved"
    await admin("POST", f"{ONE}/snapshot", 400, promised=False, values=at, json={"name": "-x"})
    await admin("POST", f"{ONE}/snapshot", 400, promised=False, values=at, json={})
    await admin("DELETE", f"{TEMPLATES}/{{name}}", 204, values={"name": "common"})
    await admin("DELETE", f"{TEMPLATES}/{{name}}", 404, promised=False, values={"name": "common"})
    refused = await admin("DELETE", f"{TEMPLATES}/{{name}}", 403, promised=False, values={"name": "host"})
    assert refused["code"] == "forbidden"
    assert {each.name for each in await sandboxes.wing.engine.driver("sandbox").provision.templates()} == {"host"}


async def test_templates_of_the_same_name_are_told_apart_by_their_team(
    api: Caller, capsule: str, sandboxes: Lab
) -> None:
    admin, stranger = await sandboxes.signed_in(), await sandboxes.stranger()
    other = await stranger("POST", "/v1/capsules", 202, json={"template": "host"})
    await reaches(admin, other["id"], "running", path=ONE)
    await api("POST", "/v1/snapshots", 201, json={"sandbox_id": capsule, "name": "ours"})
    await stranger("POST", "/v1/snapshots", 201, json={"sandbox_id": other["id"], "name": "ours"})
    listed = [each for each in await admin("GET", TEMPLATES, 200) if each["name"] == "ours"]
    assert len({each["metadata"]["team_id"] for each in listed} - {sandboxes.team}) == 1
    at = {"name": "ours"}
    refused = await admin("DELETE", f"{TEMPLATES}/{{name}}", 409, promised=False, values=at)
    assert (refused["code"], "?team_id=" in refused["message"]) == ("conflict", True)
    await admin("DELETE", f"{TEMPLATES}/{{name}}", 204, values=at, params={"team_id": sandboxes.team})
    assert [each["name"] for each in await api("GET", "/v1/snapshots", 200)] == ["host"]
    await admin("DELETE", f"{TEMPLATES}/{{name}}", 204, values=at)
    assert [each["name"] for each in await stranger("GET", "/v1/snapshots", 200)] == ["host"]
    log = await stranger("GET", "/v1/audit-logs", 200, params={"resource_type": "sandbox,snapshot"})
    assert [(each["action"], each["resource_id"], each["actor_type"]) for each in log["entries"]] == [
        ("delete", "ours", "user"),
        ("create", "ours", "user"),
        ("create", other["id"], "user"),
    ]
    log = await admin("GET", LOG, 200, params={"resource_type": "template"})
    assert [(each["action"], each["resource_id"]) for each in log["entries"]] == [("delete", "ours")] * 2


async def test_who_is_deactivated_loses_the_capsules_of_their_teams(api: Caller, sandboxes: Lab) -> None:
    admin = await sandboxes.signed_in()
    colleague = await sandboxes.member("colleague@example.org", "admin")
    stranger = await sandboxes.stranger()
    mine = [await who("POST", "/v1/capsules", 202, json={"template": "host"}) for who in (stranger, colleague)]
    for capsule in mine:
        await reaches(admin, capsule["id"], "running", path=ONE)
    for email in ("stranger@example.org", "colleague@example.org"):
        user = await sandboxes.identity.users.find(email=email)
        assert user is not None
        shown = {"id": to_wire("usr", user.id)}
        await admin("PUT", "/v1/admin/users/{id}/active", 204, values=shown, json={"active": False})
    await reaches(admin, mine[0]["id"], "stopped", path=ONE)
    assert [each["id"] for each in await admin("GET", ALL, 200)] == [mine[1]["id"]]  # its team is another's
    log = await admin("GET", LOG, 200, params={"resource_type": "sandbox", "action": "destroy"})
    (ended,) = log["entries"]
    assert (ended["resource_id"], ended["actor_type"], ended["status"]) == (mine[0]["id"], "user", "success")


# The HTTP library leaves its own generators to the collector when a stream is left before its end.
@pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning")
async def test_events_of_all_teams(api: Caller, make: Any, sandboxes: Lab, contract: Document) -> None:
    admin = await sandboxes.signed_in()
    with trio.fail_after(60):
        async with listening(admin, contract, "/v1/admin/events/stream") as messages:
            theirs = await make()
            mine = await admin("POST", ALL, 201, json={"template": "host"})
            created = []
            while len(created) < 2:
                _, message = await anext(messages)
                if message["event"] == "capsule.create":
                    created.append(message["resource"]["id"])
            assert created == [theirs, mine["id"]]
        async with listening(api, contract, **{"Last-Event-ID": "1"}) as messages:
            await api("DELETE", "/v1/capsules/{id}", 202, values={"id": theirs})
            seen, event = set(), ""
            while event != "capsule.destroy":
                _, message = await anext(messages)
                event = message["event"]
                seen.add(message["resource"]["id"])
        assert seen == {theirs}
