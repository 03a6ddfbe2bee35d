"""Which schema this anvild works on, and bringing a database to it where it is at another."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError

from anvild.core.store.database import Database, Sqlite

__all__ = ["REVISION", "bring_up"]

REVISION = "0001"
"""The newest of the migrations in the package."""


def bring_up(database: Database) -> None:
    """Upgrade the schema where it is not at :data:`REVISION`. Blocks; raises as :func:`migrate`."""
    if not _up_to_date(database):
        # Alembic takes 10 MiB of memory and a third of a start, and is needed once a release.
        from anvild.core.store.migrate import migrate

        migrate(database)


def _up_to_date(database: Database) -> bool:
    if isinstance(database, Sqlite) and not database.path.exists():
        return False
    try:
        with database.reader.connect() as connection:
            found: object = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    except DBAPIError:  # an empty database, or one whose trouble the migration will name
        return False
    return found == REVISION
