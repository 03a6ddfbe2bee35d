"""``anvil capsule`` as a person and a script use it, against a real daemon and real sandboxes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Anvil = Callable[..., Any]
Told = Callable[..., Any]
InTerminal = Callable[..., tuple[int, bytes]]

PROMPT = b"$ " if os.geteuid() else b"# "


@pytest.fixture
def capsule(anvil: Anvil, told: Told) -> Any:
    """A capsule that runs."""
    made = told("capsule", "create", "host")
    assert made["status"] == "running"
    yield made["id"]
    anvil("capsule", "destroy", made["id"])


def test_a_capsule_from_its_making_to_its_end(anvil: Anvil, told: Told, capsule: str) -> None:
    assert capsule in anvil("capsules").stdout
    assert told("capsule", "list")["capsules"][0]["id"] == capsule
    assert told("capsule", "show", capsule)["template"] == "host"
    assert re.search(r"^template\thost$", anvil("capsule", "show", capsule).stdout, re.M)
    assert "host" in anvil("capsule", "templates").stdout
    done = anvil("capsule", "destroy", capsule)
    assert (done.returncode, done.stdout) == (0, f"{capsule} stopped\n")
    assert told("capsule", "list") == {"capsules": []}


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--network", "internet"], "internet"),
        (["--network", "none"], None),
        (
            ["--network", "packages.example.org", "--network", "*.mirror.example:443"],
            {"allow": ["packages.example.org", "*.mirror.example:443"]},
        ),
    ],
)
def test_a_capsule_with_a_network(anvil: Anvil, told: Told, words: list[str], shown: object) -> None:
    made = told("capsule", "create", "host", *words)
    assert made.get("network") == shown
    anvil("capsule", "destroy", made["id"])


def test_programs(anvil: Anvil, capsule: str) -> None:
    done = anvil(
        "capsule", "exec", capsule, "--env", "A=b", "--cwd", "/usr", "--", "sh", "-c", "pwd; echo $A >&2; exit 3"
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "/usr\n", "b\n")
    assert anvil("capsule", "exec", capsule, "--", "sh", "-c", "kill -9 $$").returncode == 255
    missing = anvil("capsule", "exec", capsule, "--", "/no/such")
    assert missing.returncode == 6
    assert "/no/such" in missing.stderr
    assert anvil("capsule", "exec", capsule).returncode == 2


def test_files(anvil: Anvil, told: Told, capsule: str, tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    (tmp_path / "source").write_bytes(content)
    pushed = told("capsule", "push", capsule, tmp_path / "source", "/tmp/deep/")
    assert pushed == {"path": "/tmp/deep/source", "size": len(content)}
    assert anvil("capsule", "pull", capsule, "/tmp/deep/source", tmp_path / "back").returncode == 0
    assert (tmp_path / "back").read_bytes() == content
    assert anvil("capsule", "pull", capsule, "/tmp/none", tmp_path / "none").returncode == 3
    assert not (tmp_path / "none").exists()
    assert anvil("capsule", "push", capsule, tmp_path / "none", "/tmp/x").returncode == 2


def test_a_template_and_what_is_made_of_it(anvil: Anvil, told: Told, capsule: str) -> None:
    assert anvil("capsule", "exec", capsule, "--", "sh", "-c", "echo kept >/home/mark").returncode == 0
    assert anvil("capsule", "snapshot", capsule, "mine").stdout == "mine\n"
    assert anvil("capsule", "snapshot", capsule, "mine").returncode == 6
    assert told("capsule", "snapshot", capsule, "mine", "--overwrite")["name"] == "mine"
    assert re.search(r"^mine\tbase\tyour team\t", anvil("capsule", "templates").stdout, re.M)
    assert [each["name"] for each in told("capsule", "templates")["templates"]] == ["mine", "host"]
    other = told("capsule", "create", "mine", "--memory", 128)
    assert other["memory_mb"] == 128
    assert anvil("capsule", "exec", other["id"], "--", "cat", "/home/mark").stdout == "kept\n"
    assert anvil("capsule", "destroy", other["id"]).returncode == 0
    assert anvil("capsule", "remove-template", "mine").stdout == "mine removed\n"


def test_what_cannot_be_says_why(anvil: Anvil, capsule: str) -> None:
    paused = anvil("capsule", "pause", capsule)
    assert paused.returncode == 6
    assert "cannot put capsules aside" in paused.stderr
    assert anvil("capsule", "resume", capsule).returncode == 6
    unknown = anvil("capsule", "create", "nothing")
    assert unknown.returncode == 3
    assert "all teams see: host" in unknown.stderr
    assert anvil("capsule", "show", "cl-nothing").returncode == 3
    assert anvil("capsule", "remove-template", "nothing").returncode == 3
    assert anvil("capsule", "shell", capsule).returncode == 2


def test_a_terminal_in_a_capsule(in_terminal: InTerminal, capsule: str) -> None:
    talk = [(PROMPT, b"echo $((6*7))"), (b"\n42\r\n", b"exit 9")]
    assert in_terminal(["capsule", "shell", capsule, "--", "sh"], talk)[0] == 9
