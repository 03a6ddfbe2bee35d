"""Where the wing joins the daemon: the same hooks as any other plugin's."""

from __future__ import annotations

from collections.abc import Iterable

from anvild.sdk import Mount, Services, hookimpl

from .routes import make_mounts

ANVIL_API = "1.0"


@hookimpl
def anvil_routes(services: Services) -> Iterable[Mount]:
    """Offer the capsules interface."""
    return make_mounts(services)
