"""The check of the configuration: what is wrong, where, and what was expected."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from anvild.cli.checkconfig import line_of
from anvild.cli.exits import ExitCode

Anvil = Callable[..., int]


@pytest.fixture
def config(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "anvild.toml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize(
    ("text", "line", "key", "expected"),
    [
        ('# first\nlistn = "x"\n', 2, "listn", "did you mean 'listen'"),
        ("[web]\n\nmax_body = 3\n", 3, "web.max_body", ">= 1024"),
        ("[web]\nmax_body = 4096\n[engine]\n  max_running = 'many'\n", 4, "engine.max_running", "int"),
        ("web.max_body = 3\n", 1, "web.max_body", ">= 1024"),
        ("[drivers.nothing]\n", 1, "drivers.nothing", "no driver of that name"),
        ("[web\n", None, "line 1", "TOML"),
    ],
)
def test_what_is_wrong_and_where(
    anvil: Anvil,
    config: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
    text: str,
    line: int | None,
    key: str,
    expected: str,
) -> None:
    path = config(text)
    assert anvil("check-config", "--config", path) == ExitCode.USAGE
    said = capsys.readouterr().err
    assert key in said
    assert expected in said
    if line is not None:
        assert f"{path}:{line}: " in said


def test_a_file_that_is_not_there(anvil: Anvil, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert anvil("check-config", "--config", tmp_path / "none.toml") == ExitCode.USAGE
    assert "no such file" in capsys.readouterr().err


def test_what_is_in_force_with_secrets_masked(
    anvil: Anvil, config: Callable[[str], Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANVIL_BEARER_TOKEN", "automation-secret")
    path = config('listen = "127.0.0.1:9"\n[store]\nurl = "postgresql://anvild:pa55@db/anvil"\n')
    assert anvil("check-config", "--config", path, "--json") == 0
    shown = capsys.readouterr().out
    assert "automation-secret" not in shown
    assert "pa55" not in shown
    effective = json.loads(shown)
    assert effective["listen"] == "127.0.0.1:9"
    assert effective["store"]["url"] == "postgresql://anvild:***@db/anvil"
    assert effective["identity"]["bearer_token"] == "***"


def test_what_is_shown_is_a_configuration_again(
    anvil: Anvil, config: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = config("[engine]\nmax_running = 7\n")
    assert anvil("check-config", "--config", path) == 0
    _, _, shown = capsys.readouterr().out.partition("\n")
    assert "max_running = 7" in shown
    again = config(shown)
    assert anvil("check-config", "--config", again, "--json") == 0
    assert json.loads(capsys.readouterr().out)["engine"]["max_running"] == 7


def test_the_line_of_a_key(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('a.b = 1\n[ drivers . "x" ]\n# y = 0\ny = 1\n[[list]]\ny = 2\n')
    assert line_of(path, "a.b") == 1
    assert line_of(path, "drivers.x.y") == 4
    assert line_of(path, "drivers.x") == 2
    assert line_of(path, "drivers.z") is None
