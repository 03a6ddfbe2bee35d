"""Fails while it is imported."""

raise RuntimeError("the bus library is too old")
