"""The audit log: the events that an operator looks for, newest first, page by page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Literal

import msgspec
from sqlalchemy import ColumnElement, Connection, Select, select

from anvild.core.errors import FieldProblem, InvalidRequest
from anvild.core.events import EventFilter
from anvild.core.events.tables import events
from anvild.core.store import Store
from anvild.sdk import Event

from .tables import api_keys, tokens, users

__all__ = ["Audit", "AuditCursor", "AuditPage", "Doer"]

DoerKind = Literal["user", "api_key", "host", "system"]

_TIME = re.compile(r"(\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:\d\d)")
_MICROSECONDS = 6
_ID_DIGITS = 19


class AuditCursor(msgspec.Struct, frozen=True):
    """A place in the audit log: what comes next is older than it.

    As a text it is an RFC 3339 time, for clients whose interface says so. A cursor that the log gave out carries the
    event's id in the digits after the microseconds, so that pages meet exactly however many events share a moment; a
    time that a client wrote itself has no id, and stands for that moment.
    """

    at: datetime
    id: int | None = None

    @classmethod
    def parse(cls, text: str, *, field: str = "query.before") -> AuditCursor:
        """Read a cursor. Raises InvalidRequest for a text that is no RFC 3339 time with a zone."""
        expected = "an RFC 3339 time with a zone, or the cursor of the page before"
        wrong = InvalidRequest(f"expected {expected}", (FieldProblem(field, expected),))
        match = _TIME.fullmatch(text.strip())
        if match is None:
            raise wrong
        fraction = match[2] or ""
        micros = fraction[:_MICROSECONDS].ljust(_MICROSECONDS, "0")
        try:
            at = datetime.fromisoformat(f"{match[1]}.{micros}{match[3]}".upper()).astimezone(UTC)
        except (ValueError, OverflowError):
            raise wrong from None
        exact = len(fraction) == _MICROSECONDS + _ID_DIGITS
        return cls(at, int(fraction[_MICROSECONDS:]) if exact else None)

    @property
    def text(self) -> str:
        """The cursor as an RFC 3339 time."""
        suffix = "" if self.id is None else f"{self.id:0{_ID_DIGITS}d}"
        return f"{self.at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}{suffix}Z"


class Doer(msgspec.Struct, frozen=True, kw_only=True):
    """Who has done something, as people know them. Whoever is no person, key or host is the system, and has no id; a
    host has no name."""

    kind: DoerKind = "system"
    id: str | None = None
    name: str | None = None


class AuditPage(msgspec.Struct, frozen=True):
    """Audit events, newest first, and where the next page begins; None when there is none.

    ``doers`` are those who did all that, by the events' ``actor``.
    """

    events: tuple[Event, ...]
    next: AuditCursor | None
    doers: Mapping[str, Doer]


class Audit:
    """Reads the audit log. Pages neither repeat nor skip an event, whatever is appended meanwhile."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def list(
        self,
        team_id: str | None,
        *,
        limit: int = 50,
        before: AuditCursor | None = None,
        kinds: tuple[str, ...] = (),
        include_lab: bool = False,
    ) -> AuditPage:
        """Return a page of the team's audit events; of all teams when ``team_id`` is None.

        ``include_lab`` adds those that concern the whole lab; ``kinds`` keeps some, as in EventFilter.
        """
        where = EventFilter(team_id=team_id, include_lab=include_lab, kinds=kinds, audit_only=True)
        statement = select(events).where(where.condition()).order_by(events.c.id.desc()).limit(limit + 1)
        if before is not None:
            statement = statement.where(events.c.at < before.at if before.id is None else events.c.id < before.id)

        def job(connection: Connection) -> AuditPage:
            found = [Event(**row) for row in connection.execute(statement).mappings()]
            page = tuple(found[:limit])
            following = AuditCursor(page[-1].at, page[-1].id) if len(found) > limit else None
            return AuditPage(page, following, _doers(connection, {event.actor for event in page}))

        return await self._store.read(job)


_NAMED: Mapping[str, tuple[DoerKind, Select[str, str, str], ColumnElement[str]]] = MappingProxyType(
    {
        "user": ("user", select(users.c.id, users.c.id, users.c.name), users.c.id),
        "api_key": ("api_key", select(api_keys.c.id, api_keys.c.id, api_keys.c.name), api_keys.c.id),
        # A personal token is the person whose it is.
        "token": (
            "user",
            select(tokens.c.id, users.c.id, users.c.name).join(users, users.c.id == tokens.c.user_id),
            tokens.c.id,
        ),
    }
)


def _doers(connection: Connection, actors: Iterable[str]) -> dict[str, Doer]:
    """Find out who the actors of events are."""
    doers: dict[str, Doer] = {}
    ids: dict[str, list[str]] = {}
    for actor in actors:
        of, _, id_ = actor.partition(":")
        ids.setdefault(of, []).append(id_)
        doers[actor] = Doer(kind="host", id=id_) if of == "host" else Doer()
    for of, (kind, query, column) in _NAMED.items():
        if of in ids:
            for id_, shown, name in connection.execute(query.where(column.in_(ids[of]))):
                doers[f"{of}:{id_}"] = Doer(kind=kind, id=shown, name=name)
    return doers
