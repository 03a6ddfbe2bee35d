"""What people and programs see."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from anvild.cli.output import Output, ago, plain, size

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def output(*, terminal: bool, as_json: bool = False) -> tuple[Output, io.StringIO]:
    file = io.StringIO()
    return Output(json=as_json, console=Console(file=file, force_terminal=terminal, width=60, markup=False)), file


def test_programs_get_tab_separated_lines() -> None:
    out, file = output(terminal=False)
    out.table(["id", "last used"], [("1", None), ("2", "a\tb\nc" + "x" * 100)], empty="none")
    assert file.getvalue() == "ID\tLAST USED\n1\t-\n2\ta b c" + "x" * 100 + "\n"


def test_people_get_a_table() -> None:
    out, file = output(terminal=True)
    out.table(["id", "status"], [("1", "passed")], empty="none")
    assert "passed" in file.getvalue()
    assert "\x1b[32m" in file.getvalue()


def test_people_are_told_of_nothing() -> None:
    out, file = output(terminal=True)
    out.table(["id"], [], empty="There are no runs.")
    assert file.getvalue() == "There are no runs.\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_a_name_moves_no_cursor_and_is_no_markup(terminal: bool) -> None:
    out, file = output(terminal=terminal)
    out.table(["name"], [("\x1b[2J[red]evil[/red]\x9b1m",)], empty="none")
    out.say("\x1b]0;title\x07[bold]")
    assert "\x1b[2J" not in file.getvalue()
    assert "\x1b]0" not in file.getvalue()
    assert "\x9b" not in file.getvalue()
    assert "[red]evil[/red]" in file.getvalue()
    assert "[bold]" in file.getvalue()


def test_json_is_one_document_and_nothing_else() -> None:
    out, file = output(terminal=False, as_json=True)
    out.say("for people")
    out.document({"at": NOW, "n": 1})
    assert json.loads(file.getvalue()) == {"at": "2026-01-02T00:00:00Z", "n": 1}
    assert file.getvalue().count("\n") == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s ago"), (119, "119 s ago"), (120, "2 min ago"), (7200, "2 h ago"), (86400 * 3, "3 d ago")],
)
def test_ago(seconds: float, text: str) -> None:
    assert ago(NOW - timedelta(seconds=seconds), now=NOW) == text


def test_never() -> None:
    assert ago(None) == "never"


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 * 2**30, "3.0 GiB"), (2**41, "2.0 TiB")]
)
def test_size(count: int, text: str) -> None:
    assert size(count) == text


def test_plain() -> None:
    assert plain(None) == "-"
    assert plain("a\nb") == "a b"
