"""The contract of the capsules interface, and the interface."""

from __future__ import annotations

from tests.support.capsules import contract, lab

__all__ = ["contract", "lab"]
