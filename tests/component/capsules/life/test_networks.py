"""Networks of capsules as people ask for them, with namespace sandboxes that really go out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from anvild.core.settings import CapsuleSettings, Settings
from anvild.sdk import Description, Driver
from anvild.web.server import ConnectionLimits
from anvild_sandbox.driver import SandboxDriver
from tests.support.capsules import Caller, Lab, served_lab

ALL = "/v1/capsules"
ONE = "/v1/capsules/{id}"
EXEC = "/v1/capsules/{id}/exec"
LOOPBACK = ("127.0.0.1/32",)
FETCH = """
import sys, urllib.error, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1]).read().decode())
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
except urllib.error.URLError as error:
    print(error.reason.errno)
"""

Labs = Callable[..., AbstractAsyncContextManager[Lab]]


class Bare(SandboxDriver):
    """The driver, when it could give no network."""

    async def describe(self) -> Description:
        found = await super().describe()
        without = tuple(each for each in found.capabilities if each != "network")
        return msgspec.structs.replace(found, capabilities=without)


@pytest.fixture
def labs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Labs:
    """Serve the wing with these settings of capsules. It does not wait long for clients that do not close their end."""
    monkeypatch.setattr("tests.support.wing.ConnectionLimits", partial(ConnectionLimits, linger_seconds=0.05))

    @asynccontextmanager
    async def lab(kind: type[Driver] = SandboxDriver, **chosen: Any) -> AsyncIterator[Lab]:
        data = tmp_path / "data"
        settings = Settings(data_dir=data, config_dir=data / "etc", capsules=CapsuleSettings(**chosen))
        async with served_lab(data, drivers={"sandbox": kind}, settings=settings) as found:
            await found.wing.engine.driver("sandbox").wait_ready()
            yield found

    return lab


@pytest.fixture
async def site() -> AsyncIterator[str]:
    """A web server on the host's loopback."""

    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, answer, [listener])
        yield f"127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def made(api: Caller, **wish: Any) -> dict[str, Any]:
    """Make a capsule, and return it as it is shown when it runs."""
    capsule = await api("POST", ALL, 202, json={"template": "host", **wish})
    with trio.fail_after(60):
        while True:
            shown: dict[str, Any] = await api("GET", ONE, 200, values={"id": capsule["id"]})
            if shown["status"] == "running":
                assert shown.get("network") == capsule.get("network")
                return shown
            assert shown["status"] == "starting", shown
            await trio.sleep(0.02)


async def fetched(api: Caller, capsule: dict[str, Any], site: str) -> str:
    line = 'unset no_proxy NO_PROXY; exec python3 -c "$0" "$1"'
    body = {"cmd": "/bin/sh", "args": ["-c", line, FETCH, f"http://{site}/"]}
    return str((await api("POST", EXEC, 200, values={"id": capsule["id"]}, json=body))["stdout"]).strip()


async def test_a_capsule_has_the_network_that_it_asks_for(labs: Labs, site: str) -> None:
    async with labs(network_private=LOOPBACK) as lab:
        api = lab.by_key()
        alone = await made(api)
        assert "network" not in alone
        assert await fetched(api, alone, site) == "111", "nothing listens"
        allowed = await made(api, network={"allow": [site]})
        assert allowed["network"] == {"allow": [site]}
        assert await fetched(api, allowed, site) == "hello"
        assert await fetched(api, allowed, "169.254.169.254") == (
            "403 169.254.169.254:80 is link-local or a metadata service"
        )
        wide = await made(api, network="internet")
        assert wide["network"] == "internet"
        assert await fetched(api, wide, site) == f"403 {site} is not on the allow-list"
        listed = {each["id"]: each.get("network") for each in await api("GET", ALL, 200)}
        assert listed == {alone["id"]: None, allowed["id"]: {"allow": [site]}, wide["id"]: "internet"}
        await api("POST", "/v1/snapshots", 201, json={"sandbox_id": allowed["id"], "name": "copied"})
        copy = await made(api, template="copied")
        assert "network" not in copy, "the network is that of the creation, not that of the template's source"
        assert await fetched(api, copy, site) == "111"


WRONG: list[tuple[object, str]] = [
    ("everything", "network"),
    (7, "network"),
    ([], "network"),
    ({}, "allow"),
    ({"allow": []}, "network"),
    ({"allow": "*"}, "allow"),
    ({"allow": [""]}, "allow"),
    ({"allow": ["packages.example.org", "no host"]}, "network.allow[1]"),
    ({"allow": ["a:0"]}, "network.allow[0]"),
    ({"allow": ["10.0.0.0/8"]}, "network.allow[0]"),
    ({"allow": ["127.0.0.1"]}, "network.allow[0]"),
    ({"allow": ["*", "169.254.169.254"]}, "network.allow[1]"),
    ({"allow": ["a"] * 257}, "network"),
]


async def test_networks_that_cannot_be(labs: Labs) -> None:
    async with labs() as lab:
        api = lab.by_key()
        for network, field in WRONG:
            error = await api("POST", ALL, 400, json={"template": "host", "network": network}, promised=False)
            assert error["code"] == "invalid_request"
            assert field in error["message"], network
        assert await api("GET", ALL, 200) == []


async def test_the_settings_name_the_usual_network(labs: Labs, site: str) -> None:
    async with labs(network=(site,), network_private=LOOPBACK) as lab:
        api = lab.by_key()
        usual = await made(api)
        assert usual["network"] == {"allow": [site]}
        assert await fetched(api, usual, site) == "hello"
        assert "network" not in await made(api, network="none")
        assert (await made(api, network="internet"))["network"] == "internet"


async def test_a_driver_that_can_give_none(labs: Labs) -> None:
    async with labs(Bare, network="internet") as lab:
        api = lab.by_key()
        assert "network" not in await made(api)
        assert "network" not in await made(api, network="none")
        error = await api("POST", ALL, 501, json={"template": "host", "network": "internet"}, promised=False)
        assert error["code"] == "agent_error"
        assert "cannot give capsules a network" in error["message"]
