"""The event log's table."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Identity, Index, Integer, Table, Text, text

from anvild.core.store import Id, Json, Timestamp, metadata

__all__ = ["events"]

# The id grows in commit order on both databases, because one transaction at a time writes. AUTOINCREMENT keeps SQLite
# from giving an id again after the newest events were deleted.
events = Table(
    "events",
    metadata,
    Column("id", BigInteger().with_variant(Integer(), "sqlite"), Identity(), primary_key=True),
    Column("at", Timestamp, nullable=False),
    Column("kind", Text, nullable=False),
    Column("subject_type", Text, nullable=False),
    Column("subject_id", Text, nullable=False),
    Column("team_id", Id),
    Column("run_id", Id),
    Column("actor", Text, nullable=False),
    Column("data", Json, nullable=False),
    Column("audit", Boolean, nullable=False),
    Column("ip", Text),
    Column("user_agent", Text),
    Index(None, "team_id", "id"),
    Index(None, "run_id", "id", sqlite_where=text("run_id IS NOT NULL"), postgresql_where=text("run_id IS NOT NULL")),
    Index(None, "subject_type", "subject_id", "id"),
    Index(None, "audit", "id", sqlite_where=text("audit"), postgresql_where=text("audit")),
    sqlite_autoincrement=True,
)
