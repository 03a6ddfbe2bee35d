"""Fixtures of all tests: both databases, a lab of test devices, the real daemon."""

import signal

pytest_plugins = ["tests.stores", "tests.daemon", "tests.guests", "tests.support.lab", "tests.support.wing"]

# A shell ignores signals for what it runs in the background, nohup one more, and children inherit that: tests of Ctrl-C
# and of hanging up would hang.
signal.signal(signal.SIGINT, signal.default_int_handler)
for inherited in (signal.SIGHUP, signal.SIGQUIT):
    signal.signal(inherited, signal.SIG_DFL)
