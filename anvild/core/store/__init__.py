"""The store: SQLite or PostgreSQL behind one writer thread with group commit and a few reader threads."""

from anvild.core.store.columns import Id, Json, Timestamp, metadata
from anvild.core.store.errors import StoreError
from anvild.core.store.store import Job, Store, StoreStatistics, announce, open_store

__all__ = [
    "Id",
    "Job",
    "Json",
    "Store",
    "StoreError",
    "StoreStatistics",
    "Timestamp",
    "announce",
    "metadata",
    "open_store",
]
