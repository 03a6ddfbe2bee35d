"""Fixtures that give a test each of the two databases. Loaded by ``tests/conftest.py`` as a plugin.

``postgres_cluster`` is a real server of the test session's own, on a Unix socket; ``store_url`` is a fresh, migrated
database on either; ``store`` is that database opened.
"""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import IO

import psycopg
import pytest

from anvild.core.store import Store, open_store
from anvild.core.store.migrate import migrate
from anvild.core.store.urls import database_at


def _binaries() -> Path | None:
    """The directory of the newest PostgreSQL server programs on this machine."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    found = installed[-1] if installed else shutil.which("initdb")
    return Path(found).parent if found else None


def _unprivileged(*command: str | Path) -> list[str | Path]:
    """A command as PostgreSQL wants to be run: not by root, and ended when the tests end."""
    if os.geteuid() != 0:
        return list(command)
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--pdeathsig=QUIT", *command]


class PostgresCluster:
    """A PostgreSQL server of the tests' own. Not durable: it need not outlive the machine."""

    def __init__(self, binaries: Path, directory: Path) -> None:
        self.binaries = binaries
        self._directory = directory
        self._data = directory / "data"
        self._numbers = itertools.count(1)
        self._process: subprocess.Popen[str] | None = None
        self._said: deque[str] = deque(maxlen=50)
        if os.geteuid() == 0:
            account = pwd.getpwnam("postgres")
            os.chown(directory, account.pw_uid, account.pw_gid)
        initdb = ("-D", self._data, "-U", "anvil", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        command = _unprivileged(binaries / "initdb", *initdb)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=directory)
        self.start()
        self.empty_database("template_of_tests")
        migrate(database_at(self.url("template_of_tests")))

    def start(self) -> None:
        """Start the server and return when it takes connections.

        To be called in the main thread: the kernel ends the server with the thread that started it.
        """
        options = [f"unix_socket_directories={self._directory}", "listen_addresses=", "fsync=off", "max_connections=60"]
        flags = [part for option in options for part in ("-c", option)]
        command = _unprivileged(self.binaries / "postgres", "-D", self._data, *flags)
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=self._directory)
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._said.append(line)
            if "ready to accept connections" in line:
                break
        else:
            pytest.fail(f"PostgreSQL does not start:\n{''.join(self._said)}")
        self._listener = threading.Thread(target=self._listen, args=(self._process.stderr,), daemon=True)
        self._listener.start()

    def stop(self) -> None:
        """End the server at once, as a crash would, with all its connections."""
        assert self._process is not None
        self._process.send_signal(3)  # SIGQUIT: immediate shutdown
        self._process.wait()
        self._listener.join()

    def _listen(self, stderr: IO[str]) -> None:
        with stderr:
            self._said.extend(stderr)

    def url(self, database: str) -> str:
        return f"postgresql://anvil@/{database}?host={self._directory}"

    def execute(self, statement: str, database: str = "postgres") -> None:
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            connection.execute(statement.encode())

    def empty_database(self, name: str | None = None) -> str:
        """Make a database without a table and return its name."""
        name = name or f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return name

    def migrated_database(self) -> str:
        """Make a database with the present schema and return its name."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE template_of_tests")
        return name

    def drop(self, name: str) -> None:
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[PostgresCluster]:
    """A PostgreSQL server for the session, made when the first test asks for it."""
    binaries = _binaries()
    if binaries is None:
        if sys.platform == "darwin":
            pytest.skip("PostgreSQL is not installed")
        pytest.fail("PostgreSQL is not installed; these tests need its server: apt-get install postgresql")
    with tempfile.TemporaryDirectory(prefix="anvil-pg-", dir="/tmp") as directory:  # a socket's path must be short
        cluster = PostgresCluster(binaries, Path(directory))
        yield cluster
        cluster.stop()


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the present schema, to be copied."""
    path = tmp_path_factory.mktemp("sqlite") / "template.sqlite"
    migrate(database_at(f"sqlite:///{path}"))
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a fresh database with the present schema."""
    if request.param == "sqlite":
        path = tmp_path / "store" / "anvild.sqlite"
        path.parent.mkdir()
        shutil.copyfile(request.getfixturevalue("migrated_sqlite"), path)
        yield f"sqlite:///{path}"
    else:
        cluster: PostgresCluster = request.getfixturevalue("postgres_cluster")
        name = cluster.migrated_database()
        yield cluster.url(name)
        cluster.drop(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database that holds nothing yet."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'store' / 'anvild.sqlite'}"
    else:
        cluster: PostgresCluster = request.getfixturevalue("postgres_cluster")
        name = cluster.empty_database()
        yield cluster.url(name)
        cluster.drop(name)


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[Store]:
    """An open store on a fresh database."""
    async with open_store(store_url) as opened:
        yield opened
