"""The tables of the identity room. No column holds a secret that could be used: hashes and sealed texts only."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, ForeignKey, Index, Integer, String, Table, Text, UniqueConstraint

from anvild.core.store import Id, Json, Timestamp, metadata

__all__ = [
    "api_keys",
    "device_tokens",
    "idempotency_keys",
    "linked_logins",
    "memberships",
    "sessions",
    "signing_keys",
    "teams",
    "tokens",
    "users",
]

teams = Table(
    "teams",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", String(128), nullable=False),
    Column("slug", String(32), nullable=False, unique=True),
    Column("device_cap", Integer),
    # Whether it may bring hosts of its own.
    Column("byoc", Boolean, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Column("deleted_at", Timestamp),
)

users = Table(
    "users",
    metadata,
    Column("id", Id, primary_key=True),
    Column("number", Integer, nullable=False, unique=True),
    Column("email", String(254), unique=True),
    Column("username", String(128), unique=True),
    Column("name", String(100), nullable=False),
    Column("password_hash", Text),
    Column("status", String(16), nullable=False),
    Column("is_admin", Boolean, nullable=False),
    Column("lab_role", String(16), nullable=False),
    # Counts up when all of a person's login tokens shall end; each carries the number that it was made under.
    Column("token_generation", Integer, nullable=False),
    Column("created_at", Timestamp, nullable=False),
    Column("last_login_at", Timestamp),
    Column("deleted_at", Timestamp),
)

memberships = Table(
    "memberships",
    metadata,
    Column("team_id", Id, ForeignKey("teams.id"), primary_key=True),
    Column("user_id", Id, ForeignKey("users.id"), primary_key=True, index=True),
    Column("role", String(16), nullable=False),
    Column("is_default", Boolean, nullable=False),
    Column("joined_at", Timestamp, nullable=False),
)

# With which accounts of other services a person can log in.
linked_logins = Table(
    "linked_logins",
    metadata,
    Column("user_id", Id, ForeignKey("users.id"), primary_key=True),
    Column("provider", String(32), primary_key=True),
    Column("subject", String(128), nullable=False),
    Column("created_at", Timestamp, nullable=False),
    UniqueConstraint("provider", "subject"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Id, primary_key=True),
    Column("team_id", Id, ForeignKey("teams.id"), nullable=False),
    Column("name", String(120), nullable=False),
    Column("digest", String(64), nullable=False, unique=True),
    Column("prefix", String(16), nullable=False),
    Column("last4", String(4), nullable=False),
    Column("scopes", Json, nullable=False),
    Column("created_by", Id, ForeignKey("users.id"), index=True),
    Column("created_at", Timestamp, nullable=False),
    Column("last_used_at", Timestamp),
    Column("revoked_at", Timestamp),
    Index("ix_api_keys_team_id_created_at", "team_id", "created_at"),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", Id, primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("csrf_digest", String(64), nullable=False),
    Column("user_id", Id, ForeignKey("users.id"), nullable=False, index=True),
    Column("team_id", Id, ForeignKey("teams.id")),
    Column("user_agent", String(400)),
    Column("ip", String(64)),
    Column("created_at", Timestamp, nullable=False),
    Column("last_seen_at", Timestamp, nullable=False),
    Column("expires_at", Timestamp, nullable=False, index=True),
    Column("revoked_at", Timestamp),
)

# Everything that is a random text with an owner and an end: mail links, personal tokens, host tokens.
tokens = Table(
    "tokens",
    metadata,
    Column("id", Id, primary_key=True),
    Column("kind", String(32), nullable=False),
    Column("number", Integer, unique=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("user_id", Id, ForeignKey("users.id"), index=True),
    Column("team_id", Id, ForeignKey("teams.id")),
    Column("host_id", Id, index=True),
    # All refresh tokens that grew from one registration: using an old one again ends them all.
    Column("family", Id, index=True),
    Column("name", String(120)),
    Column("abilities", Json),
    Column("created_at", Timestamp, nullable=False),
    Column("expires_at", Timestamp, index=True),
    Column("used_at", Timestamp),
    Column("last_used_at", Timestamp),
    Column("revoked_at", Timestamp),
)

device_tokens = Table(
    "device_tokens",
    metadata,
    Column("jti", Id, primary_key=True),
    Column("team_id", Id, ForeignKey("teams.id"), nullable=False),
    Column("device_id", Id),
    Column("udid", String(200), nullable=False),
    Column("platform", String(64), nullable=False),
    Column("api_key_id", Id, ForeignKey("api_keys.id"), index=True),
    Column("issued_at", Timestamp, nullable=False),
    Column("expires_at", Timestamp, nullable=False, index=True),
    Column("revoked_at", Timestamp, index=True),
    Index("ix_device_tokens_team_id_udid", "team_id", "udid"),
)

signing_keys = Table(
    "signing_keys",
    metadata,
    Column("kid", String(64), primary_key=True),
    Column("purpose", String(16), nullable=False),
    Column("algorithm", String(16), nullable=False),
    Column("sealed", Text, nullable=False),
    Column("jwk", Json),
    Column("created_at", Timestamp, nullable=False),
    Column("retired_at", Timestamp),
    # Set when the key is retired: until then a token that it signed may still be good.
    Column("expires_at", Timestamp),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    # The hash of principal, operation and key.
    Column("slot", String(64), primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    # The daemon that works on the request; null when nobody does any more.
    Column("worker", Id),
    Column("claimed_at", Timestamp, nullable=False),
    # The id that the request's new object has, the same at every try.
    Column("object_id", Id, nullable=False),
    Column("status", Integer),
    # Sealed, because the answer to a creation may hold a secret.
    Column("answer", Text),
    Column("expires_at", Timestamp, nullable=False, index=True),
)
