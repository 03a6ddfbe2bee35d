"""The schema that the migrations make is the schema of the tables, from nothing and from every released version."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, inspect
from sqlalchemy.pool import NullPool

from anvild.core.store import StoreError, open_store
from anvild.core.store.database import Sqlite
from anvild.core.store.migrate import migrate, newest_revision
from anvild.core.store.revision import REVISION
from anvild.core.store.urls import database_at
from anvild.schema import metadata
from anvild.sdk import Unavailable
from tests.stores import PostgresCluster

# One file for each release and database, as `sqlite3 FILE .dump` and `pg_dump` write them: 0.1.0.sqlite.sql …
RELEASED = sorted((Path(__file__).parent / "released").glob("*.sql")) or [
    pytest.param(Path(), marks=pytest.mark.skip(reason="no version has been released yet"))
]


def schema(engine: Engine) -> dict[str, Any]:
    """All that a database can tell of its tables, in a form that can be compared."""
    inspector = inspect(engine)
    found: dict[str, Any] = {}
    for table in inspector.get_table_names():
        if table == "alembic_version":
            continue
        found[table] = {
            "columns": [
                {**column, "type": column["type"].compile(engine.dialect)} for column in inspector.get_columns(table)
            ],
            "primary key": inspector.get_pk_constraint(table),
            "foreign keys": sorted(inspector.get_foreign_keys(table), key=str),
            "unique": sorted(inspector.get_unique_constraints(table), key=str),
            "checks": sorted(inspector.get_check_constraints(table), key=str),
            "indexes": sorted(inspector.get_indexes(table), key=str),
            "options": inspector.get_table_options(table),
        }
        for index in found[table]["indexes"]:
            index["dialect_options"] = {name: str(value) for name, value in index["dialect_options"].items()}
    return found


@pytest.fixture
def intended(empty_store_url: str, postgres_cluster: PostgresCluster) -> Iterator[dict[str, Any]]:
    """The schema that the tables describe, on the database of ``empty_store_url``."""
    if empty_store_url.startswith("sqlite"):
        engine = create_engine("sqlite://")
        metadata.create_all(engine)
        yield schema(engine)
        engine.dispose()
    else:
        name = postgres_cluster.empty_database()
        url = postgres_cluster.url(name).replace("postgresql:", "postgresql+psycopg:")
        engine = create_engine(url, poolclass=NullPool)
        metadata.create_all(engine)
        yield schema(engine)
        postgres_cluster.drop(name)


def test_the_migrations_make_the_schema_of_the_tables(empty_store_url: str, intended: dict[str, Any]) -> None:
    """When it fails after a change of the tables: ``python -m anvild.schema``."""
    database = database_at(empty_store_url)
    migrate(database)
    made = schema(database.reader)
    assert set(made) == set(intended) == set(metadata.tables)
    for table, expected in intended.items():
        assert made[table] == expected


@pytest.mark.parametrize("dump", RELEASED, ids=lambda path: path.name)
def test_a_released_schema_is_upgraded(dump: Path, tmp_path: Path, postgres_cluster: PostgresCluster) -> None:
    if dump.name.endswith(".sqlite.sql"):
        database = database_at(f"sqlite:///{tmp_path / 'store.sqlite'}")
        assert isinstance(database, Sqlite)
        subprocess.run(["sqlite3", database.path], input=dump.read_bytes(), check=True)
    else:
        url = postgres_cluster.url(postgres_cluster.empty_database())
        subprocess.run([postgres_cluster.binaries / "psql", "-q", url, "-f", dump], check=True)
        database = database_at(url)
    migrate(database)
    assert set(schema(database.reader)) == set(metadata.tables)


async def test_an_open_store_is_at_the_newest_revision(empty_store_url: str) -> None:
    for _ in range(2):
        async with open_store(empty_store_url) as store:
            found = await store.read(
                lambda c: c.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one()
            )
            assert found == newest_revision()


async def test_a_newer_schema_is_refused_with_one_sentence(store_url: str) -> None:
    async with open_store(store_url) as store:
        await store.write(lambda c: c.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreError, match="schema 9999 was made by a newer anvild") as caught:
        async with open_store(store_url):
            pytest.fail("it was opened")
    assert "\n" not in caught.value.message


def test_several_daemons_may_migrate_at_once(empty_store_url: str) -> None:
    program = (
        "import sys; from anvild.core.store.urls import database_at; from anvild.core.store.migrate import migrate;"
        "migrate(database_at(sys.argv[1]))"
    )
    started = [subprocess.Popen([sys.executable, "-c", program, empty_store_url]) for _ in range(2)]
    assert [process.wait() for process in started] == [0, 0]
    assert set(schema(database_at(empty_store_url).reader)) == set(metadata.tables)


async def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    path.write_bytes(b"this is no database" * 1000)
    with pytest.raises(StoreError, match="damaged"):
        async with open_store(f"sqlite:///{path}"):
            pytest.fail("it was opened")


async def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot be reached"):
        async with open_store(f"postgresql://anvil:secret@/x?host={tmp_path}"):
            pytest.fail("it was opened")


async def test_a_new_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path}/data/anvild.sqlite") as store:
        await store.write(lambda c: None)
        modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "data").iterdir()}
    assert set(modes.values()) == {0o600}
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


def test_the_revision_of_the_code_is_that_of_the_newest_migration() -> None:
    assert newest_revision() == REVISION
