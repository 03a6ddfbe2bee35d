"""All tables of the daemon. Importing this module makes ``anvild.core.store.metadata`` complete."""

from __future__ import annotations

from anvild.core.artifacts import tables as artifacts
from anvild.core.engine import tables as engine
from anvild.core.events import tables as events
from anvild.core.identity import tables as identity
from anvild.core.store import metadata

__all__ = ["artifacts", "engine", "events", "identity", "metadata"]
