"""Hosts that are not heard of, and are again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
import trio.testing

from anvild.core.events import EventLog
from anvild.core.hosts import Hosts, Machine
from anvild.core.hosts.hosts import CHECK_SECONDS, SILENT_SECONDS
from anvild.core.identity import SYSTEM, Identity
from anvild.core.store import Store, open_store
from anvild.sdk import Event
from tests.support.wing import quick_passwords


@dataclass
class Silence:
    """Hosts whose time the test moves, and what was told of them."""

    store: Store
    events: EventLog
    hosts: Hosts
    told: list[Event]

    async def join(self) -> str:
        host, secret = await self.hosts.create("regular", team_id=None, by=SYSTEM)
        await self.hosts.register(secret, Machine(address="192.0.2.7:0"))
        return host.id

    async def status(self, host_id: str) -> str:
        return (await self.hosts.get(host_id)).status


@pytest.fixture
async def silence(tmp_path: Path, mock_clock: trio.testing.MockClock, nursery: trio.Nursery) -> AsyncIterator[Silence]:
    async with open_store(f"sqlite:///{tmp_path / 'db'}") as store:
        events = EventLog(store)
        identity = await Identity.open(store, events, data_dir=tmp_path, passwords=quick_passwords())
        told: list[Event] = []
        await nursery.start(events.run)
        events.on_commit(lambda fresh: told.extend(each for each in fresh if each.kind in ("host.up", "host.down")))
        yield Silence(store, events, Hosts(store, identity.host_tokens), told)
        nursery.cancel_scope.cancel()


async def test_a_silent_host_is_unreachable_until_it_is_heard_of(
    silence: Silence, mock_clock: trio.testing.MockClock
) -> None:
    hosts = silence.hosts
    quiet, loud = await silence.join(), await silence.join()
    await hosts.check()
    for _ in range(int(SILENT_SECONDS / CHECK_SECONDS)):
        mock_clock.jump(CHECK_SECONDS)
        await hosts.heartbeat(loud)
        await hosts.check()
        assert await silence.status(quiet) == "online", "not before its time is over"
    mock_clock.jump(1)
    await hosts.check()
    assert (await silence.status(quiet), await silence.status(loud)) == ("unreachable", "online")
    await hosts.heartbeat(quiet)
    assert await silence.status(quiet) == "online"
    mock_clock.jump(SILENT_SECONDS)
    await hosts.check()
    assert await silence.status(quiet) == "online", "its time begins with its heartbeat"


async def test_it_is_looked_for_silent_hosts_all_the_time_and_they_are_told_of(
    silence: Silence, mock_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    host = await silence.join()
    nursery.start_soon(silence.hosts.run)
    while [event.kind for event in silence.told] != ["host.up", "host.down"]:
        mock_clock.jump(CHECK_SECONDS)
        await silence.status(host)  # which takes a moment of real time
    await silence.hosts.heartbeat(host)
    while len(silence.told) < 3:
        await silence.status(host)
    assert [event.kind for event in silence.told] == ["host.up", "host.down", "host.up"]
    assert all((event.subject_type, event.subject_id, event.audit) == ("host", host, True) for event in silence.told)
    assert "90 s" in str(silence.told[1].data["reason"])
