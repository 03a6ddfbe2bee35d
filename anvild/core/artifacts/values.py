"""What the artifacts' callers see."""

from __future__ import annotations

from datetime import datetime

import msgspec

__all__ = ["Artifact", "SweepReport"]


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """A file that a run or a person left behind. Its content never changes; ``size`` is in bytes."""

    id: str
    team_id: str | None
    run_id: str | None
    name: str
    media_type: str
    size: int
    sha256: str
    stored_at: datetime


class SweepReport(msgspec.Struct, frozen=True, kw_only=True):
    """What one sweep has removed: artifacts by age and by the lab's quota, and files (with their bytes)."""

    expired: int
    evicted: int
    files: int
    bytes: int
