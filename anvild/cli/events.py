"""``anvil events``, and how an event reads as a line."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from typing import Annotated, Any

from cyclopts import Parameter

from .api import ServerEvent, connect
from .context import Ctx
from .output import Output, plain

__all__ = ["events", "print_event", "sentence"]

TOLD = (
    "step",
    "test",
    "status",
    "state",
    "message",
    "severity",
    "title",
    "reason",
    "phase",
    "name",
    "driver",
    "text",
    "error",
)
"""The values of an event that a person wants on its line, in this order."""


async def events(
    *,
    follow: Annotated[bool, Parameter(alias="-f", negative="", help="Wait for more, for ever.")] = False,
    kind: Annotated[
        tuple[str, ...], Parameter(negative="", help="Only events of this kind, such as run.passed, or run. for all.")
    ] = (),
    after: Annotated[int | None, Parameter(help="Only events after the one with this id.")] = None,
    limit: Annotated[int, Parameter(help="How many that have happened already.")] = 50,
    context: Ctx,
) -> None:
    """Show what happened in your team: the latest events, or those after --after. With --follow, go on for ever."""
    async with connect(context) as api:
        kinds = ",".join(kind) or None
        answer = await api.get("/events", after=after, limit=limit, kind=kinds)
        for past in answer["events"]:
            after = past["id"]
            print_event(context.output, ServerEvent(str(after), past["kind"], past))
        if not follow:
            return
        if after is None:
            latest = await api.get("/events", limit=1)
            after = max((each["id"] for each in latest["events"]), default=0)
        async with aclosing(api.events("/events", after=str(after), kind=kinds)) as stream:
            async for event in stream:
                print_event(context.output, event)


def print_event(output: Output, event: ServerEvent) -> None:
    """Print one event: a line of JSON as the daemon wrote it, or a line for people."""
    if output.json:
        output.line(event.data)
    else:
        output.say(sentence(event))


def sentence(event: ServerEvent) -> str:
    """Tell an event in one line: when, what, of what, and what is worth knowing of it."""
    values: Mapping[str, Any] = event.data.get("data") or {}
    told = [plain(values[name]) for name in TOLD if values.get(name) not in (None, "")]
    if "number" in values and "of" in values:
        told.insert(0, f"{values['number']}/{values['of']}")
    at = str(event.data.get("at", ""))[11:19]
    return "  ".join(part for part in (at, f"{event.kind:<15}", *told) if part).rstrip()
