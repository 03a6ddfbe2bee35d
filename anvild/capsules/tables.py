"""The tables of capsules, and of the templates that teams made of them."""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, Table, Text, text

from anvild.core.store import Id, Json, Timestamp, metadata

__all__ = ["capsules", "templates"]

capsules = Table(
    "capsules",
    metadata,
    # The id is the identity of the device as well.
    Column("id", Id, primary_key=True),
    Column("team_id", Id, nullable=False),
    # Who made it, as events name them: they hold the lease.
    Column("created_by", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("reason", Text),
    Column("driver", Text, nullable=False),
    Column("device_id", Id, nullable=False, index=True),
    Column("lease_id", Id, nullable=False),
    Column("template", Text, nullable=False),
    Column("vcpus", Integer, nullable=False),
    Column("memory_mb", Integer, nullable=False),
    Column("disk_size_mb", Integer),
    Column("timeout_sec", Integer, nullable=False),
    Column("metadata", Json),
    # What it used before it was paused: the rings of its metrics.
    Column("metrics", Json),
    Column("created_at", Timestamp, nullable=False),
    Column("started_at", Timestamp),
    Column("last_active_at", Timestamp),
    Column("updated_at", Timestamp, nullable=False),
    Index(
        "ix_capsules_alive",
        "team_id",
        "id",
        sqlite_where=text("status NOT IN ('stopped', 'error')"),
        postgresql_where=text("status NOT IN ('stopped', 'error')"),
    ),
)

templates = Table(
    "capsule_templates",
    metadata,
    Column("id", Id, primary_key=True),
    Column("team_id", Id, nullable=False),
    Column("name", Text, nullable=False),
    Column("driver", Text, nullable=False),
    # What the driver calls it: unlike the name, no other team has the same.
    Column("reference", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("vcpus", Integer, nullable=False),
    Column("memory_mb", Integer, nullable=False),
    Column("disk_mb", Integer, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    # False while it is being made: such a one is seen by nobody, and removed after a restart.
    Column("ready", Boolean, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Index(
        "uq_capsule_templates_name",
        "team_id",
        "name",
        unique=True,
        sqlite_where=text("ready"),
        postgresql_where=text("ready"),
    ),
)
