"""The rules themselves, by what they are about. :data:`RULES` has them in the order in which they are tried."""

from __future__ import annotations

# Each module writes its rules into the book, in the order of this list.
from . import describing, watching, opening, executing, filing, making, holding, phones, wiring, leaving  # isort: skip
from .book import BOOK

__all__ = [
    "RULES",
    "describing",
    "executing",
    "filing",
    "holding",
    "leaving",
    "making",
    "opening",
    "phones",
    "watching",
    "wiring",
]

RULES = tuple(sorted(BOOK.rules, key=lambda rule: not rule.alone))
"""All rules. Those that need no other driver alive come first, the one that clears the device up comes last."""
