"""The driver guide tells the truth: its tables are the code's, its reference is current, its tutorial works."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from anvild.core.plugins import Plugins, PluginState
from anvild.sdk import ERROR_TABLE
from anvild.sdk.testing import RULES, load_profile
from anvild.sdk.testing.document import reference
from tests.daemon import BIN

DOCS = Path(__file__).resolve().parents[2] / "docs"
GUIDE = (DOCS / "driver.md").read_text()
TUTORIAL = GUIDE[GUIDE.index("## Tutorial") : GUIDE.index("## The parts")]
BLOCK = re.compile(r"```(\w+) ?(\S*)\n(.*?)```", re.DOTALL)


def test_the_error_table_is_the_one_of_the_code() -> None:
    rows = [
        f"| `{row.code}` | {row.condition} | {row.remedy} | {'yes' if row.retry else 'no'} |" for row in ERROR_TABLE
    ]
    assert [row for row in rows if row not in GUIDE] == []


def test_the_reference_is_current() -> None:
    command = "python -m anvild.sdk.testing.document > docs/driver-reference.md"
    assert (DOCS / "driver-reference.md").read_text() == reference(), f"run {command}"


def test_the_reference_has_every_rule() -> None:
    told = re.findall(r"^\| `([a-z_]+\.[a-z-]+)` \| (?:bronze|silver|gold|platinum) \|", reference(), re.MULTILINE)
    assert sorted(told) == sorted(rule.name for rule in RULES)


def test_the_drivers_in_one_file_load(tmp_path: Path) -> None:
    examples = re.findall(r"```python lamp.py\n(.*?)```", GUIDE, re.DOTALL)
    assert len(examples) == 2
    for number, example in enumerate(examples):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "lamp.py").write_text(example)
        plugins = Plugins(allow=["lamp"], drop_ins=folder)
        assert [each.state for each in plugins.listing() if each.name == "lamp"] == [PluginState.LOADED]
        assert list(plugins.drivers()) == ["lamp"]


def test_the_profile_is_one(tmp_path: Path) -> None:
    example = next(block for kind, _, block in BLOCK.findall(GUIDE) if kind == "toml" and "[exec]" in block)
    (tmp_path / "testdata").mkdir()
    (tmp_path / "testdata/hello.pkg").touch()
    (tmp_path / "conformance.toml").write_text(example)
    assert load_profile(tmp_path / "conformance.toml").exec.directory == "/system"


@pytest.mark.parametrize("name", re.findall(r"`((?:drivers|tests)/[\w./]+)`", GUIDE))
def test_the_examples_exist(name: str) -> None:
    assert (DOCS.parent / name).exists()


@pytest.mark.parametrize("name", ["driver.md", "driver-reference.md"])
def test_the_links_lead_somewhere(name: str) -> None:
    text = (DOCS / name).read_text()
    for target, anchor in re.findall(r"\]\(([\w.-]*)(?:#([\w-]+))?\)", text):
        linked = (DOCS / target).read_text() if target else text
        heads = {
            re.sub(r"[^\w\- ]", "", head).lower().replace(" ", "-") for head in re.findall(r"^#+ (.+)$", linked, re.M)
        }
        assert not anchor or anchor in heads, f"{name}: {target}#{anchor}"


def script() -> Iterator[str]:
    """The tutorial as a script: files are written, commands run, and a mark printed before each block."""
    for number, (kind, name, block) in enumerate(BLOCK.findall(TUTORIAL)):
        if kind == "python":
            yield f"cat > {name} <<'THE-END-OF-THE-FILE'\n{block}THE-END-OF-THE-FILE"
        if kind == "console":
            yield f"echo; echo @@{number}"
            for line in block.splitlines():
                assert line.startswith("$ "), f"{line!r} is no command"
                yield line.removeprefix("$ ")


def test_the_tutorial_works(tmp_path: Path) -> None:
    """What it shows as output is in the output of the commands before it."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ANVIL_")}
    environ |= {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    work = tmp_path / "work"
    work.mkdir()
    # The daemon of the tutorial is ended whatever happens, and with it all that holds the pipe.
    trap = "trap 'test -z \"${ANVILD:-}\" || kill $ANVILD 2> /dev/null || true' EXIT"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join([trap, *script()])],
        cwd=work,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    log = (work / "lab/log").read_text() if (work / "lab/log").exists() else ""
    assert done.returncode == 0, f"{done.stdout}\n{log}"
    outputs = dict(re.findall(r"^@@(\d+)\n(.*?)(?=^@@|\Z)", done.stdout, re.DOTALL | re.MULTILINE))
    blocks = BLOCK.findall(TUTORIAL)
    told = 0
    for number, (kind, _, block) in enumerate(blocks):
        if kind == "text":
            found = outputs[str(number - 1)]
            assert [line for line in block.splitlines() if line not in found.splitlines()] == [], found
            told += 1
    assert told >= 3
    plugins = next(output for output in outputs.values() if "GRADE" in output and "HOOKS" in output)
    assert re.search(r"^lamp\t.*\tplatinum\t", plugins, re.MULTILINE), plugins


def test_the_commands_of_the_how_tos_exist() -> None:
    rest = GUIDE[GUIDE.index("## The parts") :]
    calls = re.findall(r"`(anvil [a-z][^`]*)`|^(anvil .+)$", rest, re.MULTILINE)
    assert len(calls) > 3
    for words in (shlex.split(one or other) for one, other in calls):
        assert words[1] in ("driver", "plugins", "drivers"), words
        assert words[1] != "driver" or words[2] in ("new", "check", "run"), words
