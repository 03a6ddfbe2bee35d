"""The wing with namespace sandboxes for capsules, and somebody who uses them."""

from __future__ import annotations

from tests.support.capsules import contract
from tests.support.sandboxes import api, capsule, make, sandboxes, until

__all__ = ["api", "capsule", "contract", "make", "sandboxes", "until"]
