"""The book that the rules of this package are written into."""

from __future__ import annotations

from ..rules import RuleBook

__all__ = ["BOOK"]

BOOK = RuleBook()
