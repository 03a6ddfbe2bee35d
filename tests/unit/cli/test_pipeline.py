"""``anvil pipeline check``: everything that is wrong with a file, without a daemon."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Call = Callable[..., int]

GOOD = "[[steps]]\nverb = 'exec'\nshell = 'true'\n"
BAD = "descripton = 'x'\n[[steps]]\nverb = 'exek'\n[[steps]]\nverb = 'exec'\ntimeout = 'long'\n"


def test_a_good_file_is_passed_in_silence(anvil: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "good.toml").write_text(GOOD)
    assert anvil("pipeline", "check", tmp_path / "good.toml") == 0
    assert capsys.readouterr().out == ""


def test_all_problems_of_all_files_are_told(anvil: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.toml").write_text(BAD)
    (tmp_path / "Not a name.toml").write_text(GOOD)
    files = [tmp_path / name for name in ("bad.toml", "none.toml", "Not a name.toml")]
    assert anvil("pipeline", "check", *files) == 2
    lines = [line.removeprefix(f"{tmp_path}/") for line in capsys.readouterr().out.splitlines()]
    assert [line.partition(":")[0] for line in lines] == [
        "bad.toml, line 1",
        "bad.toml, line 3",
        "bad.toml, line 6",
        "none.toml",
        "Not a name.toml",
    ]
    assert "did you mean 'description'?" in lines[0]
    assert "did you mean 'exec'?" in lines[1]
    assert "steps[1].timeout: Expected `float`" in lines[2]
    assert anvil("pipeline", "check", files[0], "--json") == 2
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert [problem["line"] for problem in problems] == [1, 3, 6]


def test_a_run_of_a_bad_file_is_refused_before_anything_is_sent(
    anvil: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.toml").write_text(BAD)
    assert anvil("run", tmp_path / "bad.toml") == 2
    assert "unknown verb 'exek'" in capsys.readouterr().err
    assert anvil("run", "smoke", "--no-wait", "--junit", "out.xml") == 2
    assert "leave --no-wait out" in capsys.readouterr().err
    assert anvil("pipeline", "check") == 2
