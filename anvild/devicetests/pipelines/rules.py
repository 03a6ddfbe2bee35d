"""What the types of the model alone cannot refuse: rules between keys, and names that lead nowhere."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from anvild.sdk import SESSION_CAPABILITIES, InvalidArgument, check_absolute

from .app_verbs import Install, LogsStep, Test
from .model import Pipeline
from .parts import MAX_CAPTURES, MAX_STEPS, Part, Step
from .problems import Flaw, suggestion
from .text import BUILTINS, PathKey, variables
from .verbs import Assert, ExecExpectation, ExecStep, FindingStep, ListStep, Pull, Push, Wait

__all__ = ["flaws"]

RUN = "run"
"""What a ``logs`` step calls the beginning of the run; so no step has this name."""


def flaws(pipeline: Pipeline) -> Iterator[Flaw]:
    """Tell what contradicts itself in a pipeline that has the right form."""
    for capability in pipeline.requires.capabilities:
        if capability not in SESSION_CAPABILITIES:
            text = f"unknown capability {capability!r}; {suggestion(capability, SESSION_CAPABILITIES)}"
            yield Flaw(("requires", "capabilities"), text)
    if (count := sum(len(steps) for _, steps in pipeline.sections())) > MAX_STEPS:
        yield Flaw(("always",), f"a pipeline has at most {MAX_STEPS} steps, not {count}")
    for key, parameter in pipeline.parameters.items():
        yield from _regular(parameter.pattern or "", ("parameters", key, "pattern"))
        if key in BUILTINS:
            text = f"{key!r} is the name of a value that every run has; choose another"
            yield Flaw(("parameters", key), text)
    yield from _names(pipeline.env, {*BUILTINS, *pipeline.parameters}, ("env",))
    yield from _steps(pipeline)


def _steps(pipeline: Pipeline) -> Iterator[Flaw]:
    known = {*BUILTINS, *pipeline.parameters}
    names: set[str] = {RUN}
    captures = 0
    for section, steps in pipeline.sections():
        for index, step in enumerate(steps):
            path: PathKey = (section, index)
            if step.name == RUN:
                yield Flaw((*path, "name"), f"no step can be called {RUN!r}: that is the run itself")
            elif step.name in names:
                yield Flaw((*path, "name"), f"two steps are called {step.name!r}; names must be unique")
            yield from _step(step, path)
            yield from _input(step, pipeline, path)
            if isinstance(step, LogsStep) and step.since not in names:
                text = f"no step before this one is called {step.since!r}; {suggestion(step.since, names)}"
                yield Flaw((*path, "since"), text)
            for field in step.__struct_fields__:
                value = getattr(step, field)
                plain = msgspec.to_builtins(value) if isinstance(value, Part) else value
                yield from _names(plain, known, (*path, field))
            names.add(step.name)
            if isinstance(step, ExecStep) and step.capture:
                known.add(step.capture)
                captures += 1
    if captures > MAX_CAPTURES:
        yield Flaw(("steps",), f"the steps capture {captures} values; at most {MAX_CAPTURES} are kept")


def _step(step: Step, path: PathKey) -> Iterator[Flaw]:
    match step:
        case ExecStep():
            if (step.command is None) == (step.shell is None):
                yield Flaw(path, "an exec step has either 'command' or 'shell'")
            if named := next(variables(step.shell or ""), None):
                text = f"a shell text takes no {{{{ {named} }}}}, which could hold anything: give it by 'env'"
                yield Flaw((*path, "shell"), text)
            yield from _patterns(step.expect, (*path, "expect"))
        case Push():
            yield from _absolute(path, step.path)
            if sum(each is not None for each in (step.text, step.base64, step.input)) != 1:
                yield Flaw(path, "a push step has either 'text' or 'base64' or 'input'")
            try:
                base64.b64decode(step.base64 or "", validate=True)
            except binascii.Error as error:
                yield Flaw((*path, "base64"), f"this is not base64: {error}")
        case Pull():
            yield from _absolute(path, *(step.path if isinstance(step.path, tuple) else (step.path,)))
        case ListStep():
            yield from _absolute(path, step.path)
        case Wait():
            yield from _absolute(path, *(() if step.path is None else (step.path,)))
            if (step.path is None) == (step.seconds is None):
                yield Flaw(path, "a wait step has either 'path' or 'seconds'")
            if step.seconds is not None and step.seconds >= step.timeout:
                yield Flaw(
                    (*path, "seconds"),
                    f"the step is given up after its timeout of {step.timeout:g} s: make that longer",
                )
        case Assert():
            if step.equals is None and not step.contains and not step.matches:
                yield Flaw(path, "an assert step has 'equals', 'contains' or 'matches'")
            for pattern in (step.matches,) if isinstance(step.matches, str) else step.matches:
                yield from _regular(pattern, (*path, "matches"))
        case Test():
            most = step.expect.max_tests
            if most is not None and most < step.expect.min_tests:
                yield Flaw((*path, "expect"), f"'max_tests' is less than 'min_tests', which is {step.expect.min_tests}")
        case FindingStep() if step.title is None:
            yield Flaw(path, "a finding step needs a 'title'")
        case _:
            pass


def _input(step: Step, pipeline: Pipeline, path: PathKey) -> Iterator[Flaw]:
    name = step.input if isinstance(step, Install | Push) else None
    if name is not None and name not in pipeline.inputs:
        text = f"the pipeline has no input {name!r}; {suggestion(name, pipeline.inputs)}"
        yield Flaw((*path, "input"), text)


def _absolute(path: PathKey, *paths: str) -> Iterator[Flaw]:
    for item in paths:
        if not item.startswith("{{"):
            try:
                check_absolute(item)
            except InvalidArgument as error:
                yield Flaw((*path, "path"), error.message)


def _patterns(expect: ExecExpectation, path: PathKey) -> Iterator[Flaw]:
    for field in expect.__struct_fields__:
        if field.endswith("_matches"):
            lines: str | tuple[str, ...] = getattr(expect, field)
            for pattern in (lines,) if isinstance(lines, str) else lines:
                yield from _regular(pattern, (*path, field))


def _regular(pattern: str, path: PathKey) -> Iterator[Flaw]:
    try:
        re.compile(pattern)
    except re.error as error:
        yield Flaw(path, f"{pattern!r} is no regular expression: {error}")


def _names(value: Any, known: set[str], path: PathKey) -> Iterator[Flaw]:
    for name in variables(value):
        if name not in known:
            yield Flaw(path, f"nothing is called {name!r} here; {suggestion(name, known)}")
