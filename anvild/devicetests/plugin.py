"""Where the wing joins the daemon: the same hooks as any other plugin's."""

from __future__ import annotations

from collections.abc import Iterable

from anvild.sdk import Mount, Services, Workload, hookimpl

from .routes import make_mount
from .workload import PipelineWorkload

ANVIL_API = "1.0"


@hookimpl
def anvil_workloads() -> Iterable[Workload]:
    """Offer the workload that executes pipelines."""
    return [PipelineWorkload()]


@hookimpl
def anvil_routes(services: Services) -> Iterable[Mount]:
    """Offer the device-testing interface."""
    return [make_mount(services)]
