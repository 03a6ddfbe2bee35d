"""Bringing a database to the schema of this anvild, with the Alembic migrations that lie in the package."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from anvild.core.store.database import Database, Sqlite
from anvild.core.store.errors import StoreError

__all__ = ["MIGRATIONS", "check_revision", "current_revision", "migrate", "newest_revision"]

MIGRATIONS = Path(__file__).parent / "migrations"


def migrate(database: Database) -> None:
    """Upgrade the schema to the newest revision, in one transaction; a database that has it is left alone.

    Blocks. Several daemons may do it at once: one does the work. Raises StoreError for a newer schema, and whatever
    ``Database.translate`` makes of an error of the database.
    """
    try:
        if isinstance(database, Sqlite):
            database.create_file()
        with database.writer.connect() as connection:
            if isinstance(database, Sqlite):
                # A migration that rebuilds a table would otherwise delete the rows that refer to it.
                database.suspend_foreign_keys(connection)
            _upgrade(connection)
    except DBAPIError as error:
        raise database.translate(error) from error


def newest_revision() -> str:
    """Return the revision that this anvild brings a database to."""
    head = ScriptDirectory(str(MIGRATIONS)).get_current_head()
    assert head is not None
    return head


def current_revision(connection: Connection) -> str | None:
    """Return the revision that a database is at; None for an empty one."""
    return MigrationContext.configure(connection).get_current_revision()


def check_revision(revision: str | None) -> None:
    """Raise StoreError unless this anvild knows the revision, that is, unless the schema is no newer than its own."""
    scripts = ScriptDirectory(str(MIGRATIONS))
    known = {script.revision for script in scripts.walk_revisions()}
    if revision is not None and revision not in known:
        raise StoreError(
            f"the schema {revision} was made by a newer anvild than this one ({version('anvild')}, which knows "
            f"schemas up to {scripts.get_current_head()}); install that version, or restore a backup made by this one"
        )


def _upgrade(connection: Connection) -> None:
    with connection.begin():
        revision = current_revision(connection)
        check_revision(revision)
        if revision == newest_revision():
            return
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
