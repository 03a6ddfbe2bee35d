"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from anvild.core.store import columns

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "artifacts",
        sa.Column("id", columns.Id(), nullable=False),
        sa.Column("team_id", columns.Id(), nullable=True),
        sa.Column("run_id", columns.Id(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("stored_at", columns.Timestamp(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_artifacts")),
    )
    op.create_index(op.f("ix_artifacts_run_id"), "artifacts", ["run_id"], unique=False)
    op.create_index(op.f("ix_artifacts_sha256"), "artifacts", ["sha256"], unique=False)
    op.create_index(op.f("ix_artifacts_stored_at"), "artifacts", ["stored_at"], unique=False)
    op.create_index(op.f("ix_artifacts_team_id"), "artifacts", ["team_id"], unique=False)
    op.create_table(
        "capsule_levels",
        sa.Column("team_id", columns.Id(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=True),
        sa.Column("running", sa.Integer(), nullable=False),
        sa.Column("vcpus", sa.Integer(), nullable=False),
        sa.Column("memory_mb", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("team_id", "since", name=op.f("pk_capsule_levels")),
    )
    op.create_index(op.f("ix_capsule_levels_until"), "capsule_levels", ["until"], unique=False)
    op.create_index(
        "uq_capsule_levels_open",
        "capsule_levels",
        ["team_id"],
        unique=True,
        sqlite_where=sa.text("until IS NULL"),
        postgresql_where=sa.text("until IS NULL"),
    )
    op.create_table(
        "capsule_metrics",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(always=False), nullable=False
        ),
        sa.Column("capsule_id", columns.Id(), nullable=False),
        sa.Column("ring", sa.Integer(), nullable=False),
        sa.Column("at", columns.Timestamp(), nullable=False),
        sa.Column("points", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_capsule_metrics")),
    )
    op.create_index("ix_capsule_metrics_capsule_id", "capsule_metrics", ["capsule_id", "ring", "at"], unique=False)
    op.create_table(
        "capsule_templates",
        sa.Column("id", columns.Id(), nullable=False),
        sa.Column("team_id", columns.Id(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("driver", sa.Text(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("vcpus", sa.Integer(), nullable=False),
        sa.Column("memory_mb", sa.Integer(), nullable=False),
        sa.Column("disk_mb", sa.Integer(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("ready", sa.Boolean(), nullable=False),
        sa.Column("run_id", columns.Id(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=True),
        sa.Column("environment", columns.Json(), nullable=True),
        sa.Column("account", sa.Text(), nullable=True),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", columns.Timestamp(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_capsule_templates")),
    )
    op.create_index(
        "uq_capsule_templates_name",
        "capsule_templates",
        ["team_id", "name"],
        unique=True,
        sqlite_where=sa.text("ready"),
        postgresql_where=sa.text("ready"),
    )
    op.create_table(
        "capsule_usage",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("team_id", columns.Id(), nullable=False),
        sa.Column("cpu_seconds", sa.BigInteger(), nullable=False),
        sa.Column("memory_mb_seconds", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("day", "team_id", name=op.f("pk_capsule_usage")),
    )
    op.create_index("ix_capsule_usage_team_id", "capsule_usage", ["team_id", "day"], unique=False)
    op.create_table(
        "capsule_watch",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_capsule_watch")),
    )
    op.create_table(
        "capsules",
        sa.Column("id", columns.Id(), nullable=False),
        sa.Column("team_id", columns.Id(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("driver", sa.Text(), nullable=False),
        sa.Column("device_id", columns.Id(), nullable=False),
        sa.Column("lease_id", columns.Id(), nullable=False),
        sa.Column("template", sa.Text(), nullable=False),
        sa.Column("vcpus", sa.Integer(), nullable=False),
        sa.Column("memory_mb", sa.Integer(), nullable=False),
        sa.Column("disk_size_mb", sa.Integer(), nullable=True),
        sa.Column("timeout_sec", sa.Integer(), nullable=False),
        sa.Column("metadata", columns.Json(), nullable=True),
        sa.Column("network", columns.Json(), nullable=True),
        sa.Column("created_at", columns.Timestamp(), nullable=False),
        sa.Column("started_at", columns.Timestamp(), nullable=True),
        sa.Column("last_active_at", columns.Timestamp(), nullable=True),
        sa.Column("updated_at", columns.Timestamp(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_capsules")),
    )
    op.create_index(
        "ix_capsules_alive",
        "capsules",
        ["team_id", "id"],
        unique=False,
        sqlite_where=sa.text("status NOT IN ('stopped', 'error')"),
        postgresql_where=sa.text("status NOT IN ('stopped', 'error')"),
    )
    op.create_index(op.f("ix_capsules_device_id"), "capsules", ["device_id"], unique=False)
    op.create_index(
        "ix_capsules_ended",
        "capsules",
        ["updated_at"],
        unique=False,
        sqlite_where=sa.text("status IN ('stopped', 'error')"),
        postgresql_where=sa.text("status IN ('stopped', 'error')"),
    )
    op.create_table(
        "channels",
        sa.Column("id", columns.Id(), nullable=False),
        sa.Column("team_id", columns.Id(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("config", sa.Text(), nullable=False),
        sa.Column("kinds", columns.Json(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", columns.Timestamp(), nullable=False),
        sa.Column("updated_at", columns.Timestamp(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_channels")),
    )
    op.create_index(op.f("ix_channels_team_id_name"), "channels", ["team_id", "name"], unique=True)
    op.create_table(
        "devices",
        sa.Column("id", columns.Id(), nullable=False),
        sa.Column("driver", sa.Text(), nullable=True),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("identity", sa.Text(), nullable=False),
        sa.Column("platform", sa.Text(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("firmware_version", sa.Text(), nullable=True),
        sa.Column("capabilities", columns.Json(), nullable=False),
        sa.Column("facts", columns.Json(), nullable=False),
        sa.Column("metadata", columns.Json(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("handle", sa.Text(), nullable=True),
        sa.Column("team_id", columns.Id(), nullable=True),
        sa.Column("made_to_order", sa.Boolean(), nullable=False),
        sa.Column("by_hand", sa.Boolean(), nullable=False),
        sa.Column("quarantine", sa.Text(), nullable=True),
        sa.Column("unclean", sa.Boolean(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("created_at", columns.Timestamp(), nullable=False),
        sa.Column("last_seen_at", columns.Timestamp(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_devices")),
        sa.UniqueConstraint("driver", "host", "identity", name=op.f("uq_devices_driver_host_identity")),
    )
    op.create_index(
        "ix_devices_free",
        "devices",
        ["host", "driver"],
        unique=False,
        sqlite_where=sa.text("status = 'ready' AND made_to_order = 0"),
        postgresql_where=sa.text("status = 'ready' AND NOT made_to_order"),
    )
    op.create_index(
        "ix_devices_left",
        "devices",
        ["host", "driver"],
        unique=False,
        sqlite_where=sa.text("status <> 'retired' OR unclean"),
        postgresql_where=sa.text("status <> 'retired' OR unclean"),
    )
    op.create_index("ix_devices_team", "devices", ["team_id", "id"], unique=False)
    op.create_table(
        "events",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(always=False), nullable=False
        ),
        sa.Column("at", columns.Timestamp(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject_type", sa.Text(), nullable=False),
        sa.Column("subject_id", sa.Text(), nullable=False),
        sa.Column("team_id", columns.Id(), nullable=True),
        sa.Column("run_id", columns.Id(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("data", columns.Json(), nullable=False),
        sa.Column("audit", sa.Boolean(), nullable=False),
        sa.Column("ip", sa.Text(), nullable=True),
        sa.Column("user_agent", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        op.f("ix_events_audit_id"),
        "events",
        ["audit", "id"],
        unique=False,
        sqlite_where=sa.text("audit"),
        postgresql_where=sa.text("audit"),
    )
    op.create_index(
        op.f("ix_events_run_id_id"),
        "events",
        ["run_id", "id"],
        unique=False,
        sqlite_where=sa.text("run_id IS NOT NULL"),
        postgresql_where=sa.text("run_id IS NOT NULL"),
    )
    op.create_index(
        op.f("ix_events_subject_type_subject_id_id"), "events", ["subject_type", "subject_id", "id"], unique=False
    )
    op.create_index(op.f("ix_events_team_id_id"), "events", ["team_id", "id"], unique=False)
    op.create_table(
        "hosts",
        sa.Column("id", columns.Id(), nullable=False),
        sa.Column("type", sa.String(length=16), nullable=False),
        sa.Column("team_id", columns.Id(), nullable=True),
        sa.Column("name", sa.String(length=80), nullable=True),
        sa.Column("provider", sa.String(length=128), nullable=True),
        sa.Column("availability_zone", sa.String(length=128), nullable=True),
        sa.Column("arch", sa.String(length=64), nullable=True),
        sa.Column("cpu_cores", sa.BigInteger(), nullable=True),
        sa.Column("memory_mb", sa.BigInteger(), nullable=True),
        sa.Column("disk_gb", sa.BigInteger(), nullable=True),
        sa.Column("address", sa.String(length=255), nullable=True),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("tags", columns.Json(), nullable=False),
        sa.Column("drivers", columns.Json(), nullable=False),
        sa.Column("last_heartbeat_at", columns.Timestamp(), nullable=True),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", columns.Timestamp(), nullable=False),
        sa.Column("updated_at", columns.Timestamp(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hosts")),
        sa.UniqueConstraint("name", name=op.f("uq_hosts_name")),
    )
    op.create_index(op.f("ix_hosts_team_id"), "hosts", ["team_id"], unique=False)
    op.create_table(
        "idempotency_keys",
        sa.Column("slot", sa.String(length=64), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("worker", columns.Id(), nullable=True),
        sa.Column("claimed_at", columns.Timestamp(), nullable=False),
        sa.Column("object_id", columns.Id(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.Column("expires_at", columns.Timestamp(), nullable=False),
        sa.PrimaryKeyConstraint("slot", name=op.f("pk_idempotency_keys")),
    )
    op.create_index(op.f("ix_idempotency_keys_expires_at"), "idempotency_keys", ["expires_at"], unique=False)
    op.create_table(
        "runs",
        sa.Column("number", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("id", columns.Id(), nullable=False),
        sa.Column("team_id", columns.Id(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("spec", columns.Json(), nullable=True),
        sa.Column("requirements", columns.Json(), nullable=False),
        sa.Column("metadata", columns.Json(), nullable=True),
        sa.Column("device_id", columns.Id(), nullable=True),
        sa.Column("used_device_id", columns.Id(), nullable=True),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("deadline", sa.Float(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("pausing", sa.Boolean(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("spent", sa.Integer(), nullable=False),
        sa.Column("false_starts", sa.Integer(), nullable=False),
        sa.Column("reason_code", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("waiting", sa.Text(), nullable=True),
        sa.Column("retry_of", columns.Id(), nullable=True),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", columns.Timestamp(), nullable=False),
        sa.Column("started_at", columns.Timestamp(), nullable=True),
        sa.Column("ended_at", columns.Timestamp(), nullable=True),
        sa.Column("checkpoint", columns.Json(), nullable=True),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_runs")),
        sa.UniqueConstraint("id", name=op.f("uq_runs_id")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_runs_ended",
        "runs",
        ["ended_at"],
        unique=False,
        sqlite_where=sa.text("ended_at IS NOT NULL"),
        postgresql_where=sa.text("ended_at IS NOT NULL"),
    )
    op.create_index(
        "ix_runs_queue",
        "runs",
        ["lane", "number"],
        unique=False,
        sqlite_where=sa.text("state = 'queued'"),
        postgresql_where=sa.text("state = 'queued'"),
    )
    op.create_index(
        "ix_runs_running",
        "runs",
        ["team_id"],
        unique=False,
        sqlite_where=sa.text("state = 'running'"),
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_index("ix_runs_team", "runs", ["team_id", "number"], unique=False)
    op.create_index(
        "ix_runs_wanting",
        "runs",
        ["device_id"],
        unique=False,
        sqlite_where=sa.text("device_id IS NOT NULL"),
        postgresql_where=sa.text("device_id IS NOT NULL"),
    )
    op.create_table(
        "signing_keys",
        sa.Column("kid", sa.String(length=64), nullable=False),
        sa.Column("purpose", sa.String(length=16), nullable=False),
        sa.Column("algorithm", sa.String(length=16), nullable=False),
        sa.Column("sealed", sa.Text(), nullable=False),
        sa.Column("jwk", columns.Json(), nullable=True),
        sa.Column("created_at", columns.Timestamp(), nullable=False),
        sa.Column("retired_at", columns.Timestamp(), nullable=True),
        sa.Column("expires_at", columns.Timestamp(), nullable=True),
        sa.PrimaryKeyConstraint("kid", name=op.f("pk_signing_keys")),
    )
    op.create_table(
        "teams",
        sa.Column("id", columns.Id(), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("slug", sa.String(length=32), nullable=False),
        sa.Column("device_cap", sa.Integer(), nullable=True),
        sa.Column("byoc", sa.Boolean(), nullable=False),
        sa.Column("created_at", columns.Timestamp(), nullable=False),
        sa.Column("deleted_at", columns.Timestamp(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_teams")),
        sa.UniqueConstraint("slug", name=op.f("uq_teams_slug")),
    )
    op.create_table(
        "users",
        sa.Column("id", columns.Id(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("email", sa.String(length=254), nullable=True),
        sa.Column("username", sa.String(length=128), nullable=True),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=True),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("is_admin", sa.Boolean(), nullable=False),
        sa.Column("lab_role", sa.String(length=16), nullable=False),
        sa.Column("token_generation", sa.Integer(), nullable=False),
        sa.Column("created_at", columns.Timestamp(), nullable=False),
        sa.Column("last_login_at", columns.Timestamp(), nullable=True),
        sa.Column("deleted_at", columns.Timestamp(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("email", name=op.f("uq_users_email")),
        sa.UniqueConstraint("number", name=op.f("uq_users_number")),
        sa.UniqueConstraint("username", name=op.f("uq_users_username")),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", columns.Id(), nullable=False),
        sa.Column("team_id", columns.Id(), nullable=False),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("prefix", sa.String(length=16), nullable=False),
        sa.Column("last4", sa.String(length=4), nullable=False),
        sa.Column("scopes", columns.Json(), nullable=False),
        sa.Column("created_by", columns.Id(), nullable=True),
        sa.Column("created_at", columns.Timestamp(), nullable=False),
        sa.Column("last_used_at", columns.Timestamp(), nullable=True),
        sa.Column("revoked_at", columns.Timestamp(), nullable=True),
        sa.ForeignKeyConstraint(["created_by"], ["users.id"], name=op.f("fk_api_keys_created_by")),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_api_keys_team_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("digest", name=op.f("uq_api_keys_digest")),
    )
    op.create_index(op.f("ix_api_keys_created_by"), "api_keys", ["created_by"], unique=False)
    op.create_index("ix_api_keys_team_id_created_at", "api_keys", ["team_id", "created_at"], unique=False)
    op.create_table(
        "channel_letters",
        sa.Column("id", columns.Id(), nullable=False),
        sa.Column("channel_id", columns.Id(), nullable=False),
        sa.Column("event_id", sa.BigInteger(), nullable=False),
        sa.Column("event", columns.Json(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.Column("taken_at", columns.Timestamp(), nullable=False),
        sa.Column("tried_at", columns.Timestamp(), nullable=True),
        sa.Column("due_at", columns.Timestamp(), nullable=False),
        sa.Column("give_up_at", columns.Timestamp(), nullable=False),
        sa.Column("sender", sa.Text(), nullable=True),
        sa.Column("sender_until", columns.Timestamp(), nullable=True),
        sa.ForeignKeyConstraint(
            ["channel_id"], ["channels.id"], name=op.f("fk_channel_letters_channel_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_channel_letters")),
    )
    op.create_index(
        op.f("ix_channel_letters_channel_id_state_event_id"),
        "channel_letters",
        ["channel_id", "state", "event_id"],
        unique=False,
    )
    op.create_table(
        "findings",
        sa.Column("id", columns.Id(), nullable=False),
        sa.Column("run_id", columns.Id(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("severity", sa.Text(), nullable=False),
        sa.Column("category", sa.Text(), nullable=True),
        sa.Column("title", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("created_at", columns.Timestamp(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_findings_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_findings")),
    )
    op.create_index("ix_findings_run", "findings", ["run_id", "id"], unique=False)
    op.create_table(
        "leases",
        sa.Column("id", columns.Id(), nullable=False),
        sa.Column("device_id", columns.Id(), nullable=False),
        sa.Column("driver", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=True),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("team_id", columns.Id(), nullable=True),
        sa.Column("run_id", columns.Id(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=True),
        sa.Column("incarnation", sa.Text(), nullable=False),
        sa.Column("duration", sa.Float(), nullable=True),
        sa.Column("granted_at", columns.Timestamp(), nullable=False),
        sa.Column("released_at", columns.Timestamp(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["device_id"], ["devices.id"], name=op.f("fk_leases_device_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_leases")),
    )
    op.create_index(
        "ix_leases_active",
        "leases",
        ["host"],
        unique=False,
        sqlite_where=sa.text("released_at IS NULL"),
        postgresql_where=sa.text("released_at IS NULL"),
    )
    op.create_index(op.f("ix_leases_device_id"), "leases", ["device_id"], unique=False)
    op.create_index("ix_leases_run", "leases", ["run_id", "attempt"], unique=False)
    op.create_index(
        "uq_leases_device",
        "leases",
        ["device_id"],
        unique=True,
        sqlite_where=sa.text("released_at IS NULL"),
        postgresql_where=sa.text("released_at IS NULL"),
    )
    op.create_index(
        "uq_leases_slot",
        "leases",
        ["host", "driver", "slot"],
        unique=True,
        sqlite_where=sa.text("released_at IS NULL AND slot IS NOT NULL"),
        postgresql_where=sa.text("released_at IS NULL AND slot IS NOT NULL"),
    )
    op.create_table(
        "linked_logins",
        sa.Column("user_id", columns.Id(), nullable=False),
        sa.Column("provider", sa.String(length=32), nullable=False),
        sa.Column("subject", sa.String(length=128), nullable=False),
        sa.Column("created_at", columns.Timestamp(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_linked_logins_user_id")),
        sa.PrimaryKeyConstraint("user_id", "provider", name=op.f("pk_linked_logins")),
        sa.UniqueConstraint("provider", "subject", name=op.f("uq_linked_logins_provider_subject")),
    )
    op.create_table(
        "memberships",
        sa.Column("team_id", columns.Id(), nullable=False),
        sa.Column("user_id", columns.Id(), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("is_default", sa.Boolean(), nullable=False),
        sa.Column("joined_at", columns.Timestamp(), nullable=False),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_memberships_team_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_memberships_user_id")),
        sa.PrimaryKeyConstraint("team_id", "user_id", name=op.f("pk_memberships")),
    )
    op.create_index(op.f("ix_memberships_user_id"), "memberships", ["user_id"], unique=False)
    op.create_table(
        "sessions",
        sa.Column("id", columns.Id(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("csrf_digest", sa.String(length=64), nullable=False),
        sa.Column("user_id", columns.Id(), nullable=False),
        sa.Column("team_id", columns.Id(), nullable=True),
        sa.Column("user_agent", sa.String(length=400), nullable=True),
        sa.Column("ip", sa.String(length=64), nullable=True),
        sa.Column("created_at", columns.Timestamp(), nullable=False),
        sa.Column("last_seen_at", columns.Timestamp(), nullable=False),
        sa.Column("expires_at", columns.Timestamp(), nullable=False),
        sa.Column("revoked_at", columns.Timestamp(), nullable=True),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_sessions_team_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_sessions_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sessions")),
        sa.UniqueConstraint("digest", name=op.f("uq_sessions_digest")),
    )
    op.create_index(op.f("ix_sessions_expires_at"), "sessions", ["expires_at"], unique=False)
    op.create_index(op.f("ix_sessions_user_id"), "sessions", ["user_id"], unique=False)
    op.create_table(
        "tokens",
        sa.Column("id", columns.Id(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("number", sa.Integer(), nullable=True),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("user_id", columns.Id(), nullable=True),
        sa.Column("team_id", columns.Id(), nullable=True),
        sa.Column("host_id", columns.Id(), nullable=True),
        sa.Column("family", columns.Id(), nullable=True),
        sa.Column("name", sa.String(length=120), nullable=True),
        sa.Column("abilities", columns.Json(), nullable=True),
        sa.Column("created_at", columns.Timestamp(), nullable=False),
        sa.Column("expires_at", columns.Timestamp(), nullable=True),
        sa.Column("used_at", columns.Timestamp(), nullable=True),
        sa.Column("last_used_at", columns.Timestamp(), nullable=True),
        sa.Column("revoked_at", columns.Timestamp(), nullable=True),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_tokens_team_id")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_tokens_user_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokens")),
        sa.UniqueConstraint("digest", name=op.f("uq_tokens_digest")),
        sa.UniqueConstraint("number", name=op.f("uq_tokens_number")),
    )
    op.create_index(op.f("ix_tokens_expires_at"), "tokens", ["expires_at"], unique=False)
    op.create_index(op.f("ix_tokens_family"), "tokens", ["family"], unique=False)
    op.create_index(op.f("ix_tokens_host_id"), "tokens", ["host_id"], unique=False)
    op.create_index(op.f("ix_tokens_user_id"), "tokens", ["user_id"], unique=False)
    op.create_table(
        "attempts",
        sa.Column("run_id", columns.Id(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("device_id", columns.Id(), nullable=False),
        sa.Column("lease_id", columns.Id(), nullable=False),
        sa.Column("incarnation", sa.Text(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=True),
        sa.Column("reason_code", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("started_at", columns.Timestamp(), nullable=False),
        sa.Column("ended_at", columns.Timestamp(), nullable=True),
        sa.ForeignKeyConstraint(["lease_id"], ["leases.id"], name=op.f("fk_attempts_lease_id")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_attempts_run_id")),
        sa.PrimaryKeyConstraint("run_id", "attempt", name=op.f("pk_attempts")),
    )
    op.create_index(op.f("ix_attempts_lease_id"), "attempts", ["lease_id"], unique=False)
    op.create_table(
        "device_tokens",
        sa.Column("jti", columns.Id(), nullable=False),
        sa.Column("team_id", columns.Id(), nullable=False),
        sa.Column("device_id", columns.Id(), nullable=True),
        sa.Column("udid", sa.String(length=200), nullable=False),
        sa.Column("platform", sa.String(length=64), nullable=False),
        sa.Column("api_key_id", columns.Id(), nullable=True),
        sa.Column("issued_at", columns.Timestamp(), nullable=False),
        sa.Column("expires_at", columns.Timestamp(), nullable=False),
        sa.Column("revoked_at", columns.Timestamp(), nullable=True),
        sa.ForeignKeyConstraint(["api_key_id"], ["api_keys.id"], name=op.f("fk_device_tokens_api_key_id")),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_device_tokens_team_id")),
        sa.PrimaryKeyConstraint("jti", name=op.f("pk_device_tokens")),
    )
    op.create_index(op.f("ix_device_tokens_api_key_id"), "device_tokens", ["api_key_id"], unique=False)
    op.create_index(op.f("ix_device_tokens_expires_at"), "device_tokens", ["expires_at"], unique=False)
    op.create_index(op.f("ix_device_tokens_revoked_at"), "device_tokens", ["revoked_at"], unique=False)
    op.create_index("ix_device_tokens_team_id_udid", "device_tokens", ["team_id", "udid"], unique=False)
