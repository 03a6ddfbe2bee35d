"""From the text of a pipeline file to the model, or to one sentence that says what is wrong and where."""

from __future__ import annotations

import base64
import binascii
import re
import tomllib
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

import msgspec

from anvild.sdk import SESSION_CAPABILITIES, InvalidArgument, check_absolute

from .model import (
    MAX_CAPTURES,
    MAX_STEPS,
    AnyStep,
    Collect,
    ExecExpectation,
    ExecStep,
    FindingStep,
    Frozen,
    ListStep,
    Part,
    Pipeline,
    PipelineError,
    Push,
    Step,
    Wait,
)
from .text import BUILTINS, PathKey, locate, variables

__all__ = ["freeze", "parse", "suggestion"]

_AT = re.compile(r" - at `\$(.*)`$")
_PART = re.compile(r"\.([A-Za-z0-9_-]+)|\[(\d+)\]|\[\.\.\.\]")
MAX_VALUE = 64 * 1024


class _Problem(Exception):
    """Something is wrong at ``path`` of the document."""

    def __init__(self, path: PathKey, message: str) -> None:
        super().__init__(message)
        self.path = path


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return the end of a sentence about an unknown word: the one that was meant, or all that there are."""
    names = sorted(known)
    close = get_close_matches(word, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(names) or 'none'}"


def parse(document: str, *, name: str, file: str) -> Pipeline:
    """Read one pipeline. ``file`` is how messages call it; ``name`` is its name unless the document says the same.

    Raises PipelineError.
    """
    try:
        return _parse(document, name)
    except _Problem as problem:
        line = locate(document, problem.path)
        place = f"{file}, line {line}" if line else file
        raise PipelineError(f"{place}: {problem}", file=file, line=line) from None


def _parse(document: str, name: str) -> Pipeline:
    try:
        tables = tomllib.loads(document)
    except tomllib.TOMLDecodeError as error:
        raise _Problem((), f"this is not TOML: {error}") from None
    _known(tables, msgspec.inspect.type_info(Pipeline), ())
    try:
        pipeline = msgspec.convert(tables, Pipeline)
    except msgspec.ValidationError as error:
        message = str(error)
        at = _AT.search(message)
        where = f"{at.group(1).lstrip('.')}: " if at else ""
        raise _Problem(_path(message), where + _AT.sub("", message)) from None
    if pipeline.name and pipeline.name != name:
        raise _Problem(("name",), f"the file is called {name!r} and its pipeline {pipeline.name!r}: give both one name")
    pipeline = msgspec.structs.replace(
        pipeline, name=name, steps=_named(pipeline.steps, "step"), always=_named(pipeline.always, "always")
    )
    _check(pipeline)
    return pipeline


def _named(steps: tuple[AnyStep, ...], word: str) -> tuple[AnyStep, ...]:
    return tuple(
        step if step.name else msgspec.structs.replace(step, name=f"{word}-{number}")
        for number, step in enumerate(steps, start=1)
    )


def _path(message: str) -> PathKey:
    """Turn the place in a message of msgspec (``$.steps[2].timeout``) into a path."""
    at = _AT.search(message)
    if at is None:
        return ()
    parts = _PART.finditer(at.group(1))
    return tuple(part.group(1) or int(part.group(2)) for part in parts if part.group(1) or part.group(2))


def _known(value: Any, kind: msgspec.inspect.Type, path: PathKey) -> None:
    """Refuse keys and verbs that the model does not know, with a suggestion."""
    if isinstance(kind, msgspec.inspect.UnionType):
        structs = [option for option in kind.types if isinstance(option, msgspec.inspect.StructType)]
        if isinstance(value, dict) and structs:
            verb = value.get("verb")
            if verb is None:
                raise _Problem(path, f"the step names no verb; {suggestion('', (str(s.tag) for s in structs))}")
            chosen = next((struct for struct in structs if struct.tag == verb), None)
            if chosen is None:
                raise _Problem(
                    (*path, "verb"), f"unknown verb {verb!r}; {suggestion(str(verb), (str(s.tag) for s in structs))}"
                )
            _known(value, chosen, path)
    elif isinstance(kind, msgspec.inspect.StructType) and isinstance(value, dict):
        fields = {field.encode_name: field.type for field in kind.fields}
        for key, item in value.items():
            if key == kind.tag_field:
                continue
            if key not in fields:
                raise _Problem((*path, key), f"unknown key {key!r}; {suggestion(key, fields)}")
            _known(item, fields[key], (*path, key))
    elif isinstance(kind, msgspec.inspect.DictType) and isinstance(value, dict):
        for key, item in value.items():
            _known(item, kind.value_type, (*path, key))
    elif isinstance(kind, msgspec.inspect.VarTupleType) and isinstance(value, list):
        for index, item in enumerate(value):
            _known(item, kind.item_type, (*path, index))


def _check(pipeline: Pipeline) -> None:
    """Refuse what the types alone cannot: rules between fields, and names that lead nowhere."""
    for capability in pipeline.requires.capabilities:
        if capability not in SESSION_CAPABILITIES:
            raise _Problem(
                ("requires", "capabilities"),
                f"unknown capability {capability!r}; {suggestion(capability, SESSION_CAPABILITIES)}",
            )
    if len(pipeline.steps) + len(pipeline.always) > MAX_STEPS:
        raise _Problem(("always",), f"a pipeline has at most {MAX_STEPS} steps")
    for key, parameter in pipeline.parameters.items():
        _regular(parameter.pattern or "", ("parameters", key, "pattern"))
        if key in BUILTINS:
            raise _Problem(("parameters", key), f"{key!r} is the name of a value that every run has; choose another")
    known = {*BUILTINS, *pipeline.parameters}
    _names(pipeline.env, known, ("env",))
    names: set[str] = set()
    captures = 0
    for section, steps in (("steps", pipeline.steps), ("always", pipeline.always)):
        for index, step in enumerate(steps):
            path: PathKey = (section, index)
            if step.name in names:
                raise _Problem((*path, "name"), f"two steps are called {step.name!r}; names must be unique")
            names.add(step.name)
            _step(step, known, path)
            if isinstance(step, ExecStep) and step.capture:
                known.add(step.capture)
                captures += 1
    if captures > MAX_CAPTURES:
        raise _Problem(("steps",), f"the steps capture {captures} values; at most {MAX_CAPTURES} are kept")


def _step(step: Step, known: set[str], path: PathKey) -> None:
    paths: tuple[str, ...] = ()
    match step:
        case ExecStep():
            if (step.command is None) == (step.shell is None):
                raise _Problem(path, "an exec step has either 'command' or 'shell'")
            if named := next(variables(step.shell or ""), None):
                raise _Problem(
                    (*path, "shell"),
                    f"a shell text takes no {{{{ {named} }}}}, which could hold anything: give it by 'env'",
                )
            _patterns(step.expect, (*path, "expect"))
        case Push():
            paths = (step.path,)
            if (step.text is None) == (step.base64 is None):
                raise _Problem(path, "a push step has either 'text' or 'base64'")
            try:
                base64.b64decode(step.base64 or "", validate=True)
            except binascii.Error as error:
                raise _Problem((*path, "base64"), f"this is not base64: {error}") from None
        case Collect():
            paths = step.path if isinstance(step.path, tuple) else (step.path,)
        case ListStep() | Wait():
            paths = (step.path,)
        case FindingStep() if step.title is None:
            raise _Problem(path, "a finding step needs a 'title'")
        case _:
            pass
    for item in paths:
        if not item.startswith("{{"):
            try:
                check_absolute(item)
            except InvalidArgument as error:
                raise _Problem((*path, "path"), error.message) from None
    for field in step.__struct_fields__:
        value = getattr(step, field)
        _names(msgspec.to_builtins(value) if isinstance(value, Part) else value, known, (*path, field))


def _patterns(expect: ExecExpectation, path: PathKey) -> None:
    for field in expect.__struct_fields__:
        if field.endswith("_matches"):
            lines: str | tuple[str, ...] = getattr(expect, field)
            for pattern in (lines,) if isinstance(lines, str) else lines:
                _regular(pattern, (*path, field))


def _regular(pattern: str, path: PathKey) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise _Problem(path, f"{pattern!r} is no regular expression: {error}") from None


def _names(value: Any, known: set[str], path: PathKey) -> None:
    for name in variables(value):
        if name not in known:
            raise _Problem(path, f"nothing is called {name!r} here; {suggestion(name, known)}")


def freeze(pipeline: Pipeline, metadata: Mapping[str, Any]) -> Frozen:
    """Bind a pipeline to the values of one run: ``metadata["parameters"]`` and ``metadata["env"]``, both tables of
    texts, numbers or booleans. Raises PipelineError for an unknown, missing or unfitting one."""
    given = _texts(metadata, "parameters")
    for key in given:
        if key not in pipeline.parameters:
            raise PipelineError(
                f"the pipeline {pipeline.name!r} has no parameter {key!r}; {suggestion(key, pipeline.parameters)}"
            )
    values: dict[str, str] = {}
    for key, parameter in pipeline.parameters.items():
        value = given.get(key, parameter.default)
        if value is None:
            raise PipelineError(
                f"the pipeline {pipeline.name!r} needs the parameter {key!r}: give it in metadata.parameters"
            )
        if parameter.pattern is not None and re.fullmatch(parameter.pattern, value) is None:
            raise PipelineError(f"the parameter {key!r} must match {parameter.pattern!r}")
        values[key] = value
    try:
        return msgspec.convert(
            {"pipeline": msgspec.to_builtins(pipeline), "parameters": values, "env": _texts(metadata, "env")}, Frozen
        )
    except msgspec.ValidationError as error:
        raise PipelineError(f"metadata.env is not an environment: {error}") from None


def _texts(metadata: Mapping[str, Any], key: str) -> dict[str, str]:
    table = metadata.get(key)
    if table is None:
        return {}
    if not isinstance(table, Mapping):
        raise PipelineError(f"metadata.{key} must be an object of names and values")
    texts: dict[str, str] = {}
    for name, value in table.items():
        if isinstance(value, bool):
            texts[name] = "true" if value else "false"
        elif isinstance(value, str | int | float):
            texts[name] = str(value)
        else:
            raise PipelineError(f"metadata.{key}.{name} must be a text, a number or a boolean")
        if len(texts[name]) > MAX_VALUE:
            raise PipelineError(f"metadata.{key}.{name} is longer than {MAX_VALUE} characters")
    return texts
