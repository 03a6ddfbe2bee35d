"""What teams' capsules take up and have used: sampled from the book, on either database, at moments that tests name."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
import trio
import trio.lowlevel
import trio.testing
from sqlalchemy import Text, bindparam, func, insert, select, text
from trio.testing import MockClock

from anvild.capsules.book import Book, add
from anvild.capsules.levels import Level
from anvild.capsules.metrics import WRITE_SECONDS, Metrics, Rings
from anvild.capsules.retention import capsules_retention
from anvild.capsules.stats import BUCKETS, Range, Stats
from anvild.capsules.tables import alive, capsules, ended, levels, watch
from anvild.capsules.usage import Day
from anvild.capsules.values import Capsule, Status
from anvild.core.clock import utcnow
from anvild.core.identity.tables import teams
from anvild.core.ids import new_id
from anvild.core.store import Store
from anvild.sdk import NotFound, Sample
from tests.support.capsules import Lab, lab

__all__ = ["lab"]

NOON = int(datetime(2026, 3, 10, 12, tzinfo=UTC).timestamp())
DAY = 86400
TODAY = date(2026, 3, 10)
NOTHING = Level()


class Wing:
    """The book of two teams, without a machine."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.book = Book(store)
        self.stats = Stats(store)
        self.team, self.other = new_id(), new_id()

    async def begin(self) -> None:
        common = {"name": "Team", "byoc": False, "created_at": utcnow()}
        rows = [{"id": each, "slug": each[-12:], **common} for each in (self.team, self.other)]
        await self.store.write(lambda conn: conn.execute(insert(teams), rows))

    async def capsule(self, status: Status = "running", *, vcpus: int = 2, memory: int = 511) -> str:
        made = Capsule(
            id=new_id(),
            team_id=self.team,
            created_by="system",
            status=status,
            driver="fake",
            device_id=new_id(),
            lease_id=new_id(),
            template="minimal",
            vcpus=vcpus,
            memory_mb=memory,
            disk_size_mb=None,
            timeout_sec=0,
            metadata=None,
            created_at=utcnow(),
            updated_at=utcnow(),
        )
        await self.store.write(lambda conn: add(conn, made))
        return made.id

    async def becomes(self, capsule: str, status: Status) -> None:
        moved = await self.book.settle(capsule, ["starting", "running", "paused"], status)
        assert moved is not None

    async def samples(self, first: int, last: int) -> None:
        for tick in range(first, last + 1, 10):
            await self.stats.sample(tick + 0.5)

    async def series(self, now: int, wanted: Range = "5m") -> dict[int, Level]:
        return dict((await self.stats.team(self.team, wanted, now)).series)

    async def used(self, now: int, days: int = 0) -> list[Day]:
        today = datetime.fromtimestamp(now, UTC).date()
        return list(await self.stats.usage(self.team, today - timedelta(days=days), today, now))

    async def rows(self) -> int:
        query = select(func.count()).select_from(levels)
        return await self.store.read(lambda conn: conn.execute(query).scalar_one())


@pytest.fixture
async def wing(store: Store) -> Wing:
    made = Wing(store)
    await made.begin()
    return made


async def test_what_is_there_is_counted(wing: Wing) -> None:
    for status in ("running", "starting", "paused", "pausing", "stopping", "stopped", "error"):
        await wing.capsule(status)
    shown = await wing.stats.team(wing.team, "1h", NOON)
    assert shown.current == shown.peaks == Level(2, 4, 511 + 511 + 256)
    assert shown.at == datetime.fromtimestamp(NOON, UTC)
    assert (await wing.stats.team(wing.other, "1h", NOON)).current == NOTHING


