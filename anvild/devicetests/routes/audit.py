"""The audit log."""

from __future__ import annotations

from msgspec import UNSET

from anvild.core.identity import Identity
from anvild.core.identity.audit import AuditCursor
from anvild.web.api import Api
from anvild.web.request import Request

from .. import schemas as wire
from ..shapes import audit_shape
from .common import team_of

__all__ = ["add_audit"]


def add_audit(api: Api, identity: Identity) -> None:
    """Add the audit log."""

    @api.get(
        "/audit-log",
        summary="Paginated org-scoped audit events.",
        tags=("Audit log",),
        answers={200: wire.AuditPage},
        errors={400: "Invalid query"},
        query=wire.AuditQuery,
        action="audit:read",
    )
    async def list_audit(request: Request) -> wire.AuditPage:
        query: wire.AuditQuery = request.query
        team_id = team_of(request)
        before = None if query.before is UNSET else AuditCursor.parse(query.before)
        page = await identity.audit.list(team_id, limit=query.limit, before=before)
        return wire.AuditPage(
            events=[audit_shape(event, team_id) for event in page.events],
            next_cursor=None if page.next is None else page.next.text,
        )
