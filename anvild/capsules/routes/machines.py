"""Everything that is about capsules themselves, put together."""

from __future__ import annotations

from anvild.core.engine import Engine
from anvild.core.events import EventLog
from anvild.core.store import Store
from anvild.sdk import Services
from anvild.web.api import Api

from ..book import Book
from ..life import Capsules
from ..templates import Templates
from .capsules import add_capsules
from .exec import add_exec
from .files import add_files

__all__ = ["add_machines"]


def add_machines(api: Api, services: Services) -> Capsules:
    """Add all operations on capsules, and return what must run behind them."""
    engine, store = services.get(Engine), services.get(Store)
    capsules = Capsules(engine, services.get(EventLog), Book(store), Templates(engine, store))
    add_capsules(api, capsules)
    add_exec(api, capsules)
    add_files(api, capsules)
    return capsules
