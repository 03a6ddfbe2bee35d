"""Devices that come to the lab by themselves: a helper on the device speaks the driver protocol over a WebSocket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from anvild.core.engine.values import Actor
from anvild.core.errors import Conflict
from anvild.core.hosts import Hosts, Machine
from anvild.core.identity import Principal
from anvild.sdk import Command, DeviceLost, Exec, StaleLease, Unavailable, run
from anvild.sdk.protocol import WebSocketRefused, connect_websocket, serve_driver
from tests.support.lab import FakeDriver, Lab
from tests.support.sockets import open_socket
from tests.support.wing import Wing

UDID = "R58M12ABCDE"


@pytest.fixture
async def lone_wing(served_wing: Any, tmp_path: Path) -> AsyncIterator[Wing]:
    """The wing without a driver of its own."""
    async with served_wing(tmp_path / "data", drivers={}) as wing:
        await wing.engine.driver("helper").wait_ready()
        yield wing


async def shake_hands(wing: Wing, udid: str = UDID) -> str:
    device = {"platform": "android", "udid": udid, "os_version": "16"}
    answer = await wing.client().post("/auth/device/handshake", json={"apiKey": wing.first.live_key, "device": device})
    assert answer.status_code == 200, answer.text
    token: str = answer.json()["token"]
    return token


@asynccontextmanager
async def helper(wing: Wing, lab: Lab, token: str, header: str = "Authorization") -> AsyncIterator[trio.CancelScope]:
    """A helper with the lab's devices, connected with this token."""
    url = wing.url.replace("http", "ws") + "/api/v1/driver"
    value = f"Bearer {token}" if header == "Authorization" else token
    transport = await connect_websocket(url, headers={header: value, "X-Host-Name": "bench-2"})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_driver, partial(FakeDriver, lab=lab), FakeDriver, transport)
        yield nursery.cancel_scope
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], Awaitable[Any]]) -> Any:
    with trio.fail_after(60):
        while not (found := await condition()):  # noqa: ASYNC110  # what is waited for is seen over HTTP alone
            await trio.sleep(0.01)
        return found


def status(wing: Wing, wanted: str) -> Callable[[], Awaitable[Any]]:
    async def look() -> Any:
        devices = (await wing.owner.get("/devices")).json()["devices"]
        return next((each for each in devices if each["status"] == wanted), None)

    return look


async def test_a_helper_s_device_appears_takes_work_and_goes(lone_wing: Wing, lab: Lab) -> None:
    lab.plug(UDID, platform="android")
    token = await shake_hands(lone_wing)
    (enrolled,) = (await lone_wing.owner.get("/devices")).json()["devices"]
    assert (enrolled["name"], enrolled["status"]) == (UDID, "provisioning")
    async with helper(lone_wing, lab, token):
        device = await until(status(lone_wing, "ready"))
        assert device["id"] == enrolled["id"], "the handshake has made it known"
        by = Actor("user:me", lone_wing.first.team_id)
        async with lone_wing.engine.session(device["id"], by) as session:
            done = await run(session.require(Exec), Command(argv=("echo", "hello")))
            assert done.exit.ok
        assert lab.devices[UDID].cleaned == 1, "its helper cleans it between two leases"
    await until(status(lone_wing, "offline"))
    stranger = await lone_wing.stranger()
    assert (await stranger.get("/devices")).json()["devices"] == [], "it is its team's alone"
    async with helper(lone_wing, lab, token):
        assert (await until(status(lone_wing, "ready")))["id"] == enrolled["id"], "the same again"


async def test_a_device_is_taken_and_given_back(lone_wing: Wing, lab: Lab) -> None:
    lab.plug(UDID, platform="android")
    async with helper(lone_wing, lab, await shake_hands(lone_wing)):
        device = (await until(status(lone_wing, "ready")))["id"]
        client = lone_wing.owner
        taken = await client.post(f"/devices/{device}/lease", json={"seconds": 60})
        assert (taken.status_code, taken.json()["lease"]["seconds"]) == (201, 60)
        again = await client.post(f"/devices/{device}/lease", json={})
        assert again.json()["lease"]["id"] == taken.json()["lease"]["id"], "it is held already"
        for _ in range(2):
            assert (await client.post(f"/devices/{device}/exec", json={"argv": ["echo", "x"]})).status_code == 200
        assert lab.devices[UDID].cleaned == 0, "not between two commands"
        by = Actor("user:else", lone_wing.first.team_id)
        with pytest.raises(Conflict):
            await lone_wing.engine.leases.acquire(device, by, duration=None)
        assert (await client.delete(f"/devices/{device}/lease")).status_code == 204
        assert lab.devices[UDID].cleaned == 1
        assert (await client.delete(f"/devices/{device}/lease")).status_code == 204, "nobody holds it"
        await lone_wing.engine.leases.acquire(device, by, duration=None)
        assert (await client.delete(f"/devices/{device}/lease")).status_code == 409
        assert (await client.post(f"/devices/{device}/lease", json={})).status_code == 409
        assert (await (await lone_wing.stranger()).post(f"/devices/{device}/lease", json={})).status_code == 404


async def test_a_registered_device_is_joined_by_its_helper(lone_wing: Wing, lab: Lab) -> None:
    lab.plug(UDID, platform="android")
    answer = await lone_wing.owner.post("/devices", json={"name": "the blue one", "metadata": {"udid": UDID}})
    registered = answer.json()["device"]
    async with helper(lone_wing, lab, await shake_hands(lone_wing)):
        device = await until(status(lone_wing, "ready"))
    assert (device["id"], device["name"]) == (registered["id"], "the blue one")


