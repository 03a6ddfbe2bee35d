"""The wing, whole, with a real driver behind it."""

from __future__ import annotations

from tests.support.wing import ready_wing, served_wing, wing

__all__ = ["ready_wing", "served_wing", "wing"]
