"""All tables of the daemon's core; those of the wings are with them."""

from __future__ import annotations

from anvild.core.artifacts import tables as artifacts
from anvild.core.engine import tables as engine
from anvild.core.events import tables as events
from anvild.core.hosts import tables as hosts
from anvild.core.identity import tables as identity
from anvild.core.notify import tables as notify
from anvild.core.store import metadata

__all__ = ["artifacts", "engine", "events", "hosts", "identity", "metadata", "notify"]
