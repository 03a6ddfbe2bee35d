"""The stream of events, with namespace sandboxes: every message is held against the contract."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from anvild.capsules.ids import to_wire
from tests.support.capsules import Caller, Lab
from tests.support.contract import Document
from tests.support.events import listening

# The HTTP library leaves its own generators to the collector when a stream is left before its end.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning")


async def test_what_happens_to_capsules_is_told(
    api: Caller, make: Any, until: Any, sandboxes: Lab, contract: Document
) -> None:
    with trio.fail_after(60):
        async with listening(api, contract) as messages:
            capsule = await make()
            await api("POST", "/v1/snapshots", 201, json={"sandbox_id": capsule, "name": "mine"})
            await api("DELETE", "/v1/snapshots/{name}", 204, values={"name": "mine"})
            await api("DELETE", "/v1/capsules/{id}", 202, values={"id": capsule})
            told = [await anext(messages) for _ in range(8)]
        changed = [(each["metadata"]["from"], each["metadata"]["to"]) for _, each in told if "outcome" not in each]
        assert changed == [
            ("pending", "starting"),
            ("starting", "running"),
            ("running", "stopping"),
            ("stopping", "stopped"),
        ]
        done = {each["event"]: each for _, each in told if "outcome" in each}
        assert list(done) == [
            "capsule.create",
            "template.snapshot.create",
            "template.snapshot.delete",
            "capsule.destroy",
        ]
        assert {each["outcome"] for each in done.values()} == {"success"}
        assert {each["actor"]["type"] for each in done.values()} == {"api_key"}
        assert done["capsule.create"]["resource"] == {"id": capsule, "type": "sandbox"}
        assert done["capsule.create"]["sandbox"]["status"] == "running"
        assert done["template.snapshot.create"]["resource"] == {"id": "mine", "type": "snapshot"}
        async with listening(api, contract, **{"Last-Event-ID": str(told[0][0])}) as again:
            assert [await anext(again) for _ in range(7)] == told[1:]


async def test_events_are_their_teams_own(api: Caller, make: Any, sandboxes: Lab, contract: Document) -> None:
    other = await sandboxes.stranger()
    with trio.fail_after(60):
        async with listening(other, contract) as messages:
            await make()
            mine = await other("POST", "/v1/capsules", 202, json={"template": "host"})
            _, told = await anext(messages)
            assert told["resource"]["id"] == mine["id"]
            assert told["sandbox"]["id"] != to_wire("cl", sandboxes.wing.first.team_id)
