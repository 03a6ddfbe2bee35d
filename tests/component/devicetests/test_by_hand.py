"""Devices by hand: made, used in sessions, taken away."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
import trio
import trio.testing

from anvild.core.engine.devices import record
from anvild.core.identity import Principal
from anvild.sdk import DeviceFact, DeviceStatus, Sighting
from tests.support.sockets import open_socket
from tests.support.wing import PASSWORD, Wing


@pytest.fixture
async def device(ready_wing: Wing) -> str:
    """A sandbox that is kept."""
    answer = await ready_wing.owner.post("/devices/made", json={"template": "host", "name": "mine"})
    assert answer.status_code == 201, answer.text
    made: str = answer.json()["device"]["id"]
    return made


async def run(client: httpx2.AsyncClient, device: str, *argv: str, **body: Any) -> tuple[bytes, bytes, Any]:
    answer = await client.post(f"/devices/{device}/exec", json={"argv": argv, **body})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    *chunks, last = map(json.loads, answer.text.splitlines())
    output = {"stdout": b"", "stderr": b""}
    for chunk in chunks:
        output[chunk["stream"]] += base64.b64decode(chunk["data"])
    return output["stdout"], output["stderr"], last


async def test_a_device_is_made_used_and_taken_away(wing: Wing, device: str) -> None:
    client = wing.owner
    shown = (await client.get(f"/devices/{device}")).json()["device"]
    assert (shown["name"], shown["status"], shown["metadata"]["driver"]) == ("mine", "ready", "sandbox")
    assert shown["metadata"]["madeToOrder"] is True
    assert [each["id"] for each in (await client.get("/devices")).json()["devices"]] == [device]
    assert await run(client, device, "sh", "-c", "echo $A; echo oops >&2; exit 3", env={"A": "b"}) == (
        b"b\n",
        b"oops\n",
        {"exit": {"code": 3, "signal": None}},
    )
    assert (await run(client, device, "pwd", cwd="/usr"))[0] == b"/usr\n"
    assert (await run(client, device, "sh", "-c", "kill -9 $$"))[2] == {"exit": {"code": None, "signal": 9}}
    slow = await run(client, device, "sleep", "60", timeout=0.2)
    assert slow[2]["error"]["code"] == "deadline_exceeded"
    missing = await client.post(f"/devices/{device}/exec", json={"argv": ["/no/such"]})
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert (await client.delete(f"/devices/{device}")).status_code == 204
    assert (await client.get("/devices")).json()["devices"] == []
    assert (await client.post(f"/devices/{device}/exec", json={"argv": ["true"]})).status_code == 409


async def test_files_go_there_and_back_as_streams(wing: Wing, device: str) -> None:
    client = wing.owner
    content = bytes(range(256)) * 40_000

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(content), 100_000):
            yield content[at : at + 100_000]

    path = {"path": "/tmp/deep/er/file", "mode": "750"}
    written = await client.put(f"/devices/{device}/files", params=path, content=pieces())
    assert written.json() == {"path": "/tmp/deep/er/file", "size": len(content)}
    assert (await run(client, device, "stat", "-c", "%a", "/tmp/deep/er/file"))[0] == b"750\n"
    assert (await client.get(f"/devices/{device}/files", params={"path": "/tmp/deep/er/file"})).content == content
    for query, status, code in (
        ({"path": "/tmp/none"}, 404, "not_found"),
        ({"path": "relative"}, 400, "invalid_argument"),
        ({"path": "/tmp"}, 400, "invalid_argument"),
        ({}, 400, "invalid_query"),
    ):
        answer = await client.get(f"/devices/{device}/files", params=query)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    odd = await client.put(f"/devices/{device}/files", params={"path": "/tmp/x", "mode": "rwx"}, content=b"")
    assert odd.json()["error"]["code"] == "invalid_query"


async def test_a_terminal(wing: Wing, device: str) -> None:
    url = f"{wing.url.replace('http', 'ws')}/api/v1/devices/{device}/shell"
    headers = [("Authorization", f"Bearer {wing.first.live_key}")]
    with trio.fail_after(60):
        async with open_socket(url, extra_headers=headers) as socket:
            start = {"type": "start", "argv": ["sh"], "columns": 100, "rows": 30}
            await socket.send_message(json.dumps(start))
            await socket.send_message(b"stty size; echo mark-$((40+2))\n")
            assert b"mark-42" in await _read_until(socket, b"mark-42")
            await socket.send_message(json.dumps({"type": "resize", "columns": 60, "rows": 20}))
            await socket.send_message(b"stty size\n")
            assert b"20 60" in await _read_until(socket, b"20 60")
            await socket.send_message(b"exit 5\n")
            while isinstance(message := await socket.get_message(), bytes):
                pass
            assert json.loads(message) == {"type": "exit", "code": 5, "signal": None}
        async with open_socket(url, extra_headers=headers) as socket:
            await socket.send_message("nonsense")
            assert json.loads(await socket.get_message())["type"] == "error"
    assert (await wing.client().get(f"/devices/{device}/shell")).status_code == 401
    assert (await wing.owner.get(f"/devices/{device}/shell")).status_code == 426


async def _read_until(socket: Any, wanted: bytes) -> bytes:
    found = b""
    while wanted not in found:
        message = await socket.get_message()
        assert isinstance(message, bytes), message
        found += message
    return found


async def test_what_belongs_to_others_is_not_there(wing: Wing, device: str) -> None:
    stranger = await wing.stranger()
    assert (await stranger.get("/devices")).json() == {"devices": []}
    for method, path in (
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/exec"),
        ("POST", "/rearm"),
        ("GET", "/files?path=/etc/passwd"),
        ("PUT", "/files?path=/tmp/x"),
    ):
        body = {"argv": ["true"]} if path == "/exec" else None
        answer = await stranger.request(method, f"/devices/{device}{path}", json=body)
        assert answer.status_code == 404, f"{method} {path}: {answer.text}"
    made = (await wing.owner.post("/org/api-keys", json={"name": "r", "scopes": ["devices:read"]})).json()
    reader = wing.client(made["plaintext"])
    assert (await reader.get(f"/devices/{device}")).status_code == 200
    assert (await reader.post(f"/devices/{device}/exec", json={"argv": ["true"]})).status_code == 403


async def test_a_device_that_cannot_be_made_is_refused(ready_wing: Wing) -> None:
    client = ready_wing.owner
    unknown = await client.post("/devices/made", json={"template": "nothing"})
    assert unknown.status_code == 404
    assert "host (sandbox)" in unknown.json()["error"]["message"]
    assert (await client.post("/devices/made", json={"template": "host", "driver": "none"})).status_code == 404
    assert (await client.post("/devices/made", json={"template": "host", "vcpus": 0})).status_code == 400
    assert (await client.get("/devices")).json() == {"devices": []}


async def test_quarantine_is_ended_by_hand(wing: Wing) -> None:
    client = wing.owner
    device = (await client.post("/devices", json={"name": "phone"})).json()["device"]["id"]
    assert (await client.post(f"/devices/{device}/rearm")).status_code == 409
    await wing.engine.devices.quarantine(device, "it smokes")
    assert (await client.post(f"/devices/{device}/rearm")).json()["device"]["id"] == device
    actions = [event["action"] for event in (await client.get("/audit-log")).json()["events"]]
    assert actions[:2] == ["device.rearmed", "device.quarantined"]


async def test_what_the_lab_shares_all_see_and_operators_change(wing: Wing) -> None:
    fact = DeviceFact(
        identity="shared-1", platform="linux", name="shared", status=DeviceStatus.READY, facts={"battery": "80"}
    )
    await wing.store.write(lambda conn: record(conn, "here", "sandbox", [Sighting(kind="seen", device=fact)]))
    for client in (wing.owner, await wing.stranger()):
        me = (await client.get("/auth/me")).json()
        (device,) = (await client.get("/devices")).json()["devices"]
        assert device["orgId"] == me["team"]["id"]
        assert device["metadata"]["battery"] == "80"
    system = Principal(kind="system", id="system")
    member = await wing.identity.users.create(by=system, name="m", email="m@example.org", password=PASSWORD)
    await wing.identity.teams.add_member(wing.first.team_id, member.id, "member", by=system)
    session = await wing.identity.sessions.create(member.id)
    cookies = {"sb-access-token": session.secret, "anvil_csrf": session.csrf}
    as_member = wing.client(Cookie="; ".join(map("=".join, cookies.items())), **{"X-CSRF-Token": session.csrf})
    assert (await as_member.delete(f"/devices/{device['id']}")).status_code == 403
    assert (await wing.owner.delete(f"/devices/{device['id']}")).status_code == 204
    assert (await wing.owner.get("/devices")).json() == {"devices": []}


async def test_the_lab_tells_of_itself(ready_wing: Wing) -> None:
    wing, client = ready_wing, ready_wing.owner
    helper, driver = (await client.get("/drivers")).json()["drivers"]
    assert (helper["name"], helper["health"]) == ("helper", "healthy")
    assert (driver["name"], driver["health"], driver["platforms"]) == ("sandbox", driver["health"], ["linux"])
    assert driver["reason"]
    plugins = (await client.get("/plugins")).json()["plugins"]
    assert {"name", "version", "api", "state", "hooks", "reason"} <= plugins[0].keys()
    (wing.settings.data_dir / "pipelines").mkdir()
    (wing.settings.data_dir / "pipelines" / "broken.toml").write_text("[[steps]]\nverb = 'fly'\n")
    listed = {each["name"]: each for each in (await client.get("/pipelines")).json()["pipelines"]}
    assert listed["smoke"]["parameters"] == {"greeting": "hello from anvil"}
    assert "broken.toml, line 2: unknown verb 'fly'" in listed["broken"]["problem"]
    refused = await client.post("/runs", json={"pipeline": "broken"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_pipeline")
