"""What the reliability tests stand on: a daemon with namespace sandboxes, and a pipeline that keeps a ledger."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.daemon import Daemon

STEPS = 3

# Each step appends one line, after a while. The ledger is collected at the end: whatever happened to the daemon,
# every step must stand in it exactly once.
LEDGER = (
    """
description = "Appends a line a step and collects the ledger."
retries = 0
[make.sandbox]
template = "host"
memory = 134217728
"""
    + "".join(
        f"""
[[steps]]
verb = "exec"
name = "line-{number}"
shell = "sleep 0.$(( {number} % 3 + 1 )); echo {number} >> /tmp/ledger"
"""
        for number in range(STEPS)
    )
    + """
[[steps]]
verb = "pull"
name = "ledger"
path = "/tmp/ledger"
"""
)

CONFIG = """
[engine]
max_running = 64
[drivers.microvm]
enabled = false
[drivers.sandbox]
slots = 16
"""


@pytest.fixture
def crashing(daemon_factory: Any) -> Iterator[Daemon]:
    """A daemon that a test may kill as often as it likes."""
    daemon: Daemon = daemon_factory(CONFIG)
    (daemon.data_dir / "pipelines").mkdir(parents=True)
    (daemon.data_dir / "pipelines" / "ledger.toml").write_text(LEDGER)
    daemon.bootstrap()
    daemon.start()
    yield daemon
    if daemon.process is None:
        daemon.start()


@pytest.fixture(scope="session")
def seed() -> int:
    """ANVIL_SEED repeats a failure; it is printed with every assertion."""
    return int(os.environ.get("ANVIL_SEED", "20261122"))
