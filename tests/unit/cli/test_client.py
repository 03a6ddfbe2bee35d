"""The command line itself: help, errors, and commands of strangers."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from anvild.cli import client, commands
from anvild.cli.exits import ExitCode

Anvil = Callable[..., int]
COUNTER = itertools.count()


def test_help_names_every_command(anvil: Anvil, capsys: pytest.CaptureFixture[str]) -> None:
    assert anvil("--help") == 0
    shown = capsys.readouterr().out
    for name, *_ in commands.COMMANDS:
        assert name in shown


@pytest.mark.parametrize("name", [name for name, *_ in commands.COMMANDS])
def test_every_command_has_help(anvil: Anvil, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert anvil(name, "--help") == 0
    assert "--json" in capsys.readouterr().out


def test_help_is_quick() -> None:
    """What takes time to import is not imported for help."""
    program = "import sys; from anvild.cli.client import run; run(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert "anvild.cli.commands" in loaded
    assert loaded.isdisjoint({"sqlalchemy", "alembic", "hypercorn", "quart", "httpx2", "cryptography", "limits"})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nothing",), "nothing"),
        (("runs", "show"), "RUN"),
        (("runs", "--wrong"), "--wrong"),
        (("runs", "list", "--url", "lab"), "no address"),
        (("run", "smoke", "--meta", "x"), "NAME=VALUE"),
        (("device", "exec", "d1"), "name a program"),
    ],
)
def test_a_wrong_command_line(
    anvil: Anvil, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    assert anvil(*arguments) == ExitCode.USAGE
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.out == ""
    assert anvil(*arguments, "--json") == ExitCode.USAGE
    assert said in json.loads(capsys.readouterr().err)["error"]["message"]


def test_no_daemon(anvil: Anvil, capsys: pytest.CaptureFixture[str]) -> None:
    assert anvil("runs", "--url", "http://127.0.0.1:1", "--json") == ExitCode.UNREACHABLE
    shown = capsys.readouterr()
    assert json.loads(shown.err)["error"]["code"] == "unreachable"
    assert shown.out == ""


@pytest.mark.parametrize("arguments", [("--profile", "x", "runs"), ("runs", "list", "--profile", "x")])
def test_global_options_stand_anywhere(
    anvil: Anvil, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert anvil(*arguments) == ExitCode.USAGE
    assert "no profile 'x'" in capsys.readouterr().err


def test_options_after_two_dashes_are_not_ours(anvil: Anvil, capsys: pytest.CaptureFixture[str]) -> None:
    assert anvil("device", "exec", "d", "--url", "http://127.0.0.1:1", "--", "ls", "--json") == ExitCode.UNREACHABLE
    assert capsys.readouterr().err.startswith("anvil: no daemon")


@pytest.fixture
def stranger(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Install a plugin: a module and a distribution that names it in an entry point."""

    def install(source: str, name: str = "zeta") -> None:
        module = f"stranger_{next(COUNTER)}"
        (tmp_path / f"{module}.py").write_text(source)
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[anvil]\n{name} = {module}\n")
        monkeypatch.syspath_prepend(tmp_path)

    return install


COMMAND = """
from anvild.sdk import hookimpl

@hookimpl
def anvil_commands(app):
    @app.command(name={name!r})
    def calibrate(lamp: str):
        "Calibrate."
        print("calibrated", lamp)
"""


def test_a_stranger_adds_a_command(
    anvil: Anvil, stranger: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    stranger(COMMAND.format(name="calibrate"))
    assert anvil("calibrate", "7") == 0
    assert capsys.readouterr().out == "calibrated 7\n"


def test_a_broken_stranger_stops_nobody(
    anvil: Anvil, stranger: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    stranger("from anvild.sdk import hookimpl\n@hookimpl\ndef anvil_commands(app):\n    raise ValueError('no lamp')\n")
    assert anvil("--version") == 0
    shown = capsys.readouterr()
    assert "no lamp" in shown.err
    assert shown.out.strip() == client.build().version


def test_a_stranger_without_commands_is_not_loaded(
    anvil: Anvil, stranger: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    stranger("raise SystemError('loaded for nothing')\n")
    assert anvil("--version") == 0
    assert capsys.readouterr().err == ""


def test_a_name_that_a_stranger_took_first_costs_one_command(
    anvil: Anvil, stranger: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    stranger(COMMAND.format(name="runs"), "alpha")
    assert anvil("runs", "7") == 0
    assert anvil("keys", "--help") == 0
    shown = capsys.readouterr()
    assert "calibrated 7" in shown.out
    assert "command_taken" in shown.err
