"""What the capsules of a team take up, have taken up, and have used."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta

from msgspec import UnsetType

from anvild.core.errors import InvalidRequest
from anvild.web.api import Api
from anvild.web.request import Request

from ..schemas import figures as wire
from ..stats import Stats
from .capsules import TAGS
from .common import KEY_OR_SESSION, team_of

__all__ = ["add_figures"]

USUAL_DAYS = timedelta(days=29)
MOST_DAYS = timedelta(days=92)


def add_figures(api: Api, stats: Stats) -> None:
    """Add the figures of the caller's team."""

    @api.get(
        "/capsules/stats",
        summary="Get capsule usage stats for your team",
        description="Samples are taken every ten seconds, and kept for 60 days. Of the time that the range covers, "
        "each bucket shows the most that there was; buckets in which no sample was taken are left out.",
        tags=TAGS,
        answers={200: wire.CapsuleStats},
        errors={400: "Invalid range parameter"},
        query=wire.StatsQuery,
        action="capsules:read",
        accepts=KEY_OR_SESSION,
    )
    async def get_capsule_stats(request: Request) -> wire.CapsuleStats:
        query: wire.StatsQuery = request.query
        found = await stats.team(team_of(request), query.range, time.time())
        return wire.CapsuleStats(
            range=query.range,
            current=wire.CurrentStats(
                running_count=found.current.running,
                vcpus_reserved=found.current.vcpus,
                memory_mb_reserved=found.current.memory_mb,
                sampled_at=found.at,
            ),
            peaks=wire.PeakStats(
                running_count=found.peaks.running, vcpus=found.peaks.vcpus, memory_mb=found.peaks.memory_mb
            ),
            series=wire.StatsSeries(
                labels=[datetime.fromtimestamp(begin, UTC) for begin, _ in found.series],
                running=[level.running for _, level in found.series],
                vcpus=[level.vcpus for _, level in found.series],
                memory_mb=[level.memory_mb for _, level in found.series],
            ),
        )

    @api.get(
        "/capsules/usage",
        summary="Get daily CPU and RAM usage for your team",
        description="What was reserved on each day (UTC), times how long: from 29 days ago to today, or from another "
        "day to another one, at most 92 days later. Days of which nothing is known are left out.",
        tags=TAGS,
        answers={200: wire.UsageResponse},
        errors={400: "The days cannot be."},
        query=wire.UsageQuery,
        action="capsules:read",
        accepts=KEY_OR_SESSION,
    )
    async def get_capsule_usage(request: Request) -> wire.UsageResponse:
        now = time.time()
        first, last = _days(request.query, datetime.fromtimestamp(now, UTC).date())
        return wire.UsageResponse(
            first=first,
            last=last,
            points=[
                wire.UsagePoint(day=each.day, cpu_minutes=each.cpu_minutes, ram_mb_minutes=each.memory_mb_minutes)
                for each in await stats.usage(team_of(request), first, last, now)
            ],
        )


def _days(query: wire.UsageQuery, today: date) -> tuple[date, date]:
    """Return the first and the last day that are asked for. Raises InvalidRequest."""
    first = today - USUAL_DAYS if isinstance(query.first, UnsetType) else query.first
    last = today if isinstance(query.last, UnsetType) else query.last
    if last < first:
        raise InvalidRequest(f"the last day, {last}, is before the first one, {first}")
    if last - first > MOST_DAYS:
        raise InvalidRequest(f"from {first} to {last} is too long: at most {MOST_DAYS.days} days")
    return first, last
