"""Wall-clock time. Durations and deadlines never come from here: they are measured by ``trio.current_time``."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["utcnow"]


def utcnow() -> datetime:
    """Return the present time, aware, in UTC, to the microsecond."""
    return datetime.now(UTC)
