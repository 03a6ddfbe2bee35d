"""Events: of one run until it has ended, of the team for ever; as a stream, or as a page of JSON when that is asked."""

from __future__ import annotations

from msgspec import UNSET

from anvild.core.engine import RunState
from anvild.core.events import EventFilter, EventLog
from anvild.sdk import Event
from anvild.web.api import Api
from anvild.web.request import Answer, Request
from anvild.web.sse import Frames, Streams, frame, last_event_id

from .. import schemas as wire
from ..service import PipelineRuns
from ..shapes import event_shape
from .common import team_of

__all__ = ["add_events"]

TAGS = ("Events",)
OPEN_STREAMS = 2048
"""Streams that one principal may have open: a dashboard of a whole team may sit behind one key."""

STREAM = "text/event-stream"
ENDINGS = tuple(f"run.{state.value}" for state in RunState if state.terminal)
NOTE = (
    "Answers a stream of server-sent events, which resumes after `Last-Event-ID`; "
    "with `Accept: application/json`, one page of them."
)


def add_events(api: Api, runs: PipelineRuns, log: EventLog) -> None:
    """Add the event streams."""
    frames = Frames(lambda event: frame(event.id, event.kind, event_shape(event)))
    streams = Streams(log, per_principal=OPEN_STREAMS)

    async def run_events(request: Request) -> Answer:
        run = await runs.get(team_of(request), request.path["id"])
        where = EventFilter(run_id=run.id, team_id=run.team_id, kinds=_kinds(request.query))
        if _wants_page(request):
            return await _page(log, request.query, where)
        resume = last_event_id(request)
        after = _after(request.query) or 0 if resume is None else resume
        endings = EventFilter(run_id=run.id, kinds=ENDINGS)
        if run.state.terminal and not await log.read(after=after, limit=1, where=endings):
            return Answer(204)  # the end has been seen: there is nothing more to wait for
        return streams.answer(request, frames, where=where, after=after, until=_is_ending)

    api.raw(
        "GET",
        "/runs/{id:uuid}/events",
        run_events,
        summary="Stream the events of a run, from its first one to its end.",
        description=f"{NOTE} 204 says that the run has ended and nothing follows.",
        tags=TAGS,
        answers={200: bytes, 204: None},
        media_type=STREAM,
        errors={400: "id must be a UUID", 404: "Not found"},
        query=wire.EventQuery,
        action="events:read",
        contract=False,
    )

    async def team_events(request: Request) -> Answer:
        where = EventFilter(team_id=team_of(request), include_lab=True, kinds=_kinds(request.query))
        if _wants_page(request):
            return await _page(log, request.query, where)
        return streams.answer(request, frames, where=where, after=_after(request.query))

    api.raw(
        "GET",
        "/events",
        team_events,
        summary="Stream the events of your org and of the lab, from now on.",
        description=NOTE,
        tags=TAGS,
        answers={200: bytes},
        media_type=STREAM,
        errors={400: "Invalid query"},
        query=wire.EventQuery,
        action="events:read",
        contract=False,
    )


def _is_ending(event: Event) -> bool:
    return event.kind in ENDINGS


def _wants_page(request: Request) -> bool:
    accept = request.headers.get("accept", "")
    return "application/json" in accept and STREAM not in accept


async def _page(log: EventLog, query: wire.EventQuery, where: EventFilter) -> Answer:
    """The events after a given one, oldest first; without one, the latest."""
    after = _after(query)
    found = await log.read(after=after or 0, limit=query.limit, where=where, newest_first=after is None)
    events = found if after is not None else found[::-1]
    return Answer(200, wire.EventPage(events=[event_shape(event) for event in events]))


def _after(query: wire.EventQuery) -> int | None:
    return None if query.after is UNSET else query.after


def _kinds(query: wire.EventQuery) -> tuple[str, ...]:
    return () if query.kind is UNSET else tuple(kind for kind in query.kind.split(",") if kind)
