"""The wire shapes of the audit log."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from .common import Moment

__all__ = ["AuditCursor", "AuditLogEntry", "AuditPage", "AuditPageOfAll", "AuditQuery"]


class AuditQuery(msgspec.Struct):
    """Where a page begins, and how long it is: at most 200 entries, however many are asked for."""

    before: Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time"})] | UnsetType = UNSET
    before_id: str | UnsetType = UNSET
    limit: Annotated[int, msgspec.Meta(ge=1, extra_json_schema={"maximum": 200})] = 50


class AuditLogEntry(msgspec.Struct, omit_defaults=True):
    """Who did what to what. The system has no id."""

    id: str
    actor_type: Literal["user", "api_key", "host", "system"]
    resource_type: str
    resource_id: str
    action: str
    scope: str
    status: Literal["success", "failure"]
    created_at: Moment
    actor_id: str | UnsetType = UNSET
    actor_name: str | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET


class AuditCursor(msgspec.Struct):
    """Where the next page begins."""

    before: Moment
    before_id: str


class AuditPageOfAll(msgspec.Struct):
    """Entries of all teams, newest first."""

    entries: list[AuditLogEntry]


class AuditPage(AuditPageOfAll):
    """Entries, newest first. There is no next page where the cursor is null."""

    next_cursor: AuditCursor | None
