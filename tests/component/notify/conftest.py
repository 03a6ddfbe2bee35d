"""Delivery on either database, by a clock that tests move, to receivers that they play."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
import trio
from sqlalchemy import Connection, insert
from trio.testing import MockClock

from anvild.core.clock import utcnow
from anvild.core.events import EventLog, append
from anvild.core.identity import SecretBox
from anvild.core.identity.tables import teams
from anvild.core.ids import new_id
from anvild.core.notify import Channel, Delivery, GuardedOutbound, Letter, Notifiers, book
from anvild.core.notify.sealing import sealed
from anvild.core.notify.tables import channels
from anvild.core.store import Store
from anvild.sdk import Event, Notice, Notifier, Outbound

KIND = "run.passed"
START = datetime(2026, 3, 10, 12, tzinfo=UTC)


class Config(msgspec.Struct, frozen=True):
    """Where to."""

    to: str


@dataclass
class Receivers:
    """Those that are sent to. ``sent`` is what each was offered, in order: the times and the ids of events. ``answers``
    says what becomes of it; who has none takes all."""

    sent: list[tuple[str, float, int]] = field(default_factory=list)
    answers: dict[str, Callable[[int], Awaitable[str]]] = field(default_factory=dict)

    def of(self, to: str) -> list[int]:
        return [number for receiver, _, number in self.sent if receiver == to]

    def times(self, to: str) -> list[float]:
        return [time for receiver, time, _ in self.sent if receiver == to]

    def notifier(self) -> type[Notifier]:
        receivers = self

        class Played(Notifier):
            name = "played"
            config_type = Config

            async def send(self, config: Config, notice: Notice) -> str:
                number = int(notice.id)
                receivers.sent.append((config.to, trio.current_time(), number))
                answer = receivers.answers.get(config.to)
                return await answer(number) if answer is not None else "taken"

        return Played


@dataclass
class Office:
    """A lab whose deliveries are tested."""

    store: Store
    events: EventLog
    receivers: Receivers
    team: str
    box: SecretBox
    outbound: Outbound
    clock: MockClock

    def now(self) -> datetime:
        return START + timedelta(seconds=self.clock.current_time())

    async def tell(self, channel: Channel, event: Event) -> Notice:
        if event.data.get("unspeakable"):
            raise KeyError("nobody knows how to tell of this")
        return Notice(id=str(event.id), kind=event.kind, at=event.at, title=event.kind, text="")

    @asynccontextmanager
    async def delivering(self, sender: str = "here", *, installed: bool = True) -> AsyncIterator[Delivery]:
        """Deliver while the block runs."""
        kinds = {"played": self.receivers.notifier()} if installed else {}
        notifiers = Notifiers(kinds, self.outbound)
        delivery = Delivery(self.store, self.events, notifiers, self.box, self.tell, sender=sender, now=self.now)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(delivery.run)
            yield delivery
            nursery.cancel_scope.cancel()

    async def channel(self, to: str, kinds: tuple[str, ...] = (KIND,), *, box: SecretBox | None = None) -> str:
        """Make a channel."""
        id_, now = new_id(), utcnow()
        row = {
            "id": id_,
            "team_id": self.team,
            "name": to,
            "provider": "played",
            "config": sealed(box or self.box, id_, {"to": to}),
            "kinds": kinds,
            "created_by": "system",
            "created_at": now,
            "updated_at": now,
        }

        def job(conn: Connection) -> None:
            conn.execute(insert(channels).values(**row, position=book.newest_event(conn)))
            append(conn, "channel.created", subject=("channel", id_), team_id=self.team)

        await self.store.write(job)
        return id_

    async def happens(self, count: int = 1, kind: str = KIND, **data: Any) -> list[int]:
        """Append events and return their ids."""

        def job(conn: Connection) -> list[int]:
            subject = ("run", "r")
            return [append(conn, kind, subject=subject, team_id=self.team, data=data) for _ in range(count)]

        return await self.store.write(job)

    async def letters(self, channel: str) -> list[Letter]:
        """What a channel has not delivered, oldest first."""
        found = await self.store.read(lambda conn: book.letters_of(conn, channel, state=None, limit=1000))
        return list(reversed(found))

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        """Look until something is so. No time of the moved clock passes by it; the pause leaves the processor to
        those who are waited for."""
        while not await holds():
            await trio.to_thread.run_sync(time.sleep, 0.002)

    async def until_sent(self, to: str, count: int) -> list[int]:
        """Wait until a receiver was offered so much."""

        async def offered() -> bool:
            return len(self.receivers.of(to)) >= count

        await self.until(offered)
        return self.receivers.of(to)

    async def until_tried(self, channel: str, attempts: int, *, position: int = 0) -> Letter:
        """Wait until a letter was tried so often, and return it."""
        found: list[Letter] = []

        async def tried() -> bool:
            found[:] = await self.letters(channel)
            return len(found) > position and found[position].attempts >= attempts

        await self.until(tried)
        return found[position]

    async def until_empty(self, channel: str) -> None:
        """Wait until a channel has delivered all."""

        async def empty() -> bool:
            return not await self.letters(channel)

        await self.until(empty)

    async def until_counted(self, delivery: Delivery, **expected: int) -> None:
        """Wait until the statistics say so: they are counted after the book."""

        async def counted() -> bool:
            statistics = delivery.statistics()
            return all(getattr(statistics, name) == value for name, value in expected.items())

        await self.until(counted)

    def jump_to(self, moment: datetime) -> None:
        """Move the clock to just after a moment that is to come."""
        self.clock.jump(max(0.0, (moment - self.now()).total_seconds()) + 0.001)


@pytest.fixture
async def office(store: Store, mock_clock: MockClock) -> AsyncIterator[Office]:
    """The lab, with one team. Its tests name the clock too: that is what makes it theirs."""
    assert trio.lowlevel.current_clock() is mock_clock
    events, team = EventLog(store), new_id()
    row = {"id": team, "name": "Team", "slug": "aaaaaa-bbbbbb", "byoc": False, "created_at": utcnow()}
    await store.write(lambda conn: conn.execute(insert(teams).values(**row)))
    async with trio.open_nursery() as nursery:
        await nursery.start(events.run)
        yield Office(store, events, Receivers(), team, SecretBox(bytes(32)), GuardedOutbound(), mock_clock)
        nursery.cancel_scope.cancel()
