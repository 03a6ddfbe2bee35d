"""What the room speaks of: channels, and the letters that wait in them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from anvild.core.events import EventFilter
from anvild.sdk import Event

__all__ = ["Channel", "Letter", "LetterState"]

LetterState = Literal["waiting", "dead"]
"""Waiting to be sent, for the first time or again; or given up."""


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """A subscription of a team. It hears the team's own events and those that concern the whole lab, as the team's
    event streams do; ``kinds`` says which."""

    id: str
    team_id: str
    name: str
    provider: str
    kinds: tuple[str, ...]
    created_by: str
    created_at: datetime
    updated_at: datetime

    @property
    def where(self) -> EventFilter:
        """The events that it takes."""
        return EventFilter(team_id=self.team_id, include_lab=True, kinds=self.kinds)


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """An event that a channel has not delivered. ``answer`` is what came of the last try, at ``tried_at``.

    One that waits is sent at ``due_at``, and given up at ``give_up_at``.
    """

    id: str
    channel_id: str
    event: Event
    state: LetterState
    attempts: int
    answer: str | None
    taken_at: datetime
    tried_at: datetime | None
    due_at: datetime
    give_up_at: datetime
