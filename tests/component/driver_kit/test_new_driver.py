"""``anvil driver new``: what its README says is done here, word by word, without a network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.daemon import BIN

GREEN_SECONDS = 60
"""How long it may take from nothing to green."""


@pytest.fixture
def place(tmp_path: Path) -> dict[str, str]:
    """An environment with a Python of its own that sees what this one has installed, and with no network."""
    home = tmp_path / "venv"
    venv.create(home, symlinks=True)
    (site,) = (home / "lib").glob("python*/site-packages")
    ours = sysconfig.get_path("purelib")
    (site / "ours.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
    for name in ("anvil", "anvild"):
        script = (BIN / name).read_text().replace(str(BIN / "python"), str(home / "bin/python"))
        script = re.sub(r"\A#!.*", f"#!{home / 'bin/python'}", script)
        (home / "bin" / name).write_text(script)
        (home / "bin" / name).chmod(0o755)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("ANVIL_", "PYTEST"))}
    return environ | {
        "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
        "VIRTUAL_ENV": str(home),
        "UV_OFFLINE": "1",
        "ANVIL_DATA_DIR": str(tmp_path / "data"),
        "HOME": os.environ.get("HOME", str(tmp_path)),
    }


def run(script: str, cwd: Path, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", script],
        cwd=cwd,
        env=environ,
        capture_output=True,
        text=True,
        timeout=GREEN_SECONDS,
    )


@pytest.mark.skipif(shutil.which("uv") is None, reason="needs uv (pip install uv)")
def test_a_new_package_goes_green(place: dict[str, str], tmp_path: Path) -> None:
    made = run("anvil driver new bench-lamp", tmp_path, place)
    assert made.returncode == 0, made.stderr
    folder = tmp_path / "anvild-driver-bench-lamp"
    readme = (folder / "README.md").read_text()
    blocks = re.findall(r"```console\n(.*?)```", readme, re.DOTALL)
    commands = [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]
    assert len(commands) == 5
    done = run("\n".join(commands), folder, place)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert done.stdout.count("bench-lamp 0.1.0: platinum") == 2
    assert "3 passed" in done.stdout
    assert (tmp_path / "data/grades/bench-lamp.json").exists()


def test_what_is_written_is_in_the_style_of_the_house(tmp_path: Path) -> None:
    environ = dict(os.environ)
    assert run(f"{BIN}/anvil driver new lamp", tmp_path, environ).returncode == 0
    rules = Path(__file__).resolve().parents[3] / "pyproject.toml"
    for check in (f"ruff check --config {rules} --ignore S108,S101,I001 .", f"ruff format --config {rules} --check ."):
        done = run(f"{BIN}/{check}", tmp_path, environ)
        assert done.returncode == 0, done.stdout + done.stderr
