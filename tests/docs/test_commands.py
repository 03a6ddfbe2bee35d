"""The commands of the documentation work: every ```console block is run, in order, against a real daemon."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import BIN, EMAIL, PASSWORD, Daemon

ROOT = Path(__file__).resolve().parents[2]
GUIDES = ("docs/operator.md", "docs/client.md")
CONFIG = "[drivers.microvm]\nenabled = false\n"


def commands(guide: str) -> str:
    """All console blocks of a guide as one script that stops at the first failure."""
    blocks = re.findall(r"```console\n(.*?)```", (ROOT / guide).read_text(), re.DOTALL)
    assert blocks, f"{guide} shows no command"
    lines = []
    for block in blocks:
        for line in block.splitlines():
            assert line.startswith(("$ ", "    ")), f"{guide}: {line!r} is neither a command nor its continuation"
            lines.append(line.removeprefix("$ "))
    return "\n".join(lines)


@pytest.mark.parametrize("guide", GUIDES)
def test_the_commands_of_a_guide_work(guide: str, daemon_factory: Any, tmp_path: Path) -> None:
    daemon: Daemon = daemon_factory(CONFIG)
    daemon.bootstrap()
    daemon.start()
    script = commands(guide)
    environ = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "ANVIL_DATA": str(tmp_path / "data"),
        "ANVIL_URL": daemon.url,
        "KEY": daemon.keys["live_key"],
        "EMAIL": EMAIL,
        "PASSWORD": PASSWORD,
    }
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", script],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{daemon.tail()}"


def test_the_two_commands_of_the_readme_exist() -> None:
    """They are too large to be run from within a test: CI runs the second, and the demo has a test of its own."""
    first = re.search(r"```console\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert first is not None
    assert first.group(1).splitlines() == ["$ make demo", "$ make test"]
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"demo", "test"} <= set(targets)
