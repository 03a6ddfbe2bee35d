"""Fixtures of all tests: both databases, a lab of test devices, the real daemon."""

pytest_plugins = ["tests.stores", "tests.daemon", "tests.support.lab", "tests.support.wing"]
