"""What the errors of the databases mean, and what a URL says."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.exc import DBAPIError, OperationalError, StatementError

from anvild.core.errors import StorageFull
from anvild.core.store import StoreError
from anvild.core.store.database import Sqlite
from anvild.core.store.postgresql import Postgresql
from anvild.core.store.urls import database_at
from anvild.sdk import NotFound, Unavailable


def sqlite_error(code: int) -> DBAPIError:
    error = sqlite3.OperationalError("x")
    error.sqlite_errorcode = code
    return OperationalError("SELECT", {}, error)


def postgresql_error(state: str, *, lost: bool = False) -> DBAPIError:
    error: psycopg.Error = psycopg.errors.lookup(state)("x") if state else psycopg.OperationalError("x")
    return OperationalError("SELECT", {}, error, connection_invalidated=lost)


@pytest.mark.parametrize(
    ("code", "meaning"),
    [
        (sqlite3.SQLITE_FULL, StorageFull),
        (sqlite3.SQLITE_BUSY, Unavailable),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, Unavailable),
        (sqlite3.SQLITE_IOERR_WRITE, Unavailable),
        (sqlite3.SQLITE_CORRUPT, StoreError),
        (sqlite3.SQLITE_NOTADB, StoreError),
        (sqlite3.SQLITE_READONLY, StoreError),
        (sqlite3.SQLITE_CONSTRAINT, OperationalError),
    ],
)
def test_what_sqlite_s_errors_mean(tmp_path: Path, code: int, meaning: type[Exception]) -> None:
    database = database_at(f"sqlite:///{tmp_path}/x.sqlite")
    assert type(database.translate(sqlite_error(code))) is meaning


@pytest.mark.parametrize(
    ("state", "meaning"),
    [
        ("53100", StorageFull),
        ("53300", Unavailable),
        ("57P01", Unavailable),
        ("55P03", Unavailable),
        ("40P01", Unavailable),
        ("", Unavailable),
        ("42P01", OperationalError),
    ],
)
def test_what_postgresql_s_errors_mean(state: str, meaning: type[Exception]) -> None:
    database = database_at("postgresql://host/name")
    assert type(database.translate(postgresql_error(state))) is meaning


def test_a_lost_connection_is_unavailable_whatever_the_error() -> None:
    database = database_at("postgresql://host/name")
    assert isinstance(database.translate(postgresql_error("42P01", lost=True)), Unavailable)


def test_an_error_of_ours_in_a_parameter_comes_through() -> None:
    inner = NotFound("no id")
    assert database_at("postgresql://host/name").translate(StatementError("x", "SELECT", {}, inner)) is inner


def test_another_error_is_left_alone() -> None:
    error = KeyError("x")
    assert database_at("postgresql://host/name").translate(error) is error


def test_no_message_shows_the_password() -> None:
    database = database_at("postgresql://anvil:secret@host/name")
    assert isinstance(database, Postgresql)
    assert "secret" not in database.name
    assert "secret" not in str(database.translate(postgresql_error("")))


def test_what_the_url_says_goes_before_the_defaults() -> None:
    url = database_at("postgresql://host/name?connect_timeout=60&application_name=x").url
    assert url.query["connect_timeout"] == "60"
    assert url.query["application_name"] == "x"
    assert url.query["tcp_user_timeout"] == "15000"


def test_a_relative_path_is_taken_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    database = database_at("sqlite:///x.sqlite")
    monkeypatch.chdir("/")
    assert isinstance(database, Sqlite)
    assert database.path == tmp_path / "x.sqlite"
