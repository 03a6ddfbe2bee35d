"""Where the wing joins the daemon: the same hooks as any other plugin's."""

from __future__ import annotations

from collections.abc import Iterable

from anvild.core.engine import Engine
from anvild.core.settings import Settings
from anvild.core.store import Store
from anvild.sdk import Mount, Services, Workload, hookimpl

from .building import BuildWorkload
from .routes import make_mounts

ANVIL_API = "1.0"


@hookimpl
def anvil_routes(services: Services) -> Iterable[Mount]:
    """Offer the capsules interface."""
    return make_mounts(services)


@hookimpl
def anvil_workloads(services: Services) -> Iterable[Workload]:
    """Offer the workload that builds templates."""
    return [BuildWorkload(services.get(Engine), services.get(Store), services.get(Settings).data_dir)]
