"""The last rule: what the kit has made can be taken away again."""

from __future__ import annotations

from ..bench import Bench
from ..rules import Level
from .book import BOOK


@BOOK.rule("open.left-as-found", Level.BRONZE, seconds=300)
async def left_as_found(bench: Bench) -> None:
    """All that the kit made on the device is removed, and the devices that it had made are destroyed."""
    await bench.clear_away()
