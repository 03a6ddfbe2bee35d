"""Events of capsules and templates, as they happen."""

from __future__ import annotations

import msgspec
from msgspec import UNSET

from anvild.core.clock import utcnow
from anvild.core.events import EventFilter, EventLog
from anvild.sdk import Event
from anvild.web.request import Answer, Request
from anvild.web.sse import Frames, Streams, frame

from ..ids import to_wire
from ..notices import actor_shape
from ..schemas import events as wire
from ..values import Capsule
from .capsules import capsule_shape
from .views import View

__all__ = ["add_events"]

OPEN_STREAMS = 2048
"""Streams that one principal may have open: a dashboard of a whole team may sit behind one key."""

TOLD = ("reason", "from", "to", "template")


def add_events(view: View, log: EventLog) -> None:
    """Add the stream of events."""
    whose = "Of all teams" if view.platform else "Of the caller's team"
    frames = Frames(_frame)
    streams = Streams(log, per_principal=OPEN_STREAMS)

    async def stream_events(request: Request) -> Answer:
        hello = msgspec.json.encode(wire.SSEEvent(event="connected", timestamp=utcnow()))
        return streams.answer(
            request,
            frames,
            where=EventFilter(team_id=view.team(request), include_lab=True, kinds=wire.KINDS),
            greeting=b"event: connected\ndata: %s\n\n" % hello,
        )

    view.raw(
        "GET",
        "/events/stream",
        stream_events,
        summary="Real-time lifecycle event stream",
        description=f"{whose}, from now on, or from what follows `Last-Event-ID`.",
        tags=("events",),
        answers={200: wire.SSEEvent},
        media_type="text/event-stream",
        errors={400: "The stream cannot be resumed there.", 401: "Missing or invalid auth"},
        action="events:read",
    )


def _frame(event: Event) -> bytes | None:
    kind = next((known for known in wire.KINDS if known == event.kind), None)
    if kind is None:
        return None
    data = event.data
    told = wire.SSEEvent(event=kind, timestamp=event.at, actor=actor_shape(event.actor))
    if event.subject_type == "capsule":
        told.resource = wire.SSEResource(id=to_wire("cl", event.subject_id), type="sandbox")
        told.sandbox = capsule_shape(msgspec.convert(data["capsule"], Capsule))
    elif event.subject_type == "host":
        told.resource = wire.SSEResource(id=to_wire("host", event.subject_id), type="host")
    else:
        told.resource = wire.SSEResource(id=event.subject_id, type=event.subject_type)
    if "outcome" in data:
        told.outcome = "error" if data["outcome"] == "error" else "success"
    if "error" in data:
        told.error = str(data["error"])
    told.metadata = {name: str(data[name]) for name in TOLD if name in data} or UNSET
    return frame(event.id, kind, told)
