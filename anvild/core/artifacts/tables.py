"""The table of artifacts. The files lie beside the store; several rows may name one file."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, String, Table, Text

from anvild.core.store import Id, Timestamp, metadata

__all__ = ["artifacts"]

artifacts = Table(
    "artifacts",
    metadata,
    Column("id", Id, primary_key=True),
    Column("team_id", Id, index=True),
    Column("run_id", Id, index=True),
    Column("name", Text, nullable=False),
    Column("media_type", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False, index=True),
    Column("stored_at", Timestamp, nullable=False, index=True),
)
