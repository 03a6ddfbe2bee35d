"""The wing without drivers of its own, and who asks of hosts."""

from __future__ import annotations

from tests.support.capsules import contract, lab

__all__ = ["contract", "lab"]
