"""The table of hosts: lab machines that have joined this one, or are about to."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, String, Table, Text

from anvild.core.store import Id, Json, Timestamp, metadata

__all__ = ["hosts"]

hosts = Table(
    "hosts",
    metadata,
    Column("id", Id, primary_key=True),
    Column("type", String(16), nullable=False),
    # Whose it is; null for one that all teams use.
    Column("team_id", Id, index=True),
    # What the machine calls itself, told when it first connects, and unlike that of any other.
    Column("name", String(80), unique=True),
    Column("provider", String(128)),
    Column("availability_zone", String(128)),
    Column("arch", String(64)),
    Column("cpu_cores", BigInteger),
    Column("memory_mb", BigInteger),
    Column("disk_gb", BigInteger),
    Column("address", String(255)),
    Column("status", String(16), nullable=False),
    Column("tags", Json, nullable=False),
    # The names of the drivers that it has ever lent.
    Column("drivers", Json, nullable=False),
    Column("last_heartbeat_at", Timestamp),
    Column("created_by", Text, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Column("updated_at", Timestamp, nullable=False),
)
