"""What an observer sees of the event log."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """A fact that has happened, as the log keeps it.

    ``id`` grows in commit order: who has seen an id has seen, or can read, all before it. ``kind`` is
    ``noun.verb`` (``run.passed``, ``device.lost``). ``subject`` is what it tells of, as ``type`` and ``id``; ``run_id``
    is set on all that happens within a run. ``actor`` names the principal as ``type:id``. ``team_id`` None means that
    it concerns the whole lab. ``audit`` marks the events that the audit views show.
    """

    id: int
    at: datetime
    kind: str
    subject_type: str
    subject_id: str
    team_id: str | None = None
    run_id: str | None = None
    actor: str = "system"
    data: dict[str, Any] = {}
    audit: bool = False
    ip: str | None = None
    user_agent: str | None = None
