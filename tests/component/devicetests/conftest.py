"""The wing, whole, with a real driver behind it."""

from __future__ import annotations

from tests.support.wing import served_wing, wing

__all__ = ["served_wing", "wing"]