async def test_revoking_ends_the_connection_and_its_work_at_once(lone_wing: Wing, lab: Lab) -> None:
    lab.plug(UDID, platform="android")
    token = await shake_hands(lone_wing)
    owner = Principal(kind="system", id="system", name="system")
    async with helper(lone_wing, lab, token):
        device = await until(status(lone_wing, "ready"))
        by = Actor("user:me", lone_wing.first.team_id)
        async with lone_wing.engine.session(device["id"], by) as session:
            tokens = lone_wing.identity.device_tokens
            await tokens.revoke_device(UDID, team_id=lone_wing.first.team_id, by=owner)
            await until(status(lone_wing, "offline"))
            with pytest.raises((DeviceLost, Unavailable, StaleLease)):
                await run(session.require(Exec), Command(argv=("echo", "hello")))
    with pytest.raises(WebSocketRefused):
        async with helper(lone_wing, lab, token):
            raise AssertionError("a revoked token opens nothing")


async def test_the_token_rotates_within_the_connection(lone_wing: Wing) -> None:
    """By hand, message by message, as a helper in another language speaks."""
    token = await shake_hands(lone_wing)
    url = lone_wing.url.replace("http", "ws") + "/api/v1/driver"
    async with open_socket(url, extra_headers=[("Authorization", f"Bearer {token}")]) as socket:
        hello = json.loads(await socket.get_message())
        assert (hello["method"], hello["params"]["protocol"]) == ("initialize", "1.0")
        result: dict[str, Any] = {"protocol": "1.3", "name": "byhand", "capabilities": [], "a newer minor": True}
        await socket.send_message(json.dumps({"jsonrpc": "2.0", "id": hello["id"], "result": result}))
        await socket.send_message(json.dumps({"jsonrpc": "2.0", "id": 2, "method": "token.rotate", "params": {}}))
        answers = {}
        while 2 not in answers:
            message = json.loads(await socket.get_message())
            answers[message["id"]] = message
        new = answers[2]["result"]["token"]
        assert new != token
        listed = (await lone_wing.client().get("/auth/revocation-list")).json()["jti"]
        assert len(listed) == 1, "the old one has ended"
        await socket.send_message(json.dumps({"jsonrpc": "2.0", "id": 4, "method": "ping", "params": {}}))
        with trio.fail_after(60):
            while json.loads(await socket.get_message()).get("id") != 4:
                pass
    async with open_socket(url, extra_headers=[("Authorization", f"Bearer {new}")]) as socket:
        assert json.loads(await socket.get_message())["method"] == "initialize"


async def test_a_helper_speaks_for_its_own_device_alone(lone_wing: Wing, lab: Lab) -> None:
    lab.plug(UDID, platform="android")
    async with helper(lone_wing, lab, await shake_hands(lone_wing)):
        await until(status(lone_wing, "ready"))
        lab.plug("another-device", platform="android")
        lab.unplug(UDID)
        await until(status(lone_wing, "offline"))
        assert [each.identity for each in await lone_wing.engine.devices.list()] == [UDID]


async def test_another_lab_machine_brings_its_devices(lone_wing: Wing, lab: Lab) -> None:
    """The same connection with a host's token: its driver comes, with all its devices, under the host's name."""
    lab.plug("phone-1", platform="android")
    lab.plug("phone-2", platform="android")
    system = Principal(kind="system", id="system", name="system")
    hosts = lone_wing.services.get(Hosts)
    made, secret = await hosts.create("byoc", team_id=lone_wing.first.team_id, by=system)
    _, grant = await hosts.register(secret, Machine(address="192.0.2.2:0"))
    async with helper(lone_wing, lab, grant.token, "X-Host-Token"):

        async def there() -> bool:
            devices = await lone_wing.engine.devices.list()
            ready = {(each.driver, each.identity) for each in devices if each.status == "ready"}
            return ready == {("fake@bench-2", "phone-1"), ("fake@bench-2", "phone-2")}

        await until(there)
        device = (await lone_wing.engine.devices.list())[0]
        by = Actor("user:me", lone_wing.first.team_id)
        async with lone_wing.engine.session(device.id, by) as session:
            assert (await run(session.require(Exec), Command(argv=("echo", "x")))).exit.ok
        stranger = await lone_wing.stranger()
        assert (await stranger.get("/devices")).json()["devices"] == [], "they are their team's alone"
        await hosts.delete(made.id, by=system)

        async def gone() -> bool:
            return all(each.status == "offline" for each in await lone_wing.engine.devices.list())

        await until(gone)


@pytest.mark.parametrize("header", [None, "Bearer anvil_live_wrong"])
async def test_only_devices_and_hosts_connect(lone_wing: Wing, header: str | None) -> None:
    url = lone_wing.url.replace("http", "ws") + "/api/v1/driver"
    with pytest.raises(WebSocketRefused, match="401"):
        await connect_websocket(url, headers={} if header is None else {"Authorization": header})
    with pytest.raises(WebSocketRefused, match="403"):
        await connect_websocket(url, headers={"Authorization": f"Bearer {lone_wing.first.live_key}"})


async def test_a_second_connection_takes_the_place_of_the_first(lone_wing: Wing, lab: Lab) -> None:
    lab.plug(UDID, platform="android")
    token = await shake_hands(lone_wing)
    async with helper(lone_wing, lab, token):
        await until(status(lone_wing, "ready"))
        async with helper(lone_wing, lab, token):

            async def one() -> bool:
                return lab.lives["stop"] == 1

            await until(one)
            assert await until(status(lone_wing, "ready"))
