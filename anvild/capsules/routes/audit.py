"""The audit log, of a team and of all."""

from __future__ import annotations

from contextlib import suppress

from msgspec import UNSET

from anvild.core.errors import FieldProblem, InvalidRequest
from anvild.core.identity import AuditCursor, Doer, Identity
from anvild.core.ids import event_of, id_of_event
from anvild.sdk import Event, NotFound
from anvild.web.request import Request

from ..audit import ENTRIES, kinds_of, metadata_of, resource_id_of
from ..ids import Kind, from_wire, to_wire
from ..schemas import audit as wire
from .common import SESSION, beyond
from .views import View

__all__ = ["add_audit"]

LONGEST = 200

_PREFIXES: dict[str, Kind] = {"user": "usr", "api_key": "key", "host": "host"}


def add_audit(view: View, identity: Identity) -> None:
    """Add the audit log."""

    @view.get(
        "/audit-logs",
        summary="List audit log entries of all teams" if view.platform else "List team audit log entries",
        description="Newest first. A page begins after the entry that `before` and `before_id` name: its `created_at` "
        "and `id`, as `next_cursor` has them; `before` alone is a time. `resource_type` and `action`, several times or "
        "with commas, keep some entries.",
        tags=("audit",),
        answers={200: wire.AuditPageOfAll if view.platform else wire.AuditPage},
        errors={400: "The cursor is none."},
        query=wire.AuditQuery,
        action="audit:read",
        accepts=SESSION,
    )
    async def list_audit_logs(request: Request) -> wire.AuditPage:
        query: wire.AuditQuery = request.query
        team_id = view.team(request)
        role = None if view.platform else request.principal.role
        kinds = kinds_of(role, _listed(request, "resource_type"), _listed(request, "action"))
        before = _cursor(query)
        if not kinds:
            return wire.AuditPage(entries=[], next_cursor=None)
        page = await identity.audit.list(team_id, limit=min(query.limit, LONGEST), before=before, kinds=kinds)
        following = None
        if page.next is not None and page.next.id is not None:
            following = wire.AuditCursor(before=page.next.at, before_id=to_wire("log", id_of_event(page.next.id)))
        entries = [_entry(event, page.doers[event.actor]) for event in page.events]
        return wire.AuditPage(entries=entries, next_cursor=following)


def _listed(request: Request, name: str) -> frozenset[str]:
    return frozenset(part for value in beyond(request, name) for part in value.split(",") if part)


def _cursor(query: wire.AuditQuery) -> AuditCursor | None:
    """Return where the page begins. An id without a time says nothing."""
    if query.before is UNSET:
        return None
    at = AuditCursor.parse(query.before).at
    if query.before_id is UNSET:
        return AuditCursor(at)
    with suppress(NotFound):
        number = event_of(from_wire("log", query.before_id))
        if number is not None:
            return AuditCursor(at, number)
    expected = "the id of an entry"
    raise InvalidRequest(f"expected {expected}", (FieldProblem("query.before_id", expected),))


def _entry(event: Event, doer: Doer) -> wire.AuditLogEntry:
    entry = ENTRIES[event.kind]
    return wire.AuditLogEntry(
        id=to_wire("log", id_of_event(event.id)),
        actor_type=doer.kind,
        actor_id=UNSET if doer.id is None else to_wire(_PREFIXES[doer.kind], doer.id),
        actor_name=doer.name or UNSET,
        resource_type=entry.resource,
        resource_id=resource_id_of(event, entry),
        action=entry.action,
        scope=entry.scope,
        status="failure" if entry.bad or event.data.get("outcome") == "error" else "success",
        metadata=metadata_of(event, entry) or UNSET,
        created_at=event.at,
    )
