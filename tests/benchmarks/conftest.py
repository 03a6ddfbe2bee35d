"""A daemon with runs in its store, for all benchmarks, and the table that they print."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Sequence
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from tests.daemon import Daemon

CONFIG = """
[web]
requests_per_minute = 100000000
[drivers.microvm]
enabled = false
[drivers.sandbox]
enabled = false
"""


@pytest.fixture(scope="session")
def idle_daemon(daemon_factory: Any) -> Daemon:
    """A daemon without drivers: what it costs by itself."""
    daemon: Daemon = daemon_factory(CONFIG)
    daemon.bootstrap()
    return daemon.start()


@pytest.fixture(scope="session")
def table() -> Any:
    """Print rows as a table: ``table(title, columns, rows)``."""
    console = Console(width=120)

    def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        made = Table(title=title, title_justify="left")
        for column in columns:
            made.add_column(column)
        for row in rows:
            made.add_row(*(str(cell) for cell in row))
        console.print()
        console.print(made)

    return show


def fill(daemon: Daemon, count: int) -> None:
    """Put ended runs into the store of a daemon that does not run, as copies of one that it made itself."""
    with sqlite3.connect(daemon.data_dir / "anvild.sqlite") as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(runs)")]
        pattern = dict(zip(columns, connection.execute("SELECT * FROM runs LIMIT 1").fetchone(), strict=True))
        first = connection.execute("SELECT max(number) FROM runs").fetchone()[0]
        names = ", ".join(columns)
        marks = ", ".join("?" for _ in columns)
        connection.executemany(
            f"INSERT INTO runs ({names}) VALUES ({marks})",
            (
                tuple({**pattern, "id": uuid.uuid4().hex, "number": first + 1 + number, "state": "passed"}.values())
                for number in range(count)
            ),
        )
