"""Where the notifiers join the daemon."""

from __future__ import annotations

from anvild.sdk import Notifier, hookimpl

from .notifiers import NOTIFIERS

ANVIL_API = "1.0"


@hookimpl
def anvil_notifiers() -> list[type[Notifier]]:
    return NOTIFIERS
