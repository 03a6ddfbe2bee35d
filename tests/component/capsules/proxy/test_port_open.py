"""Ports of capsules that the operator has opened to all who know their names."""

from __future__ import annotations

import pytest

from anvild.capsules.ids import to_wire
from anvild.core.ids import new_id
from anvild.core.settings import CapsuleSettings
from tests.component.capsules.proxy.conftest import Site


@pytest.fixture
def capsule_settings() -> CapsuleSettings:
    """The settings of the proxy."""
    return CapsuleSettings(proxy_domain="localhost", proxy_open=True)


async def test_nobody_is_asked_for_a_credential(site: Site) -> None:
    client = site.lab.anybody().client
    stranger = await site.lab.stranger()
    for headers in ({}, {"X-API-Key": "wrn_wrong"}, stranger.cookie_headers("POST"), {"Origin": "http://elsewhere"}):
        answer = await client.post("/echo", headers={"Host": site.host(), **headers}, content=b"data")
        assert answer.status_code == 200
        seen = dict(answer.json()["headers"])
        assert {"x-api-key", "cookie"} & set(seen) == set()
        assert seen.get("origin") == headers.get("Origin")
    for host, status in ((f"80-{to_wire('cl', new_id())}.localhost", 404), (site.host(8001), 502)):
        assert (await client.get("/", headers={"Host": host})).status_code == status
    assert (await client.get("/v1/capsules")).status_code == 401
