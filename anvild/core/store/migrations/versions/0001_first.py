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
