"""Templates made of capsules, with namespace sandboxes: every answer is held against the contract."""

from __future__ import annotations

from typing import Any

from anvild.capsules.ids import to_wire
from anvild.core.ids import new_id
from tests.support.capsules import Caller, Lab

ALL = "/v1/snapshots"
ONE = "/v1/snapshots/{name}"
EXEC = "/v1/capsules/{id}/exec"


async def says(api: Caller, capsule: str, line: str) -> str:
    body = {"cmd": "/bin/sh", "args": ["-c", line]}
    done = await api("POST", EXEC, 200, values={"id": capsule}, json=body)
    return str(done["stdout"])


async def references(lab: Lab) -> set[str]:
    """What the driver has."""
    return {made.name for made in await lab.wing.engine.driver("sandbox").provision.templates()}


async def test_a_capsule_is_made_of_what_another_one_was(api: Caller, capsule: str, make: Any, sandboxes: Lab) -> None:
    await says(api, capsule, "echo first > ~/kept")
    made = await api("POST", ALL, 201, json={"sandbox_id": capsule, "name": "mine"})
    assert (made["name"], made["type"], made["platform"]) == ("mine", "base", False)
    assert [(each["name"], each["platform"]) for each in await api("GET", ALL, 200)] == [
        ("mine", False),
        ("host", True),
    ]
    await says(api, capsule, "echo second > ~/kept")
    other = await make(template="mine")
    assert await says(api, other, "cat ~/kept") == "first\n"
    assert await says(api, capsule, "cat ~/kept") == "second\n"
    for wanted, names in (("base", ["mine", "host"]), ("snapshot", []), ("else", [])):
        assert [each["name"] for each in await api("GET", ALL, 200, params={"type": wanted})] == names
    before = await references(sandboxes)
    await api("POST", ALL, 201, json={"sandbox_id": capsule, "name": "mine"}, params={"overwrite": "true"})
    assert len(await references(sandboxes)) == len(before)
    assert await says(api, await make(template="mine"), "cat ~/kept") == "second\n"
    await api("DELETE", ONE, 204, values={"name": "mine"})
    assert await references(sandboxes) == {"host"}
    assert await says(api, other, "cat ~/kept") == "first\n"
    await api("POST", "/v1/capsules", 404, promised=False, json={"template": "mine"})


async def test_a_template_that_cannot_be_made(api: Caller, capsule: str, sandboxes: Lab) -> None:
    named = await api("POST", ALL, 201, json={"sandbox_id": capsule})
    assert named["name"].startswith("template-")
    for body, status, code in (
        ({"sandbox_id": capsule, "name": named["name"]}, 409, "template_name_taken"),
        ({"sandbox_id": capsule, "name": "host"}, 409, "name_reserved"),
        ({"sandbox_id": capsule, "name": "-x"}, 400, "invalid_request"),
        ({"sandbox_id": to_wire("cl", new_id())}, 404, "not_found"),
        ({}, 400, "invalid_request"),
    ):
        refused = await api("POST", ALL, status, promised=False, json=body)
        assert refused["code"] == code
    await api("DELETE", "/v1/capsules/{id}", 202, values={"id": capsule})
    refused = await api("POST", ALL, 409, json={"sandbox_id": capsule})
    assert refused["code"] == "invalid_state"
    refused = await api("DELETE", ONE, 403, promised=False, values={"name": "host"})
    assert refused["code"] == "forbidden"
    await api("DELETE", ONE, 404, values={"name": "no-such"})


async def test_templates_are_their_teams_own(api: Caller, capsule: str, sandboxes: Lab) -> None:
    await api("POST", ALL, 201, json={"sandbox_id": capsule, "name": "mine"})
    other = await sandboxes.stranger()
    assert [each["name"] for each in await other("GET", ALL, 200)] == ["host"]
    await other("DELETE", ONE, 404, values={"name": "mine"})
    await other("POST", ALL, 404, promised=False, json={"sandbox_id": capsule, "name": "theirs"})
    await other("POST", "/v1/capsules", 404, promised=False, json={"template": "mine"})
