"""From the text of a pipeline file to the model, or to sentences that say what is wrong and where."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from .model import SECTIONS, AnyStep, Pipeline
from .parts import PipelineError
from .problems import Flaw, Problem, suggestion
from .rules import flaws
from .text import PathKey, locate

__all__ = ["examine", "parse"]

_AT = re.compile(r" - at `\$(.*)`$")
_PART = re.compile(r"\.([A-Za-z0-9_-]+)|\[(\d+)\]|\[\.\.\.\]")


def parse(document: str, *, name: str, file: str) -> Pipeline:
    """Read one pipeline. ``file`` is how messages call it; ``name`` is its name unless the document says the same.

    Raises PipelineError for the first problem, saying how many more there are.
    """
    pipeline, problems = examine(document, name=name, file=file)
    if pipeline is None:
        more = f" (and {len(problems) - 1} more: see anvil pipeline check)" if len(problems) > 1 else ""
        raise PipelineError(f"{problems[0]}{more}", file=file, line=problems[0].line)
    return pipeline


def examine(document: str, *, name: str, file: str) -> tuple[Pipeline | None, list[Problem]]:
    """Read one pipeline and return it, or None and all that is wrong with it.

    First what has the wrong form is told of; only without such problems, what contradicts itself.
    """
    pipeline, found = _examine(document, name)
    problems = [Problem(file, locate(document, flaw.path), flaw.message) for flaw in found]
    return (None if problems else pipeline), sorted(problems, key=lambda problem: problem.line or 0)


def _examine(document: str, name: str) -> tuple[Pipeline | None, list[Flaw]]:
    try:
        tables = tomllib.loads(document)
    except tomllib.TOMLDecodeError as error:
        return None, [Flaw((), f"this is not TOML: {error}")]
    found = list(_misshapen(tables))
    if found:
        return None, found
    try:
        pipeline = msgspec.convert({"name": name, **tables}, Pipeline)
    except msgspec.ValidationError as error:
        return None, [_told(error, ())]
    if pipeline.name != name:
        text = f"the file is called {name!r} and its pipeline {pipeline.name!r}: give both one name"
        return None, [Flaw(("name",), text)]
    named = {section: _named(steps, _WORDS[section]) for section, steps in pipeline.sections()}
    pipeline = msgspec.structs.replace(pipeline, **named)
    return pipeline, list(flaws(pipeline))


_WORDS = {"steps": "step", "on_failure": "on-failure", "always": "always"}


def _named(steps: tuple[Any, ...], word: str) -> tuple[Any, ...]:
    return tuple(
        step if step.name else msgspec.structs.replace(step, name=f"{word}-{number}")
        for number, step in enumerate(steps, start=1)
    )


def _misshapen(tables: Mapping[str, Any]) -> Iterator[Flaw]:
    """Tell what the model does not know, and what is not as it expects: at most one thing a step and a key."""
    known = {field.encode_name: field.type for field in msgspec.inspect.type_info(Pipeline).fields}  # type: ignore[attr-defined]
    types = {field.encode_name: field.type for field in msgspec.structs.fields(Pipeline)}
    for key, value in tables.items():
        if key not in known:
            yield Flaw((key,), f"unknown key {key!r}; {suggestion(key, known)}")
        elif key in SECTIONS and isinstance(value, list):
            kind = known[key].item_type
            for index, item in enumerate(value):
                yield from _one(item, kind, AnyStep, (key, index))
        else:
            yield from _one(value, known[key], types[key], (key,))


def _one(value: Any, kind: msgspec.inspect.Type, wanted: Any, path: PathKey) -> Iterator[Flaw]:
    found = list(_unknown(value, kind, path))
    yield from found
    if not found:
        try:
            msgspec.convert(value, wanted)
        except msgspec.ValidationError as error:
            yield _told(error, path)


def _told(error: msgspec.ValidationError, path: PathKey) -> Flaw:
    """Turn a message of msgspec, with the place in it (``$.expect.exit``), into a flaw below ``path``."""
    message = str(error)
    at = _AT.search(message)
    inner = at.group(1) if at else ""
    keys = tuple(
        part.group(1) or int(part.group(2)) for part in _PART.finditer(inner) if part.group(1) or part.group(2)
    )
    where = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path) + inner
    return Flaw((*path, *keys), f"{where.lstrip('.')}: {_AT.sub('', message)}" if where else _AT.sub("", message))


def _unknown(value: Any, kind: msgspec.inspect.Type, path: PathKey) -> Iterator[Flaw]:
    """Tell of keys and verbs that the model does not know, with a suggestion."""
    if isinstance(kind, msgspec.inspect.UnionType):
        structs = [option for option in kind.types if isinstance(option, msgspec.inspect.StructType)]
        if isinstance(value, dict) and structs:
            verbs = [str(struct.tag) for struct in structs]
            verb = value.get("verb")
            chosen = next((struct for struct in structs if struct.tag == verb), None)
            if verb is None:
                yield Flaw(path, f"the step names no verb; {suggestion('', verbs)}")
            elif chosen is None:
                yield Flaw((*path, "verb"), f"unknown verb {verb!r}; {suggestion(str(verb), verbs)}")
            else:
                yield from _unknown(value, chosen, path)
    elif isinstance(kind, msgspec.inspect.StructType) and isinstance(value, dict):
        fields = {field.encode_name: field.type for field in kind.fields}
        for key, item in value.items():
            if key == kind.tag_field:
                continue
            if key not in fields:
                yield Flaw((*path, key), f"unknown key {key!r}; {suggestion(key, fields)}")
            else:
                yield from _unknown(item, fields[key], (*path, key))
    elif isinstance(kind, msgspec.inspect.DictType) and isinstance(value, dict):
        for key, item in value.items():
            yield from _unknown(item, kind.value_type, (*path, key))
    elif isinstance(kind, msgspec.inspect.VarTupleType) and isinstance(value, list):
        for index, item in enumerate(value):
            yield from _unknown(item, kind.item_type, (*path, index))
