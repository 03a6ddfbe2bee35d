"""Fixtures of all tests: both databases, a lab of test devices, the real daemon."""

import signal

pytest_plugins = ["tests.stores", "tests.daemon", "tests.guests", "tests.support.lab", "tests.support.wing"]

# A shell ignores SIGINT for what it runs in the background, and children inherit that: tests of Ctrl-C would hang.
signal.signal(signal.SIGINT, signal.default_int_handler)
