"""From a URL of the settings to the database that it names."""

from __future__ import annotations

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from anvild.core.store.database import Database, Sqlite
from anvild.core.store.errors import StoreError

__all__ = ["database_at"]


def database_at(url: str) -> Database:
    """Return the database that a URL of the settings names. Raises StoreError for one that is neither of the two."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise StoreError("the database URL cannot be read; write sqlite:///PATH or postgresql://HOST/NAME") from None
    match parsed.get_backend_name():
        case "sqlite":
            return Sqlite(parsed)
        case "postgresql":
            # Its library takes 9 MiB of memory and only a fleet needs it.
            from anvild.core.store.postgresql import Postgresql

            return Postgresql(parsed)
        case other:
            raise StoreError(
                f"{other} is no database that anvild knows; write sqlite:///PATH or postgresql://HOST/NAME"
            )
