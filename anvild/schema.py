"""All tables of the daemon and its wings: importing this module makes ``anvild.core.store.metadata`` complete.

``python -m anvild.schema`` writes the first migration anew from the tables as they are now: for developers, until the
first release; from then on each change of the tables is a migration of its own.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Literal

from alembic.autogenerate import produce_migrations, render_python_code
from alembic.autogenerate.api import AutogenContext
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine

from anvild.capsules import tables as capsules
from anvild.core.store import Id, Json, Timestamp
from anvild.core.store.migrate import MIGRATIONS
from anvild.core.tables import metadata

__all__ = ["capsules", "main", "metadata", "render"]

_TARGET = MIGRATIONS / "versions" / "0001_first.py"

_TEMPLATE = '''"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from anvild.core.store import columns

revision = "0001"
down_revision = None


def upgrade() -> None:
    {upgrade}
'''


def render() -> str:
    """Return the source of the migration that makes all tables in an empty database, for either database."""
    with create_engine("sqlite://").connect() as connection:
        context = MigrationContext.configure(connection)
        operations = produce_migrations(context, metadata).upgrade_ops
        assert operations is not None
        code = render_python_code(operations, render_item=_render_item, migration_context=context)
    upgrade = "\n".join(line for line in code.splitlines() if not line.lstrip().startswith("#"))
    return _TEMPLATE.format(upgrade=upgrade.strip())


def _render_item(kind: str, item: object, _: AutogenContext) -> str | Literal[False]:
    """Write the store's own column types by their names; leave all else to Alembic."""
    return f"columns.{type(item).__name__}()" if isinstance(item, Id | Json | Timestamp) else False


def main() -> None:
    """Write the migration and say where."""
    _TARGET.write_text(render())
    ruff = Path(sys.executable).with_name("ruff")
    subprocess.run([ruff, "format", "--quiet", _TARGET], check=True)
    subprocess.run([ruff, "check", "--quiet", "--fix", _TARGET], check=True)
    sys.stdout.write(f"{_TARGET}\n")


if __name__ == "__main__":
    main()
