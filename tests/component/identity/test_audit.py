"""The audit log: whose, in which order, page by page."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import trio
from sqlalchemy import Connection, insert

from anvild.core.events import append
from anvild.core.events.tables import events
from anvild.core.identity import Audit, AuditCursor
from anvild.core.ids import new_id
from anvild.core.store import Store, open_store
from anvild.sdk import Event

MINE, THEIRS = new_id(), new_id()
AT = datetime(2026, 3, 1, tzinfo=UTC)
LOTS = 1_000_000


async def write(store: Store, count: int, *, team_id: str | None = MINE, at: datetime = AT, audit: bool = True) -> None:
    """Append events that all have the same moment."""

    def job(connection: Connection) -> None:
        row = {
            "at": at,
            "kind": "key.created",
            "subject_type": "api_key",
            "subject_id": "k",
            "team_id": team_id,
            "actor": "system",
            "data": {},
            "audit": audit,
        }
        connection.execute(insert(events), [row] * count)

    await store.write(job)


async def pages(audit: Audit, store: Store, *, limit: int, by_text: bool = True) -> list[Event]:
    """Read all pages as a client does, while others write."""
    found: list[Event] = []
    before: AuditCursor | None = None
    while True:
        page = await audit.list(MINE, limit=limit, before=before)
        found += page.events
        if page.next is None:
            return found
        before = AuditCursor.parse(page.next.text) if by_text else page.next
        await write(store, 1)


@pytest.mark.parametrize("limit", [1, 5])
async def test_pages_neither_repeat_nor_skip(store: Store, limit: int) -> None:
    await write(store, 7)
    await write(store, 5, at=AT - timedelta(days=1))  # the clock was set back
    found = await pages(Audit(store), store, limit=limit)
    ids = [event.id for event in found]
    assert len(ids) == 12
    assert ids == sorted(set(ids), reverse=True)


@pytest.mark.parametrize("limit", [1, 3])
async def test_pages_meet_while_two_daemons_write(store: Store, store_url: str, limit: int) -> None:
    """Each reader finds once what there is from its first entry down, also what others were writing just then."""
    audit = Audit(store)
    read = trio.Event()
    found: list[list[int]] = []

    async def append_until_read(writer: Store, days: int) -> None:
        while not read.is_set():
            await write(writer, 2, at=AT - timedelta(days=days))  # the clocks of the two do not agree

    async def read_all() -> None:
        ids: list[int] = []
        page = await audit.list(MINE, limit=limit)
        while page.next is not None:
            ids += [event.id for event in page.events]
            page = await audit.list(MINE, limit=limit, before=page.next)
        found.append(ids + [event.id for event in page.events])

    async with open_store(store_url) as other:
        await write(store, 20)
        async with trio.open_nursery() as writers:
            writers.start_soon(append_until_read, store, 0)
            writers.start_soon(append_until_read, other, 1)
            async with trio.open_nursery() as readers:
                for _ in range(5):
                    readers.start_soon(read_all)
            read.set()
    everything = [event.id for event in (await audit.list(MINE, limit=LOTS)).events]
    assert len(found) == 5
    for ids in found:
        assert ids == [id_ for id_ in everything if id_ <= ids[0]]


async def test_only_audit_events_of_the_own_team(store: Store) -> None:
    audit = Audit(store)
    await write(store, 1)
    await write(store, 2, team_id=THEIRS)
    await write(store, 4, team_id=None)
    await write(store, 8, audit=False)
    await store.write(
        lambda connection: append(connection, "team.renamed", subject=("team", MINE), team_id=MINE, audit=True)
    )
    assert len((await audit.list(MINE)).events) == 2
    assert len((await audit.list(MINE, include_lab=True)).events) == 6
    assert len((await audit.list(None)).events) == 8
    assert [event.kind for event in (await audit.list(MINE, kinds=("team.",))).events] == ["team.renamed"]


async def test_a_time_of_the_clients_own_is_exclusive(store: Store) -> None:
    audit = Audit(store)
    await write(store, 3)
    assert (await audit.list(MINE, before=AuditCursor(AT))).events == ()
    assert len((await audit.list(MINE, before=AuditCursor(AT + timedelta(microseconds=1)))).events) == 3
