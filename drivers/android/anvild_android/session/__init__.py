"""A session on an android device, one module for each of its capabilities."""