async def test_a_lab_in_which_nothing_changes_writes_a_row_a_team(wing: Wing) -> None:
    await wing.samples(NOON, NOON + 100)
    assert await wing.rows() == 2
    before = await wing.store.read(lambda conn: conn.execute(select(watch.c.until)).scalar_one())
    await wing.samples(NOON + 110, NOON + 200)
    assert await wing.store.read(lambda conn: conn.execute(select(watch.c.until)).scalar_one()) == before
    capsule = await wing.capsule()
    await wing.samples(NOON + 210, NOON + 300)
    await wing.becomes(capsule, "stopped")
    await wing.samples(NOON + 310, NOON + 400)
    assert await wing.rows() == 4
    series = await wing.series(NOON + 400)
    assert len(series) == 30, "one bucket a sample, none between"
    one = Level(1, 2, 511)
    assert series[(NOON + 200) // 3 * 3] == NOTHING
    assert series[(NOON + 210) // 3 * 3] == series[(NOON + 300) // 3 * 3] == one
    assert series[(NOON + 310) // 3 * 3] == series[(NOON + 400) // 3 * 3] == NOTHING


@pytest.mark.parametrize("wanted", BUCKETS)
async def test_a_bucket_shows_the_most_of_each(wing: Wing, wanted: Range) -> None:
    seconds, bucket = BUCKETS[wanted]
    end = NOON // bucket * bucket
    await wing.samples(end - 2 * bucket, end - 2 * bucket)  # at a bucket's begin, or near it
    first = await wing.capsule(vcpus=1, memory=100)
    second = await wing.capsule(vcpus=1, memory=100)
    peak = end - bucket // 2 // 10 * 10
    await wing.samples(peak, peak)
    await wing.becomes(first, "stopped")
    await wing.becomes(second, "paused")
    await wing.samples(peak + 10, peak + 10)
    series = await wing.series(peak + 10, wanted)
    assert set(series) <= {begin // bucket * bucket for begin in range(peak + 10 - seconds, peak + 11)}
    assert all(begin % bucket == 0 for begin in series)
    assert series[peak // bucket * bucket] == Level(2, 2, 200)
    after = series[(peak + 10) // bucket * bucket]
    assert after == (Level(2, 2, 200) if peak // bucket == (peak + 10) // bucket else Level(0, 0, 50))
    shown = await wing.stats.team(wing.team, wanted, peak + 10)
    assert (shown.current, shown.peaks) == (Level(0, 0, 50), Level(2, 2, 200))
    assert (await wing.stats.team(wing.team, wanted, peak + 31 * DAY)).peaks == Level(0, 0, 50)


async def test_time_without_a_daemon_is_not_counted(wing: Wing) -> None:
    capsule = await wing.capsule(vcpus=3, memory=600)
    await wing.samples(NOON, NOON + 50)
    assert await wing.used(NOON + 55) == [Day(TODAY, 3.0, 600.0)]
    again = Stats(wing.store)  # killed; nothing was written at its end
    await again.sample(NOON + 55)
    assert await wing.used(NOON + 55) == [Day(TODAY, 3.0, 600.0)], "a sample is taken once"
    await again.sample(NOON + 3600)
    assert await wing.used(NOON + 3600) == [Day(TODAY, 3.5, 700.0)]
    assert sorted(await wing.series(NOON + 3600)) == [NOON + 3600]
    await wing.becomes(capsule, "stopped")
    await again.sample(NOON + 3610)
    assert await wing.used(NOON + 7200) == [Day(TODAY, 3.5, 700.0)]


async def test_days_are_added_up(wing: Wing) -> None:
    capsule = await wing.capsule(vcpus=6, memory=6)
    midnight = NOON + DAY // 2
    await wing.samples(midnight - 20, midnight + 30)
    assert await wing.used(midnight + 30, 3) == [Day(TODAY, 2.0, 2.0), Day(TODAY + timedelta(1), 4.0, 4.0)]
    await wing.becomes(capsule, "stopped")
    await wing.samples(midnight + 40, midnight + 40)
    later = midnight + 2 * DAY
    await Stats(wing.store).sample(later)
    assert await wing.used(later, 10) == [
        Day(TODAY, 2.0, 2.0),
        Day(TODAY + timedelta(1), 4.0, 4.0),
        Day(TODAY + timedelta(2), 0.0, 0.0),
        Day(TODAY + timedelta(3), 0.0, 0.0),
    ]
    assert await wing.stats.usage(wing.team, TODAY + timedelta(9), TODAY + timedelta(10), later) == []


async def test_a_clock_that_is_set_back_leaves_no_future(wing: Wing) -> None:
    capsule = await wing.capsule(vcpus=6, memory=6)
    await wing.samples(NOON, NOON + 50)
    await wing.becomes(capsule, "stopped")
    await wing.samples(NOON + 60, NOON + 60)
    await wing.samples(NOON + 20, NOON + 30)
    assert await wing.used(NOON + 30) == [Day(TODAY, 2.0, 2.0)]
    series = await wing.series(NOON + 30)
    assert [series[at // 3 * 3].running for at in range(NOON, NOON + 31, 10)] == [1, 1, 0, 0]
    assert len(series) == 4


async def test_what_is_old_is_removed(wing: Wing) -> None:
    gone, stays = await wing.capsule(), await wing.capsule()
    metrics = Metrics(wing.store)
    for each in (gone, stays):
        measured(await metrics.begin(each), 0, 600)
        await metrics.end(each)
    await wing.samples(NOON, NOON)
    await wing.becomes(gone, "error")
    await wing.samples(NOON + 10, NOON + 20)
    await wing.samples(NOON + DAY, NOON + DAY)
    retention = capsules_retention(wing.store, keep=timedelta(days=1))
    assert await retention.sweep() == 2, "samples of months ago; the capsule has ended just now"
    assert await wing.rows() == 2
    retention = capsules_retention(wing.store, keep=timedelta(0))
    assert await retention.sweep() == 1
    assert await metrics.of(gone) == [[], [], []]
    assert len((await metrics.of(stays))[2]) == 2
    assert [each.id for each in await wing.book.alive()] == [stays]
    with pytest.raises(NotFound):
        await wing.book.get(gone, wing.team)
    day = Day(TODAY, (4 + 2 + 2) * 10 / 60, (1022 + 511 + 511) * 10 / 60)
    assert (await wing.used(NOON + DAY, 1))[0] == day, "the sums of days stay"


async def test_what_has_ended_is_passed_over_by_indexes(store: Store) -> None:
    if store.dialect != "sqlite":
        return
    ids, of_team = select(capsules.c.id), capsules.c.team_id == bindparam("team", type_=Text)
    for statement in (ids.where(alive, of_team).order_by(capsules.c.id), ids.where(ended, capsules.c.updated_at < 1)):
        plan = text(f"EXPLAIN QUERY PLAN {statement}")
        values = dict.fromkeys(plan.compile().params, 1)
        rows = await store.read(lambda conn, plan=plan, values=values: conn.execute(plan, values).all())
        assert [row[-1].partition(" USING ")[0] for row in rows] == ["SEARCH capsules"]


async def test_figures_are_served(lab: Lab) -> None:
    api = lab.by_key()
    for wanted in ("5m", "1h", "6h", "24h", "30d"):
        shown = await api("GET", "/v1/capsules/stats", 200, params={"range": wanted})
        assert shown["range"] == wanted
        assert {shown["current"][name] for name in ("running_count", "vcpus_reserved", "memory_mb_reserved")} == {0}
        assert len({len(values) for values in shown["series"].values()}) == 1
    assert (await api("GET", "/v1/capsules/stats", 200))["range"] == "1h"
    await api("GET", "/v1/capsules/stats", 400, params={"range": "10m"})
    shown = await api("GET", "/v1/capsules/usage", 200)
    assert date.fromisoformat(shown["to"]) - date.fromisoformat(shown["from"]) == timedelta(days=29)
    assert shown["points"][-1] == {"date": shown["to"], "cpu_minutes": 0.0, "ram_mb_minutes": 0.0}
    days = {"from": "2026-01-01", "to": "2026-04-03"}
    assert await api("GET", "/v1/capsules/usage", 200, params=days) == {**days, "points": []}
    for wrong in (
        {"from": "2026-01-02", "to": "2026-01-01"},
        {"from": "2026-01-01", "to": "2026-04-04"},
        {"from": "yesterday"},
        {"to": "2026-02-30"},
        {"from": "2999-01-01"},
    ):
        await api("GET", "/v1/capsules/usage", 400, params=wrong)
    await lab.anybody()("GET", "/v1/capsules/usage", 401, promised=False)
    await (await lab.stranger())("GET", "/v1/capsules/stats", 200)


def measured(rings: Rings, first: int, last: int) -> None:
    """Let a capsule be measured every half second."""
    for number in range(2 * first, 2 * last):
        at = datetime.fromtimestamp(NOON + number / 2, UTC)
        rings.add(Sample(at=at, cpu=50.0, memory=number, disk=7), 1)


async def test_metrics_are_written_as_time_passes(wing: Wing, nursery: trio.Nursery, mock_clock: MockClock) -> None:
    capsule = await wing.capsule()
    metrics = Metrics(wing.store)
    rings = await metrics.begin(capsule)
    nursery.start_soon(metrics.run)
    for minutes in (1, 7):
        measured(rings, 60 * (minutes - 1), 60 * minutes)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(WRITE_SECONDS)
        while await Metrics(wing.store).of(capsule) != list(rings.points):
            await trio.lowlevel.checkpoint()
    assert await metrics.begin(capsule) is rings


async def test_a_graceful_end_loses_no_sample(wing: Wing) -> None:
    capsule = await wing.capsule()
    metrics = Metrics(wing.store)
    rings = await metrics.begin(capsule)
    measured(rings, 0, 4000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(metrics.run)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    again = Metrics(wing.store)
    assert (await again.begin(capsule)).points == rings.points
    assert await again.of(capsule) == rings.points
    measured(await again.begin(capsule), 4000, 4020)
    await again.end(capsule)
    fine, mid, coarse = await again.of(capsule)
    assert fine[-1].at == mid[-1].at + 0.0 == NOON + 4019.5, "a mean goes on where the last daemon left it"
    assert [point.at for point in coarse] == [NOON + 300 * number - 0.5 for number in range(1, 14)]
    await wing.becomes(capsule, "stopped")
    assert await again.of(capsule) == [[], [], coarse]
    rings = await again.begin(capsule)
    measured(rings, 4020, 4700)
    await again.end(capsule)
    assert await again.of(capsule) == [[], [], coarse], "nothing is written of what has ended"


async def test_old_points_are_forgotten(wing: Wing) -> None:
    capsule = await wing.capsule()
    metrics = Metrics(wing.store)
    for hour in (0, 3, 30):
        rings = await metrics.begin(capsule)
        measured(rings, hour * 3600, hour * 3600 + 600)
        await metrics.end(capsule)
    found = [[(point.at - NOON) // 3600 for point in points] for points in await metrics.of(capsule)]
    assert [set(hours) for hours in found] == [{30}, {30}, {30}]
