"""Hosts: made known, registered, renewed, tagged, deleted, and who may. What is on them is tested elsewhere."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any

import jwt
import pytest

from anvild.capsules.book import add
from anvild.capsules.ids import from_wire, to_wire
from anvild.capsules.values import Capsule, Status
from anvild.core.clock import utcnow
from anvild.core.events import EventFilter, EventLog
from anvild.core.hosts import Hosts
from anvild.core.identity import SYSTEM
from anvild.core.ids import new_id
from tests.support.capsules import Caller, Lab
from tests.support.contract import Document, check_answer

HOST = "/v1/hosts/{id}"
MACHINE = {"arch": "x86_64", "cpu_cores": 8, "memory_mb": 16384, "disk_gb": 500, "address": "192.0.2.7:0"}


async def regular(admin: Caller) -> tuple[str, str]:
    """A new host that all teams use: its id, and what it registers with."""
    made = await admin("POST", "/v1/hosts", 201, json={"type": "regular", "provider": "bare-metal"})
    return made["host"]["id"], made["registration_token"]


async def registered(lab: Lab, admin: Caller) -> tuple[str, Any]:
    """A host that has registered, and what it holds."""
    host, token = await regular(admin)
    return host, await lab.anybody()("POST", "/v1/hosts/register", 201, json={"token": token, **MACHINE})


async def told(lab: Lab, *kinds: str) -> list[tuple[str, str]]:
    found = await lab.wing.services.get(EventLog).read(where=EventFilter(kinds=kinds))
    return [(event.kind, to_wire("host", event.subject_id)) for event in found]


async def test_a_host_registers_once_and_says_what_it_is(lab: Lab) -> None:
    admin, machine = await lab.signed_in(), lab.anybody()
    host, token = await regular(admin)
    assert re.fullmatch("[0-9a-f]{64}", token)
    before = await admin("GET", HOST, 200, values={"id": host})
    assert (before["status"], before["provider"]) == ("pending", "bare-metal")
    assert not {"address", "team_id", "last_heartbeat_at"} & before.keys()
    joined = await machine("POST", "/v1/hosts/register", 201, json={"token": token, **MACHINE})
    assert joined["host"]["status"] == "online"
    assert joined["host"].items() >= MACHINE.items()
    claims = jwt.decode(joined["token"], options={"verify_signature": False})
    assert jwt.get_unverified_header(joined["token"])["alg"] == "HS256"
    assert (claims["typ"], claims["host_id"], claims["sub"]) == ("host", claims["sub"], from_wire("host", host))
    assert claims["exp"] - claims["iat"] == 7 * 24 * 3600
    assert re.fullmatch("[0-9a-f]{64}", joined["refresh_token"])
    assert await admin("GET", HOST, 200, values={"id": host}) == joined["host"]
    assert await admin("GET", "/v1/hosts", 200) == [joined["host"]]
    again = await machine("POST", "/v1/hosts/register", 401, json={"token": token, **MACHINE})
    assert again["code"] == "unauthorized"
    await machine("POST", "/v1/hosts/register", 400, json={"token": token})
    refused = await admin("POST", f"{HOST}/token", 409, values={"id": host})
    assert refused["code"] == "invalid_state"
    assert await told(lab, "host.created", "host.up") == [("host.created", host), ("host.up", host)]


async def test_a_new_registration_token_ends_the_one_before(lab: Lab) -> None:
    admin, machine = await lab.signed_in(), lab.anybody()
    host, first = await regular(admin)
    renewed = await admin("POST", f"{HOST}/token", 201, values={"id": host})
    assert renewed["host"]["id"] == host
    await machine("POST", "/v1/hosts/register", 401, json={"token": first, **MACHINE})
    await machine("POST", "/v1/hosts/register", 201, json={"token": renewed["registration_token"], **MACHINE})


async def test_a_registration_token_is_used_up_though_the_rest_fails(lab: Lab) -> None:
    admin, machine = await lab.signed_in(), lab.anybody()
    host, token = await regular(admin)
    await lab.wing.services.get(Hosts).drain(from_wire("host", host))  # such a one cannot register any more
    for _ in range(2):
        await machine("POST", "/v1/hosts/register", 401, json={"token": token, **MACHINE})
    found = await lab.wing.services.get(EventLog).read(where=EventFilter(kinds=("host.registered",)))
    assert len(found) == 1, "the token was good once"


async def test_a_refresh_token_is_good_once_and_a_second_use_ends_them_all(lab: Lab) -> None:
    admin, machine = await lab.signed_in(), lab.anybody()
    host, joined = await registered(lab, admin)
    renewed = await machine("POST", "/v1/hosts/auth/refresh", 200, json={"refresh_token": joined["refresh_token"]})
    assert renewed["host"]["id"] == host
    assert renewed["refresh_token"] != joined["refresh_token"]
    alive = {"X-Host-Token": renewed["token"]}
    await machine("POST", f"{HOST}/heartbeat", 204, values={"id": host}, headers=alive)
    for used in (joined, renewed):
        answer = await machine("POST", "/v1/hosts/auth/refresh", 401, json={"refresh_token": used["refresh_token"]})
        assert answer["code"] == "unauthorized"
    await machine("POST", f"{HOST}/heartbeat", 401, values={"id": host}, headers=alive)


async def test_a_host_speaks_for_itself_alone(lab: Lab) -> None:
    admin, machine = await lab.signed_in(), lab.anybody()
    host, joined = await registered(lab, admin)
    other, _ = await registered(lab, admin)
    itself = {"X-Host-Token": joined["token"]}
    before = await admin("GET", HOST, 200, values={"id": host})
    await machine("POST", f"{HOST}/heartbeat", 204, values={"id": host}, headers=itself)
    after = await admin("GET", HOST, 200, values={"id": host})
    beats = [datetime.fromisoformat(each["last_heartbeat_at"]) for each in (before, after)]
    assert beats[0] < beats[1]
    for strange in (other, to_wire("host", new_id()), "host-1"):
        refused = await machine("POST", f"{HOST}/heartbeat", 403, values={"id": strange}, headers=itself)
        assert refused["code"] == "forbidden"
    event = {"event": "sandbox.stopped", "sandbox_id": "cl-1", "host_id": host, "timestamp": 1}
    await machine("POST", "/v1/hosts/sandbox-events", 204, json=event, headers=itself)
    await machine("POST", "/v1/hosts/sandbox-events", 204, json={**event, "event": "news"}, headers=itself)
    await machine("POST", "/v1/hosts/sandbox-events", 403, json={**event, "host_id": other}, headers=itself)
    await machine("POST", "/v1/hosts/sandbox-events", 400, json={"event": "x"}, headers=itself)
    found = await lab.wing.services.get(EventLog).read(where=EventFilter(kinds=("host.reported",)))
    assert [each.data["event"] for each in found] == ["sandbox.stopped", "news"]
    # A host is nobody else: not with the token of a person, and it gets nowhere else with its own.
    await machine("POST", f"{HOST}/heartbeat", 401, values={"id": host}, headers={"X-Host-Token": "no"})
    await machine("GET", "/v1/hosts", 401, promised=False, headers=itself)
    await admin("POST", f"{HOST}/heartbeat", 401, values={"id": host})


async def test_tags(lab: Lab) -> None:
    admin = await lab.signed_in()
    host, _ = await regular(admin)
    for tag in ("nvme", "a b/c", "nvme"):
        await admin("POST", f"{HOST}/tags", 204, values={"id": host}, json={"tag": tag})
    assert await admin("GET", f"{HOST}/tags", 200, values={"id": host}) == ["a b/c", "nvme"]
    for _ in range(2):
        await admin("DELETE", HOST + "/tags/{tag}", 204, values={"id": host, "tag": "nvme"})
    assert await admin("GET", f"{HOST}/tags", 200, values={"id": host}) == ["a b/c"]
    for wrong in ("", "x" * 129, "a\nb"):
        await admin("POST", f"{HOST}/tags", 400, values={"id": host}, json={"tag": wrong}, promised=False)


@pytest.mark.parametrize(
    "body",
    [
        {"type": "other"},
        {"type": "byoc"},
        {"type": "byoc", "team_id": "team-1"},
        {"type": "byoc", "team_id": to_wire("team", new_id())},
        {"type": "regular", "team_id": to_wire("team", new_id())},
        {"type": "regular", "provider": "x" * 129},
    ],
)
async def test_what_is_no_host(body: dict[str, str], lab: Lab) -> None:
    admin = await lab.signed_in()
    assert (await admin("POST", "/v1/hosts", 400, json=body))["code"] == "invalid_request"
    assert await admin("GET", "/v1/hosts", 200) == []


async def test_who_brings_hosts(lab: Lab) -> None:
    admin, owner = await lab.signed_in(), await lab.stranger()
    (joined,) = await owner("GET", "/v1/teams", 200)
    team = joined["id"]
    own = {"type": "byoc", "team_id": team}
    assert (await owner("POST", "/v1/hosts", 403, json={"type": "regular"}))["code"] == "forbidden"
    assert (await owner("POST", "/v1/hosts", 403, json=own))["code"] == "forbidden"
    pending = (await admin("POST", "/v1/hosts", 201, json=own))["host"]["id"]
    await owner("POST", f"{HOST}/token", 403, values={"id": pending})
    await lab.identity.teams.set_byoc(from_wire("team", team), True, by=SYSTEM)
    made = (await owner("POST", "/v1/hosts", 201, json=own))["host"]
    assert (made["type"], made["team_id"], made["status"]) == ("byoc", team, "pending")
    await owner("POST", f"{HOST}/token", 201, values={"id": pending})
    shared, _ = await regular(admin)
    assert {each["id"] for each in await owner("GET", "/v1/hosts", 200)} == {pending, made["id"]}
    assert {each["id"] for each in await admin("GET", "/v1/hosts", 200)} == {pending, made["id"], shared}
    for method, path in (("GET", HOST), ("DELETE", HOST), ("GET", f"{HOST}/delete-preview"), ("POST", f"{HOST}/token")):
        answer = await owner(method, path, 404, values={"id": shared}, promised=False)
        assert answer["code"] == "not_found"
    await owner("DELETE", HOST, 204, values={"id": made["id"]})
    await owner("GET", HOST, 404, values={"id": made["id"]})


async def put_capsule(lab: Lab, driver: str, status: Status) -> str:
    """Enter a capsule, of which there is nothing but its row."""
    now, id_ = utcnow(), new_id()
    capsule = Capsule(
        id=id_,
        team_id=lab.wing.first.team_id,
        created_by="system",
        status=status,
        driver=driver,
        device_id=new_id(),
        lease_id=new_id(),
        template="minimal",
        vcpus=1,
        memory_mb=512,
        disk_size_mb=None,
        timeout_sec=0,
        metadata=None,
        created_at=now,
        updated_at=now,
    )
    await lab.wing.store.write(lambda conn: add(conn, capsule))
    return to_wire("cl", id_)


async def test_capsules_keep_their_host_from_being_deleted(lab: Lab, contract: Document) -> None:
    admin = await lab.signed_in()
    host, joined = await registered(lab, admin)
    await lab.wing.services.get(Hosts).lend(from_wire("host", host), "small", "rack-7")
    assert (await admin("GET", f"{HOST}/delete-preview", 200, values={"id": host}))["sandbox_ids"] == []
    states: tuple[Status, ...] = ("pending", "starting", "running", "missing")
    blocking = {await put_capsule(lab, "small@rack-7", status) for status in states}
    for status, driver in (("paused", "small@rack-7"), ("stopped", "small@rack-7"), ("running", "small")):
        await put_capsule(lab, driver, status)  # type: ignore[arg-type]  # they are states
    preview = await admin("GET", f"{HOST}/delete-preview", 200, values={"id": host})
    assert (preview["host"]["id"], set(preview["sandbox_ids"])) == (host, blocking)
    for query in ({}, {"force": "false"}):
        headers = admin.cookie_headers("DELETE")
        answer = await admin.client.request("DELETE", f"/v1/hosts/{host}", headers=headers, params=query)
        body = json.loads(answer.content)
        check_answer(contract, "DELETE", HOST, answer.status_code, body)
        assert (answer.status_code, body["error"]["code"]) == (409, "host_has_sandboxes")
        assert set(body["error"]["sandbox_ids"]) == set(body["sandbox_ids"]) == blocking
    await admin("DELETE", HOST, 204, values={"id": host}, params={"force": "true"})
    await admin("GET", HOST, 404, values={"id": host})
    await admin("DELETE", HOST, 404, values={"id": host}, promised=False)
    gone = await lab.anybody()(
        "POST", f"{HOST}/heartbeat", 401, values={"id": host}, headers={"X-Host-Token": joined["token"]}
    )
    assert gone["code"] == "unauthorized"
    assert ("host.deleted", host) in await told(lab, "host.deleted")
