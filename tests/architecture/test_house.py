"""The rules of the house that a program can check."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(
    path
    for top in ("anvild", "drivers", "plugins")
    for path in (ROOT / top).rglob("*.py")
    if "tests" not in path.relative_to(ROOT).parts
)
MAX_LINES = 650
MAX_PUBLIC_METHODS = 22
PLATFORMS = re.compile(
    r"micro-?vm|sandbox|qemu|bubblewrap|bwrap|android|\badb\b|\bios\b|iphone|macos|usbmux|xcrun|\bfio\b|nvme|\bkvm\b",
    re.IGNORECASE,
)
# The systemd directive and the capsules wing's words are not platforms.
ALLOWED = re.compile(r"-sandbox on|host_has_sandboxes")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_room_is_about_one_thing(path: Path) -> None:
    lines = path.read_text().count("\n")
    assert lines <= MAX_LINES, f"{name(path)} has {lines} lines: split it by what it is about"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_class_is_not_a_crowd(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ClassDef):
            public = [
                each.name
                for each in node.body
                if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) and not each.name.startswith("_")
            ]
            assert len(public) <= MAX_PUBLIC_METHODS, f"{name(path)}: {node.name} has {len(public)} public methods"


@pytest.mark.parametrize(
    "path",
    [p for p in MODULES if p.relative_to(ROOT).parts[:2] in {("anvild", f) for f in ("core", "web", "sdk")}],
    ids=name,
)
def test_the_floor_names_no_platform(path: Path) -> None:
    for number, line in enumerate(path.read_text().splitlines(), 1):
        found = PLATFORMS.search(ALLOWED.sub("", line))
        assert not found, f"{name(path)}:{number} names a platform: {line.strip()}"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_no_import_hides_in_a_function(path: Path) -> None:
    """An import inside a function is allowed to be lazy, never to dodge a circle: it must say why beside it."""
    lines = path.read_text().splitlines()
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for inner in ast.walk(node):
                if isinstance(inner, ast.Import | ast.ImportFrom):
                    near = "\n".join(lines[max(inner.lineno - 3, 0) : inner.lineno])
                    assert "#" in near, f"{name(path)}:{inner.lineno} imports inside {node.name} and does not say why"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_public_things_are_documented(path: Path) -> None:
    tree = ast.parse(path.read_text())
    if path.name != "__init__.py" or path.stat().st_size:
        assert ast.get_docstring(tree) or path.stat().st_size == 0, f"{name(path)} has no docstring"
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{name(path)}:{node.lineno} {node.name} has no docstring"
