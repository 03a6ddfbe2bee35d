"""The delivery book: what each channel has taken from the event log, and what became of it. All functions are jobs.

A channel takes events in the order of the log and delivers them in that order, one at a time. What is delivered leaves
the book; what is given up stays in it as a dead letter, until it is sent anew or too old.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, delete, func, insert, select, update

from anvild.core.events.tables import events
from anvild.core.ids import new_id
from anvild.sdk import Event, NotFound

from .tables import channels, letters
from .values import Channel, Letter, LetterState

__all__ = [
    "GIVE_UP",
    "Advance",
    "Failure",
    "advance",
    "channel_of",
    "delivered",
    "failed",
    "hasten",
    "letters_of",
    "newest_event",
    "replay",
    "take_in",
]

GIVE_UP = timedelta(days=3)
"""How long a failing delivery is tried again."""

PAUSES = (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0)
"""Seconds before each further try; the last try is when the letter is given up."""

KEEP_DEAD = timedelta(days=30)
SENDER = timedelta(seconds=30)
"""How long one daemon of a fleet has a letter to itself: longer than sending may take."""

PAGE = 200


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a letter was not delivered. ``final`` says that no later try will do better; ``retry_after`` that the
    receiver asks for so many seconds of peace; ``stretch`` makes the pause longer by that part, so that the channels
    which failed together do not come back together."""

    answer: str
    final: bool = False
    retry_after: float = 0.0
    stretch: float = 0.0


class Advance(msgspec.Struct, frozen=True, kw_only=True):
    """What a channel has to do next: send ``letter`` with the sealed ``config``; or wait until ``due``; or, where both
    are None, wait for an event."""

    channel: Channel
    config: str
    letter: Letter | None = None
    due: datetime | None = None


def channel_of(row: Row[Any]) -> Channel:
    """Make the value of a row of channels."""
    values = {name: getattr(row, name) for name in Channel.__struct_fields__}
    return Channel(**{**values, "kinds": tuple(values["kinds"])})


def newest_event(conn: Connection) -> int:
    """Return the id of the last event. In a write job none comes between."""
    return int(conn.execute(select(func.coalesce(func.max(events.c.id), 0))).scalar_one())


def take_in(conn: Connection, channel_id: str, now: datetime) -> None:
    """Take all events that have come since for a channel, as it is configured now."""
    row = conn.execute(select(channels).where(channels.c.id == channel_id)).one()
    channel, position = channel_of(row), row.position
    while True:
        page = select(events).where(events.c.id > position, channel.where.condition()).order_by(events.c.id).limit(PAGE)
        found = [Event(**each) for each in conn.execute(page).mappings()]
        if found:
            conn.execute(insert(letters), [_new(channel_id, event, now) for event in found])
        if len(found) < PAGE:
            break
        position = found[-1].id
    newest = newest_event(conn)
    if newest > row.position:
        conn.execute(update(channels).where(channels.c.id == channel_id).values(position=newest))


def advance(conn: Connection, channel_id: str, *, sender: str, now: datetime) -> Advance | None:
    """Take in what is new and say what is to be done next; a letter that is to be sent now belongs to ``sender`` for
    :data:`SENDER`. None when the channel is gone."""
    if conn.execute(select(channels.c.id).where(channels.c.id == channel_id)).one_or_none() is None:
        return None
    take_in(conn, channel_id, now)
    row = conn.execute(select(channels).where(channels.c.id == channel_id)).one()
    next_ = Advance(channel=channel_of(row), config=row.config)
    head = conn.execute(
        select(letters)
        .where(letters.c.channel_id == channel_id, letters.c.state == "waiting")
        .order_by(letters.c.event_id)
        .limit(1)
    ).one_or_none()
    if head is None:
        return next_
    due = head.due_at
    if head.sender not in (None, sender) and head.sender_until > due:
        due = head.sender_until
    if due > now:
        return msgspec.structs.replace(next_, due=due)
    conn.execute(update(letters).where(letters.c.id == head.id).values(sender=sender, sender_until=now + SENDER))
    return msgspec.structs.replace(next_, letter=_letter(head))


def delivered(conn: Connection, letter_id: str) -> None:
    """Take a letter that has arrived out of the book."""
    conn.execute(delete(letters).where(letters.c.id == letter_id))


def failed(conn: Connection, letter_id: str, failure: Failure, now: datetime) -> LetterState | None:
    """Note that a letter has not arrived. Returns what it is now; None when it is gone."""
    row = conn.execute(select(letters).where(letters.c.id == letter_id)).one_or_none()
    if row is None:
        return None
    dead = failure.final or now >= row.give_up_at
    pause = PAUSES[min(row.attempts, len(PAUSES) - 1)] * (1 + failure.stretch)
    wait = timedelta(seconds=min(max(pause, failure.retry_after), GIVE_UP.total_seconds()))
    state: LetterState = "dead" if dead else "waiting"
    conn.execute(
        update(letters)
        .where(letters.c.id == letter_id)
        .values(
            state=state,
            attempts=row.attempts + 1,
            answer=failure.answer,
            tried_at=now,
            due_at=row.due_at if dead else min(now + wait, row.give_up_at),
            sender=None,
            sender_until=None,
        )
    )
    if dead:
        old = (letters.c.channel_id == row.channel_id, letters.c.state == "dead")
        conn.execute(delete(letters).where(*old, letters.c.tried_at < now - KEEP_DEAD))
    return state


def hasten(conn: Connection, channel_id: str, now: datetime) -> None:
    """Have what waits in a channel sent at once: what it failed for may be mended."""
    waiting = (letters.c.channel_id == channel_id, letters.c.state == "waiting", letters.c.due_at > now)
    conn.execute(update(letters).where(*waiting).values(due_at=now))


def replay(conn: Connection, channel_id: str, letter_id: str, now: datetime) -> Letter:
    """Have a letter sent anew, at once and then again as if it were new; a dead one lives again. Raises NotFound."""
    where = (letters.c.id == letter_id, letters.c.channel_id == channel_id)
    fresh = {"state": "waiting", "attempts": 0, "due_at": now, "give_up_at": now + GIVE_UP}
    if conn.execute(update(letters).where(*where).values(**fresh)).rowcount != 1:
        raise NotFound("the channel has no such delivery")
    return _letter(conn.execute(select(letters).where(*where)).one())


def letters_of(conn: Connection, channel_id: str, *, state: LetterState | None, limit: int) -> Sequence[Letter]:
    """Return what a channel has not delivered, newest event first."""
    query = select(letters).where(letters.c.channel_id == channel_id)
    if state is not None:
        query = query.where(letters.c.state == state)
    return [_letter(row) for row in conn.execute(query.order_by(letters.c.event_id.desc()).limit(limit))]


def _new(channel_id: str, event: Event, now: datetime) -> dict[str, Any]:
    return {
        "id": new_id(),
        "channel_id": channel_id,
        "event_id": event.id,
        "event": event,
        "state": "waiting",
        "attempts": 0,
        "taken_at": now,
        "due_at": now,
        "give_up_at": now + GIVE_UP,
    }


def _letter(row: Row[Any]) -> Letter:
    values = {name: getattr(row, name) for name in Letter.__struct_fields__}
    return Letter(**{**values, "event": msgspec.convert(values["event"], Event)})
