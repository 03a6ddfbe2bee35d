"""Counting what the artifacts take, so that a limit is kept while files still stream in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from anvild.core.errors import StorageFull

__all__ = ["Claim", "Usage"]

_NEARLY, _RELIEVED = 0.95, 0.9  # of the lab's limit: where room is made, and how far


class Usage:
    """Bytes stored and bytes on their way in, by team; None stands for the lab itself. A limit of None does not limit.

    Equal contents are counted as often as they are stored: what a team may keep does not depend on other teams.
    """

    def __init__(self, *, lab_limit: int | None, team_limit: int | None) -> None:
        self._lab_limit = lab_limit
        self._team_limit = team_limit
        self._stored: Counter[str | None] = Counter()
        self._coming: Counter[str | None] = Counter()

    def replace(self, stored: Mapping[str | None, int]) -> None:
        """Take over the true sums of what is stored."""
        self._stored = Counter(stored)

    def excess(self) -> int:
        """How many bytes must go for the lab to have room again; 0 while it has."""
        if self._lab_limit is None or self._stored.total() <= self._lab_limit * _NEARLY:
            return 0
        return self._stored.total() - int(self._lab_limit * _RELIEVED)

    @contextmanager
    def claim(self, team_id: str | None) -> Iterator[Claim]:
        """Count what comes in for a team; it is forgotten at the end of the block unless it was kept."""
        claim = Claim(self, team_id)
        try:
            yield claim
        finally:
            self._coming[team_id] -= claim.size

    def extend(self, claim: Claim, size: int) -> None:
        """Let a claim grow. Raises StorageFull, and lets it not, when a limit would be passed."""
        lab = self._stored.total() + self._coming.total() + size
        if self._lab_limit is not None and lab > self._lab_limit:
            raise StorageFull(f"the artifacts of the lab may take {self._lab_limit} bytes, and they do")
        team = self._stored[claim.team_id] + self._coming[claim.team_id] + size
        if self._team_limit is not None and claim.team_id is not None and team > self._team_limit:
            raise StorageFull(f"the artifacts of the team may take {self._team_limit} bytes, and they do")
        self._coming[claim.team_id] += size
        claim.size += size

    def keep(self, claim: Claim) -> None:
        """Count a claim as stored."""
        self._stored[claim.team_id] += claim.size


class Claim:
    """What one artifact that is being stored takes."""

    def __init__(self, usage: Usage, team_id: str | None) -> None:
        self.team_id = team_id
        self.size = 0
        self._usage = usage

    def extend(self, size: int) -> None:
        """Take more bytes. Raises StorageFull, and takes none, when a limit would be passed."""
        self._usage.extend(self, size)

    def keep(self) -> None:
        """Count what was taken as stored."""
        self._usage.keep(self)
