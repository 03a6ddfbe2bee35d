"""The life of capsules over HTTP, with namespace sandboxes: every answer is held against the contract."""

from __future__ import annotations

from typing import Any

import trio

from anvild.capsules.ids import to_wire
from anvild.core.events import EventLog
from anvild.core.ids import new_id
from tests.support.capsules import Caller, Lab

ONE = "/v1/capsules/{id}"


async def test_a_capsule_from_its_making_to_its_end(api: Caller, sandboxes: Lab, until: Any) -> None:
    made = await api("POST", "/v1/capsules", 202, json={"template": "host", "vcpus": 1, "memory_mb": 256})
    assert made["id"].startswith("cl-")
    assert (made["status"], made["template"], made["memory_mb"], made["timeout_sec"]) == ("starting", "host", 256, 0)
    assert "started_at" not in made
    one = {"id": await until(api, made["id"], "running")}
    shown = await api("GET", ONE, 200, values=one)
    assert shown["started_at"] >= shown["created_at"]
    assert [each["id"] for each in await api("GET", "/v1/capsules", 200)] == [made["id"]]
    await api("POST", ONE + "/ping", 204, values=one)
    assert (await api("GET", ONE, 200, values=one))["last_active_at"] > shown["last_active_at"]
    await api("DELETE", ONE, 202, values=one)
    await until(api, made["id"], "stopped")
    await api("DELETE", ONE, 202, values=one)
    assert await api("GET", "/v1/capsules", 200) == []
    refused = await api("POST", ONE + "/ping", 409, values=one)
    assert refused["code"] == "invalid_state"
    assert await sandboxes.wing.engine.leases.list() == []
    kinds = [event.kind for event in await sandboxes.wing.services.get(EventLog).read() if "capsule." in event.kind]
    assert kinds == [
        "capsule.state.changed",
        "capsule.state.changed",
        "capsule.create",
        "capsule.state.changed",
        "capsule.state.changed",
        "capsule.destroy",
    ]


async def test_a_capsule_is_destroyed_while_it_is_made(api: Caller, sandboxes: Lab, until: Any) -> None:
    made = await api("POST", "/v1/capsules", 202, json={"template": "host"})
    await api("DELETE", ONE, 202, values={"id": made["id"]})
    await until(api, made["id"], "stopped")
    assert await sandboxes.wing.engine.leases.list() == []


async def test_what_sandboxes_cannot_do_is_refused_in_a_sentence(api: Caller, capsule: str) -> None:
    refused = await api("POST", ONE + "/pause", 501, promised=False, values={"id": capsule})
    assert refused["code"] == "agent_error"
    assert "cannot put capsules aside" in refused["message"]
    for wish in ({"timeout_sec": 10}, {"disk_size_mb": 100}):
        refused = await api("POST", "/v1/capsules", 501, promised=False, json={"template": "host", **wish})
        assert refused["code"] == "agent_error"
    refused = await api("POST", ONE + "/resume", 409, values={"id": capsule})
    assert refused["code"] == "invalid_state"


async def test_what_cannot_be_is_refused(api: Caller) -> None:
    missing = await api("POST", "/v1/capsules", 404, promised=False, json={})
    assert missing == {"code": "not_found", "message": "there is no template 'minimal'; all teams see: host"}
    for wish in ({"vcpus": 1000}, {"timeout_sec": -1}, {"memory_mb": "much"}, {"memory_mb": 1}):
        refused = await api("POST", "/v1/capsules", 400, promised=False, json={"template": "host", **wish})
        assert refused["code"] == "invalid_request"
    usual = await api("POST", "/v1/capsules", 202, json={"template": "host", "vcpus": 0, "memory_mb": -5})
    assert (usual["vcpus"], usual["memory_mb"]) == (1, 512)


async def test_there_is_no_room(api: Caller, sandboxes: Lab) -> None:
    (info,) = [info for info in sandboxes.wing.engine.drivers() if info.name == "sandbox"]
    for _ in range(info.slots):
        await api("POST", "/v1/capsules", 202, json={"template": "host"})
    refused = await api("POST", "/v1/capsules", 503, promised=False, json={"template": "host"})
    assert refused["code"] == "host_unavailable"


async def test_what_is_of_another_team_looks_missing(capsule: str, sandboxes: Lab) -> None:
    other = await sandboxes.stranger()
    assert await other("GET", "/v1/capsules", 200) == []
    for id_ in (capsule, to_wire("cl", new_id()), "cl-nonsense", to_wire("usr", new_id())):
        for method, path in (("GET", ONE), ("POST", ONE + "/pause"), ("POST", ONE + "/ping"), ("DELETE", ONE)):
            refused = await other(method, path, 404, promised=False, values={"id": id_})
            assert refused["code"] == "not_found"


async def test_a_capsule_whose_machine_goes_is_in_error(api: Caller, capsule: str, sandboxes: Lab, until: Any) -> None:
    (lease,) = await sandboxes.wing.engine.leases.list()
    await sandboxes.wing.engine.leases.release(lease.id)
    await until(api, capsule, "error")
    shown = await api("GET", ONE, 200, values={"id": capsule})
    assert shown["metadata"]["reason"] == "its machine has gone: released"


async def test_capsules_end_with_their_team(sandboxes: Lab) -> None:
    stranger = await sandboxes.stranger()
    (team,) = await stranger("GET", "/v1/teams", 200)
    made = await stranger("POST", "/v1/capsules", 202, json={"template": "host"})
    running = sandboxes.wing.engine
    (lease,) = await running.leases.list()
    async with sandboxes.wing.services.get(EventLog).follow(after=None) as events:
        await stranger("DELETE", "/v1/teams/{id}", 204, values={"id": team["id"]})
        with trio.fail_after(60):
            async for event in events:
                if event.kind == "capsule.destroy":
                    break
    assert to_wire("cl", event.subject_id) == made["id"]
    assert lease.id not in [each.id for each in await running.leases.list()]


async def test_what_a_capsule_uses_is_measured(api: Caller, capsule: str) -> None:
    one = {"id": capsule}
    with trio.fail_after(60):
        while True:
            measured = await api("GET", ONE + "/metrics", 200, values=one)
            if measured["points"]:
                break
            await trio.sleep(0.02)
    assert (measured["sandbox_id"], measured["range"]) == (capsule, "10m")
    assert measured["points"][0]["mem_bytes"] > 0
    assert 0 <= measured["points"][0]["cpu_pct"] <= 100
    assert (await api("GET", ONE + "/metrics", 200, values=one, params={"range": "24h"}))["points"] == []
    await api("GET", ONE + "/metrics", 400, values=one, params={"range": "1y"})
    await api("DELETE", ONE, 202, values=one)
    await api("GET", ONE + "/metrics", 404, values=one)
