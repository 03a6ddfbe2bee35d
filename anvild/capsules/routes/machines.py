"""Everything that is about capsules themselves, put together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

import trio

from anvild.core.artifacts import Artifacts
from anvild.core.engine import Engine
from anvild.core.events import EventLog
from anvild.core.hosts import Hosts, Links
from anvild.core.identity import Identity
from anvild.core.settings import Settings
from anvild.core.store import Store
from anvild.sdk import Mount, Services
from anvild.web.api import Api

from ..administration import Administration
from ..book import Book
from ..builds import Builds
from ..hosts import HostDesk
from ..life import Capsules
from ..metrics import Metrics
from ..network import Networks
from ..retention import capsules_retention
from ..snapshots import Snapshots
from ..stats import Stats
from ..templates import Templates
from .admin.builds import add_builds
from .admin.teams import add_all_teams
from .admin.templates import add_all_templates
from .admin.users import add_all_users
from .audit import add_audit
from .capsules import add_capsules, add_states
from .events import add_events
from .exec import add_exec
from .figures import add_figures
from .files import add_files
from .hosts import add_host_side, add_hosts
from .metrics import add_metrics
from .proxy import PortProxy
from .pty import add_pty
from .snapshots import add_snapshots
from .views import View

__all__ = ["add_machines"]


def add_machines(api: Api, services: Services) -> tuple[Callable[[], Awaitable[None]], list[Mount]]:
    """Add all operations on capsules; return what must run behind them, and what is mounted beside them."""
    engine, store, log = services.get(Engine), services.get(Store), services.get(EventLog)
    identity = services.get(Identity)
    settings = services.get(Settings)
    templates = Templates(engine, store)
    book, hosts = Book(store), services.get(Hosts)
    metrics = Metrics(store)
    networks = Networks(engine, settings.capsules)
    capsules = Capsules(engine, log, book, templates, metrics, networks)
    stats = Stats(store)
    retention = capsules_retention(store, keep=timedelta(days=settings.store.capsules_days))
    snapshots = Snapshots(engine, store, capsules, templates)
    spool = settings.data_dir
    builds = Builds(engine, store, log, services.get(Artifacts), templates, networks, spool=spool)
    for view in (View(api), View(api, platform=True)):
        add_capsules(view, capsules)
        add_exec(view, capsules)
        add_files(view, capsules)
        add_pty(view, capsules)
        add_metrics(view, capsules)
        add_events(view, log)
        add_audit(view, identity)
    add_states(api, capsules)
    add_figures(api, stats)
    add_snapshots(api, snapshots, templates)
    add_all_templates(api, snapshots, templates)
    administration = Administration(store, identity, capsules)
    add_all_teams(api, identity, administration)
    add_all_users(api, identity, administration)
    add_builds(api, builds, spool=spool)
    add_hosts(api, HostDesk(hosts, services.get(Links), identity, book, capsules, templates), hosts)
    add_host_side(api, hosts)

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(capsules.run)
            nursery.start_soon(snapshots.run)
            nursery.start_soon(builds.run)
            nursery.start_soon(stats.run)
            nursery.start_soon(metrics.run)
            nursery.start_soon(retention.run)

    return run, [PortProxy(api, capsules, settings).mount()] if settings.capsules.proxy_domain else []
