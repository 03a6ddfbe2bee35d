"""The tables of channels and of what they still have to deliver."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, Table, Text

from anvild.core.store import Id, Json, Timestamp, metadata

__all__ = ["channels", "letters"]

channels = Table(
    "channels",
    metadata,
    Column("id", Id, primary_key=True),
    Column("team_id", Id, nullable=False),
    Column("name", Text, nullable=False),
    Column("provider", Text, nullable=False),
    # What the provider is configured with, sealed: nobody reads it but the one who sends.
    Column("config", Text, nullable=False),
    # The kinds of events that it tells of.
    Column("kinds", Json, nullable=False),
    # All events up to this one have been looked at.
    Column("position", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Column("updated_at", Timestamp, nullable=False),
    Index(None, "team_id", "name", unique=True),
)

# One row for each event that a channel has taken and not delivered. What is delivered has none.
letters = Table(
    "channel_letters",
    metadata,
    Column("id", Id, primary_key=True),
    Column("channel_id", Id, ForeignKey("channels.id", ondelete="CASCADE"), nullable=False),
    Column("event_id", BigInteger, nullable=False),
    # The event itself: the log may forget it before it is delivered.
    Column("event", Json, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("answer", Text),
    Column("taken_at", Timestamp, nullable=False),
    Column("tried_at", Timestamp),
    Column("due_at", Timestamp, nullable=False),
    # When a failing delivery is given up.
    Column("give_up_at", Timestamp, nullable=False),
    # Who is sending it, and until when nobody else may.
    Column("sender", Text),
    Column("sender_until", Timestamp),
    Index(None, "channel_id", "state", "event_id"),
)
