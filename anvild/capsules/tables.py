"""The tables of capsules, and of the templates that teams made of them."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Date,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    literal_column,
    text,
)

from anvild.core.store import Id, Json, Timestamp, metadata

__all__ = ["alive", "capsules", "ended", "levels", "metrics", "templates", "usage", "watch"]

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
    # As it was asked for, or as the settings said then; NULL is none.
    Column("network", Json),
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
    Index(
        "ix_capsules_ended",
        "updated_at",
        sqlite_where=text("status IN ('stopped', 'error')"),
        postgresql_where=text("status IN ('stopped', 'error')"),
    ),
)

alive: ColumnElement[bool] = literal_column("(capsules.status NOT IN ('stopped', 'error'))", Boolean)
ended: ColumnElement[bool] = literal_column("(capsules.status IN ('stopped', 'error'))", Boolean)
"""The conditions of the two indexes, spelt as literals: with parameters neither database would use the indexes."""

metrics = Table(
    "capsule_metrics",
    metadata,
    # The points of a capsule's metrics, in the order of their writing: those of a ring that were new then.
    Column("id", BigInteger().with_variant(Integer(), "sqlite"), Identity(), primary_key=True),
    Column("capsule_id", Id, nullable=False),
    Column("ring", Integer, nullable=False),
    # The time of the last one.
    Column("at", Timestamp, nullable=False),
    Column("points", LargeBinary, nullable=False),
    Index("ix_capsule_metrics_capsule_id", "capsule_id", "ring", "at"),
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
    # Of one that a build is making: the attempt that does. It is seen when that has passed, and then has none.
    Column("run_id", Id),
    Column("attempt", Integer),
    # What processes in capsules of it find in their environment, and who they are; None leaves that to the driver.
    Column("environment", Json),
    Column("account", Text),
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

levels = Table(
    "capsule_levels",
    metadata,
    # What the capsules of a team took up: a row for each stretch of samples, ten seconds apart, that were all alike.
    Column("team_id", Id, primary_key=True),
    # The Unix seconds of its first sample.
    Column("since", BigInteger, primary_key=True),
    # Those of its last one. NULL while it goes on: nothing is written as long as nothing changes.
    Column("until", BigInteger, index=True),
    Column("running", Integer, nullable=False),
    Column("vcpus", Integer, nullable=False),
    Column("memory_mb", Integer, nullable=False),
    Index(
        "uq_capsule_levels_open",
        "team_id",
        unique=True,
        sqlite_where=text("until IS NULL"),
        postgresql_where=text("until IS NULL"),
    ),
)

watch = Table(
    "capsule_watch",
    metadata,
    # One row: when samples were last taken while there was any capsule, in Unix seconds.
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("until", BigInteger, nullable=False),
)

usage = Table(
    "capsule_usage",
    metadata,
    # What a team's samples of one whole day (UTC) come to.
    Column("day", Date, primary_key=True),
    Column("team_id", Id, primary_key=True),
    Column("cpu_seconds", BigInteger, nullable=False),
    Column("memory_mb_seconds", BigInteger, nullable=False),
    Index("ix_capsule_usage_team_id", "team_id", "day"),
)
