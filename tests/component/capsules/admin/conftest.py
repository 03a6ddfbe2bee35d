"""The wing with namespace sandboxes for capsules, an admin of the platform, and a team."""

from __future__ import annotations

from tests.support.capsules import contract, lab
from tests.support.sandboxes import api, capsule, make, sandboxes

__all__ = ["api", "capsule", "contract", "lab", "make", "sandboxes"]
