"""What is served: the document, and every operation of the contract with the answers that it promises."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
import trio
from openapi_spec_validator import validate
from sqlalchemy import update

from anvild.core.events import append
from anvild.core.events.tables import events
from anvild.core.identity import Principal
from tests.support.wing import Wing

Check = Callable[[str, str, int, Any], None]


class Caller:
    """Calls operations of the contract, and holds every answer against it."""

    def __init__(self, client: Any, check: Check) -> None:
        self.client = client
        self._check = check

    async def __call__(self, method: str, path: str, status: int, *, promised: bool = True, **values: Any) -> Any:
        """Call an operation; ``{id}`` in the path is taken from ``id``. Returns the decoded body."""
        shown = path.replace("{id}", str(values.pop("id", "")))
        answer = await self.client.request(method, shown, **values)
        assert answer.status_code == status, answer.text
        body = json.loads(answer.content) if answer.content else None
        if promised:
            self._check(method, path, status, body)
        if status >= 400:
            assert set(body) == {"error"}
            assert set(body["error"]) == {"code", "message"}
            return body["error"]
        return body


@pytest.fixture
def call(wing: Wing, check_answer: Check) -> Caller:
    return Caller(wing.owner, check_answer)


@pytest.fixture
def anybody(wing: Wing, check_answer: Check) -> Caller:
    return Caller(wing.client(), check_answer)


async def test_the_document_fulfils_the_contract(wing: Wing, contract: Any, compare: Any) -> None:
    answer = await wing.client().get("/openapi.json")
    served = answer.json()
    validate(served)
    assert compare(contract, served) == []
    assert wing.mount.openapi is not None
    assert served == json.loads(json.dumps(wing.mount.openapi()))


async def test_nobody_is_let_in(anybody: Caller, wing: Wing, check_answer: Check) -> None:
    wrong = Caller(wing.client("anvil_live_" + "x" * 32), check_answer)
    for method, path in (
        ("GET", "/runs"),
        ("POST", "/runs"),
        ("GET", "/runs/{id}"),
        ("GET", "/devices"),
        ("POST", "/devices"),
        ("GET", "/audit-log"),
        ("GET", "/org/api-keys"),
        ("POST", "/org/api-keys"),
        ("DELETE", "/org/api-keys/{id}"),
    ):
        for caller in (anybody, wrong):
            error = await caller(method, path, 401, id=uuid.uuid4(), json={} if method == "POST" else None)
            assert error["code"] == "unauthenticated"


async def test_an_answer_before_the_body_says_that_the_connection_closes(wing: Wing) -> None:
    """Else a client that keeps connections sends its next request into one that is about to end."""
    host, port = wing.url.removeprefix("http://").split(":")
    stream = await trio.open_tcp_stream(host, int(port))
    async with stream:
        await stream.send_all(b"POST /api/v1/runs HTTP/1.1\r\nHost: here\r\nContent-Length: 9\r\n\r\n")
        answer = b"".join([piece async for piece in stream])
    assert answer.startswith(b"HTTP/1.1 401")
    assert b"connection: close\r\n" in answer.lower()


async def test_runs(call: Caller, wing: Wing, check_answer: Check) -> None:
    assert await call("GET", "/runs", 200) == {"runs": []}
    metadata = {"commit": "abc", "n": [1, {"x": None}], "parameters": {"greeting": "hi"}}
    device = (await call("POST", "/devices", 201, json={"name": "my phone"}))["device"]
    queued = (
        await call("POST", "/runs", 202, json={"pipeline": "smoke", "deviceId": device["id"], "metadata": metadata})
    )["run"]
    assert queued["status"] == "queued"
    assert queued["orgId"] == wing.first.team_id
    assert queued["pipeline"] == "smoke"
    assert queued["deviceId"] == device["id"]
    assert queued["metadata"] == metadata
    assert queued["createdBy"].startswith("api_key:")
    assert await call("GET", "/runs/{id}", 200, id=queued["id"]) == {"run": queued, "findings": []}
    second = (await call("POST", "/runs", 202, json={"pipeline": "smoke", "deviceId": device["id"]}))["run"]
    assert second["metadata"] is None
    assert [run["id"] for run in (await call("GET", "/runs", 200))["runs"]] == [second["id"], queued["id"]]
    other = Caller(await wing.stranger(), check_answer)
    assert await other("GET", "/runs", 200) == {"runs": []}
    assert (await other("GET", "/runs/{id}", 404, id=queued["id"]))["code"] == "not_found"


async def test_a_run_that_cannot_be_is_refused(call: Caller) -> None:
    cases: list[tuple[Any, str, str]] = [
        ({}, "invalid_body", "body.pipeline: expected string (it is required)"),
        ({"pipeline": ""}, "invalid_body", "body.pipeline"),
        ({"pipeline": "x" * 121}, "invalid_body", "body.pipeline"),
        ({"pipeline": "smoke", "deviceId": None}, "invalid_body", "body.deviceId"),
        ({"pipeline": "smoke", "deviceId": "phone"}, "invalid_body", "body.deviceId"),
        ({"pipeline": "smoke", "metadata": []}, "invalid_body", "body.metadata"),
        ([], "invalid_body", "body"),
        ({"pipeline": "smok"}, "unknown_pipeline", "there are: app-tests, smoke"),
        ({"pipeline": "../smoke"}, "unknown_pipeline", "there are: app-tests, smoke"),
        ({"pipeline": "smoke", "deviceId": str(uuid.uuid4())}, "invalid_body", "body.deviceId"),
        (
            {"pipeline": "smoke", "metadata": {"parameters": {"greting": "x"}}},
            "invalid_pipeline",
            "did you mean 'greeting'",
        ),
    ]
    for body, code, says in cases:
        error = await call("POST", "/runs", 400, json=body)
        assert error["code"] == code
        assert says in error["message"]


async def test_a_body_that_is_no_json_is_refused(call: Caller) -> None:
    for content, media_type in ((b"{", "application/json"), (b"", "application/json"), (b"{}", "text/plain")):
        answer = {"content": content, "headers": {"Content-Type": media_type}}
        assert (await call("POST", "/runs", 400, **answer))["code"] == "invalid_body"
    assert (await call("POST", "/runs", 400, content=b"{}"))["code"] == "invalid_body"


async def test_ids_must_be_uuids(call: Caller) -> None:
    assert (await call("GET", "/runs/{id}", 400, id="1"))["code"] == "invalid_id"
    assert (await call("GET", "/runs/{id}", 404, id=uuid.uuid4()))["code"] == "not_found"
    await call("DELETE", "/org/api-keys/{id}", 400, id="1", promised=False)
    await call("DELETE", "/org/api-keys/{id}", 404, id=uuid.uuid4())


async def test_devices_and_their_cap(call: Caller, wing: Wing, check_answer: Check) -> None:
    body = {
        "name": "tablet",
        "model": "T1",
        "firmwareVersion": "9",
        "capabilities": ["exec", "screen"],
        "metadata": {"shelf": 3},
    }
    device = (await call("POST", "/devices", 201, json=body))["device"]
    assert {key: device[key] for key in body} == body
    assert device["status"] == "provisioning"
    bare = (await call("POST", "/devices", 201, json={"name": "x" * 120}))["device"]
    assert (bare["model"], bare["firmwareVersion"], bare["capabilities"], bare["metadata"]) == (None, None, [], None)
    listed = (await call("GET", "/devices", 200))["devices"]
    assert [each["id"] for each in listed] == [device["id"], bare["id"]]
    await wing.identity.teams.set_device_cap(wing.first.team_id, 2, by=_system())
    assert (await call("POST", "/devices", 402, json={"name": "third"}))["code"] == "device_cap_reached"
    await call("DELETE", f"/devices/{bare['id']}", 204, promised=False)
    await call("POST", "/devices", 201, json={"name": "third"})
    for wrong in ({}, {"name": ""}, {"name": "x", "model": None}, {"name": "x", "capabilities": ["x"] * 65}):
        assert (await call("POST", "/devices", 400, json=wrong))["code"] == "invalid_body"
    other = Caller(await wing.stranger(), check_answer)
    assert await other("GET", "/devices", 200) == {"devices": []}


def _system() -> Principal:
    return Principal(kind="system", id="system")


async def test_keys(call: Caller, wing: Wing, check_answer: Check) -> None:
    made = await call("POST", "/org/api-keys", 201, json={"name": "ci", "scopes": ["runs:read"]})
    assert made["plaintext"].startswith("anvil_live_")
    assert made["plaintext"].endswith(made["last4"])
    keys = (await call("GET", "/org/api-keys", 200))["keys"]
    assert made["plaintext"] not in json.dumps(keys)
    mine = next(key for key in keys if key["id"] == made["id"])
    assert (mine["name"], mine["scopes"], mine["lastUsedAt"], mine["revokedAt"]) == ("ci", ["runs:read"], None, None)
    reader = Caller(wing.client(made["plaintext"]), check_answer)
    await reader("GET", "/runs", 200)
    assert (await reader("POST", "/runs", 403, json={"pipeline": "smoke"}, promised=False))["code"] == "forbidden"
    assert (await reader("GET", "/org/api-keys", 403, promised=False))["code"] == "forbidden"
    stranger = Caller(await wing.stranger(), check_answer)
    await stranger("DELETE", "/org/api-keys/{id}", 404, id=made["id"])
    assert await call("DELETE", "/org/api-keys/{id}", 204, id=made["id"]) is None
    await reader("GET", "/runs", 401)
    await call("DELETE", "/org/api-keys/{id}", 204, id=made["id"])
    mine = next(key for key in (await call("GET", "/org/api-keys", 200))["keys"] if key["id"] == made["id"])
    assert mine["revokedAt"] is not None
    for wrong in (
        {},
        {"name": ""},
        {"name": "x", "scopes": [""]},
        {"name": "x", "scopes": ["fly"]},
        {"name": "x", "scopes": None},
    ):
        assert (await call("POST", "/org/api-keys", 400, json=wrong))["code"] == "invalid_body"


async def test_the_audit_log(call: Caller, wing: Wing) -> None:
    device = (await call("POST", "/devices", 201, json={"name": "phone"}))["device"]
    await call("POST", "/runs", 202, json={"pipeline": "smoke", "deviceId": device["id"]})
    page = await call("GET", "/audit-log", 200)
    assert page["nextCursor"] is None
    newest, before = page["events"][:2]
    assert (newest["action"], before["action"]) == ("run.queued", "device.registered")
    assert before["resourceType"] == "device"
    assert before["resourceId"] == device["id"]
    assert before["ip"] == "127.0.0.1"
    assert "httpx" in before["userAgent"]
    for limit in ("0", "201", "x", ""):
        assert (await call("GET", "/audit-log", 400, params={"limit": limit}))["code"] == "invalid_query"
    for moment in ("yesterday", "2026-01-01", "2026-01-01T00:00:00"):
        assert (await call("GET", "/audit-log", 400, params={"before": moment}))["code"] == "invalid_query"
    assert (await call("GET", "/audit-log", 200, params={"before": "2001-01-01T00:00:00Z"}))["events"] == []


async def test_audit_pages_neither_repeat_nor_skip(call: Caller, wing: Wing) -> None:
    """Forty entries of four moments, ten of each at exactly the same time."""
    start = datetime(2026, 1, 1, tzinfo=UTC)

    def job(connection: Any) -> None:
        for number in range(40):
            event_id = append(
                connection, "test.noted", subject=("test", str(number)), team_id=wing.first.team_id, audit=True
            )
            at = start + timedelta(microseconds=number // 10)
            connection.execute(update(events).where(events.c.id == event_id).values(at=at))

    await wing.store.write(job)
    for limit in (1, 3, 7, 200):
        seen: list[str] = []
        query: dict[str, Any] = {"limit": limit}
        while True:
            page = await call("GET", "/audit-log", 200, params=query)
            assert len(page["events"]) <= limit
            seen += [event["resourceId"] for event in page["events"] if event["action"] == "test.noted"]
            if page["nextCursor"] is None:
                break
            query["before"] = page["nextCursor"]
        assert seen == [str(number) for number in reversed(range(40))]


async def test_a_device_shakes_hands_rotates_and_is_revoked(call: Caller, anybody: Caller, wing: Wing) -> None:
    device = {"platform": "ios", "udid": "00008110-000A", "os_version": "19.1", "bundle_id": "app.example"}
    body = {"apiKey": wing.first.live_key, "device": device}
    given = await anybody("POST", "/auth/device/handshake", 200, json=body)
    token = given["token"]
    claims = await _verified(anybody, token)
    assert claims["sub"] == device["udid"]
    assert claims["exp"] - claims["iat"] == 24 * 3600
    rotated = await anybody("POST", "/auth/device/rotate", 200, headers={"Authorization": f"Bearer {token}"})
    assert (await _verified(anybody, rotated["token"]))["sub"] == device["udid"]
    await anybody("POST", "/auth/device/rotate", 401, headers={"Authorization": f"Bearer {token}"})
    await anybody("POST", "/auth/device/rotate", 401)
    listed = await anybody("GET", "/auth/revocation-list", 200)
    assert listed["jti"] == [claims["jti"]]
    assert (await anybody("POST", "/auth/device/handshake", 401, json={**body, "apiKey": "wrn_no"}))[
        "code"
    ] == "unauthenticated"
    wrong = {**body, "device": {**device, "platform": "toaster"}}
    assert (await anybody("POST", "/auth/device/handshake", 400, json=wrong, promised=False))["code"] == "invalid_body"
    await wing.identity.teams.set_device_cap(wing.first.team_id, 1, by=_system())
    assert await anybody("POST", "/auth/device/handshake", 200, json=body), "it has its place already"
    other = {**body, "device": {**device, "udid": "00008110-000B"}}
    assert (await anybody("POST", "/auth/device/handshake", 402, json=other))["code"] == "device_cap_reached"


async def _verified(anybody: Caller, token: str) -> dict[str, Any]:
    keys = (await anybody.client.get("/auth/jwks.json")).json()
    key = jwt.PyJWKSet.from_dict(keys)[jwt.get_unverified_header(token)["kid"]]
    claims: dict[str, Any] = jwt.decode(token, key.key, algorithms=["RS256"])
    return claims


async def test_a_repeated_post_is_answered_as_the_first(call: Caller) -> None:
    device = (await call("POST", "/devices", 201, json={"name": "phone"}))["device"]
    for path, status, body in (
        ("/devices", 201, {"name": "once"}),
        ("/runs", 202, {"pipeline": "smoke", "deviceId": device["id"]}),
        ("/org/api-keys", 201, {"name": "once"}),
    ):
        headers = {"Idempotency-Key": f"key-of-{path}"}
        first = await call("POST", path, status, json=body, headers=headers)
        assert await call("POST", path, status, json=body, headers=headers) == first
    assert len((await call("GET", "/runs", 200))["runs"]) == 1


async def test_a_person_by_session_and_csrf(wing: Wing, check_answer: Check) -> None:
    client = wing.client()
    refused = await client.post("/auth/session", json={"email": "first@example.org", "password": "wrong password"})
    assert refused.status_code == 401
    logged = await client.post(
        "/auth/session", json={"email": "first@example.org", "password": "correct horse battery"}
    )
    assert logged.status_code == 201
    assert {"sb-access-token", "anvil_csrf"} == set(client.cookies)
    person = Caller(client, check_answer)
    await person("GET", "/runs", 200)
    assert (await person("POST", "/devices", 403, json={"name": "x"}, promised=False))["code"] == "forbidden"
    csrf = {"X-CSRF-Token": logged.json()["csrfToken"]}
    await person("POST", "/devices", 201, json={"name": "x"}, headers=csrf)
    me = (await client.get("/auth/me")).json()
    assert (me["kind"], me["user"]["email"], me["team"]["role"]) == ("user", "first@example.org", "owner")
    assert (await client.delete("/auth/session", headers=csrf)).status_code == 204
    client.cookies.clear()
    client.cookies.set("sb-access-token", logged.cookies["sb-access-token"])
    await person("GET", "/runs", 401)


async def test_the_limit_of_handshakes(tmp_path: Any, served_wing: Any) -> None:
    async with served_wing(tmp_path / "data", drivers={}, limits={"handshake": "2/minute"}) as wing:
        client = wing.client()
        statuses = [(await client.post("/auth/device/rotate")).status_code for _ in range(3)]
        assert statuses == [401, 401, 429]
        answer = await client.post("/auth/device/rotate")
        assert answer.json()["error"]["code"] == "rate_limited"
        assert int(answer.headers["retry-after"]) >= 1
        assert (await wing.owner.get("/runs")).status_code == 200
