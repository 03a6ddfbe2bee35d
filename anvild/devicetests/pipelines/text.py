"""Filling values into the texts of a pipeline, and finding where something stands in its file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["BUILTINS", "MissingValue", "fill", "locate", "variables"]

BUILTINS = ("pipeline", "run_id", "attempt")
"""The values that every run has, beside its parameters and what its steps capture."""

_VARIABLE = re.compile(r"\{\{\s*([a-z][a-z0-9_]*)\s*\}\}")
_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\]]+?)\s*\]\]?")
_KEY = re.compile(r"""^\s*("[^"]+"|'[^']+'|[A-Za-z0-9_-]+)\s*[=.]""")

PathKey = tuple[str | int, ...]


class MissingValue(LookupError):
    """A text names a value that is not there: the step that captures it has not run."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def variables(value: Any) -> Iterator[str]:
    """Yield the names in all ``{{ name }}`` of a text, or of all texts in a list or table."""
    if isinstance(value, str):
        yield from _VARIABLE.findall(value)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from variables(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from variables(item)


def fill(text: str, values: Mapping[str, str], *, pattern: bool = False) -> str:
    """Return ``text`` with every ``{{ name }}`` replaced. In a regular expression (``pattern``) a value stands for
    itself. Raises MissingValue."""

    def value(match: re.Match[str]) -> str:
        found = values.get(match.group(1))
        if found is None:
            raise MissingValue(match.group(1))
        return re.escape(found) if pattern else found

    return _VARIABLE.sub(value, text)


def locate(document: str, path: PathKey) -> int | None:
    """Return the line, from 1, where ``path`` (or the closest table above it) stands in a TOML document."""
    lines = _lines(document)
    for length in range(len(path), 0, -1):
        if line := lines.get(path[:length]):
            return line
    return None


def _lines(document: str) -> dict[PathKey, int]:
    """Map the tables and keys of a TOML document to their lines, as far as they can be told without a parser."""
    found: dict[PathKey, int] = {}
    counts: dict[str, int] = {}
    table: PathKey = ()
    quote: str | None = None
    for number, line in enumerate(document.splitlines(), start=1):
        if quote is not None:
            if quote in line:
                quote = None
            continue
        if header := _HEADER.match(line):
            name = header.group(2)
            keys = tuple(part.strip().strip("\"'") for part in name.split("."))
            if header.group(1) == "[[":
                counts[name] = counts.get(name, -1) + 1
                table = (*keys, counts[name])
            else:
                table = (keys[0], counts[keys[0]], *keys[1:]) if keys[0] in counts else keys
            for length in range(1, len(table) + 1):
                found.setdefault(table[:length], number)
        elif key := _KEY.match(line):
            found.setdefault((*table, key.group(1).strip("\"'")), number)
        for mark in ('"""', "'''"):
            if line.count(mark) % 2:
                quote = mark
    return found
