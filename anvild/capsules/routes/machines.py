"""Everything that is about capsules themselves, put together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from anvild.core.engine import Engine
from anvild.core.events import EventLog
from anvild.core.store import Store
from anvild.sdk import Services
from anvild.web.api import Api

from ..book import Book
from ..life import Capsules
from ..snapshots import Snapshots
from ..stats import Stats
from ..templates import Templates
from .capsules import add_capsules
from .events import add_events
from .exec import add_exec
from .figures import add_figures
from .files import add_files
from .metrics import add_metrics
from .pty import add_pty
from .snapshots import add_snapshots

__all__ = ["add_machines"]


def add_machines(api: Api, services: Services) -> Callable[[], Awaitable[None]]:
    """Add all operations on capsules, and return what must run behind them."""
    engine, store, log = services.get(Engine), services.get(Store), services.get(EventLog)
    templates = Templates(engine, store)
    capsules = Capsules(engine, log, Book(store), templates)
    stats = Stats(store)
    snapshots = Snapshots(engine, store, capsules, templates)
    add_capsules(api, capsules)
    add_exec(api, capsules)
    add_files(api, capsules)
    add_pty(api, capsules)
    add_metrics(api, capsules)
    add_figures(api, stats)
    add_snapshots(api, snapshots, templates)
    add_events(api, log)

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(capsules.run)
            nursery.start_soon(snapshots.run)
            nursery.start_soon(stats.run)

    return run
