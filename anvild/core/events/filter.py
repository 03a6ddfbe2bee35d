"""Choosing events, the same way in memory and in the database."""

from __future__ import annotations

from functools import cached_property

import msgspec
from sqlalchemy import ColumnElement, and_, func, or_, true

from anvild.core.events.tables import events
from anvild.sdk import Event

__all__ = ["ALL", "EventFilter"]


class EventFilter(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Which events a reader wants; what is None or empty does not restrict.

    ``team_id`` keeps the events of one team; with ``include_lab`` also those that concern the whole lab. ``kinds`` are
    exact (``run.passed``) or, ending in a dot, all of a noun (``run.``). ``actor`` is exact.
    """

    team_id: str | None = None
    include_lab: bool = False
    run_id: str | None = None
    kinds: tuple[str, ...] = ()
    subject_type: str | None = None
    subject_id: str | None = None
    actor: str | None = None
    audit_only: bool = False

    def matches(self, event: Event) -> bool:
        """Whether this event is wanted."""
        if self.run_id is not None and event.run_id != self.run_id:
            return False
        if (
            self.team_id is not None
            and event.team_id != self.team_id
            and not (self.include_lab and event.team_id is None)
        ):
            return False
        if self.kinds and event.kind not in self._exact and not event.kind.startswith(self._prefixes):
            return False
        return (
            (self.subject_type is None or event.subject_type == self.subject_type)
            and (self.subject_id is None or event.subject_id == self.subject_id)
            and (self.actor is None or event.actor == self.actor)
            and (event.audit or not self.audit_only)
        )

    def condition(self) -> ColumnElement[bool]:
        """The same as a condition on the table."""
        wanted: list[ColumnElement[bool]] = []
        columns = events.c
        for column, value in (
            (columns.run_id, self.run_id),
            (columns.subject_type, self.subject_type),
            (columns.subject_id, self.subject_id),
            (columns.actor, self.actor),
        ):
            if value is not None:
                wanted.append(column == value)
        if self.team_id is not None:
            own = columns.team_id == self.team_id
            wanted.append(or_(own, columns.team_id.is_(None)) if self.include_lab else own)
        if self.kinds:
            # Not LIKE, which ignores the case on one of the two databases.
            prefixes = [func.substr(columns.kind, 1, len(prefix)) == prefix for prefix in self._prefixes]
            wanted.append(or_(columns.kind.in_(self._exact), *prefixes))
        if self.audit_only:
            wanted.append(columns.audit)
        return and_(true(), *wanted)

    @cached_property
    def _exact(self) -> tuple[str, ...]:
        return tuple(kind for kind in self.kinds if not kind.endswith("."))

    @cached_property
    def _prefixes(self) -> tuple[str, ...]:
        return tuple(kind for kind in self.kinds if kind.endswith("."))


ALL = EventFilter()
