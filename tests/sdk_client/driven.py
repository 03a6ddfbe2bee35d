"""Which public methods of the SDK there are, and which of them a program has called.

Runs beside the SDK, not beside the daemon: it may import the SDK's packages, and nothing of ours.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from enum import Enum
from types import CodeType

import pydantic
import wrenn

TOOL = 4
"""The number of this tool among those that watch the interpreter; 0 to 3 are given to debuggers and profilers."""


def public_methods() -> dict[str, CodeType]:
    """Return the code of every public method and property of the SDK's classes, by its name.

    Left out is what only holds values: its models and enumerations.
    """
    found: dict[str, CodeType] = {}
    for module in pkgutil.walk_packages(wrenn.__path__, "wrenn."):
        for name, kind in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            holds_values = issubclass(kind, pydantic.BaseModel | Enum)
            if kind.__module__ == module.name and not name.startswith("_") and not holds_values:
                found |= {f"{kind.__module__}.{name}.{each}": code for each, code in _methods(kind)}
    return found


def _methods(kind: type) -> Iterator[tuple[str, CodeType]]:
    for name, member in vars(kind).items():
        if name.startswith("_"):
            continue
        if hasattr(member, "_ifn"):  # one name for a method of an instance and one of its class
            for half in (member._ifn, member._sfn):
                yield f"{name} ({half.split('_')[1]})", _code(vars(kind)[half])
        elif isinstance(member, classmethod | staticmethod | property) or inspect.isroutine(member):
            yield name, _code(member)


def _code(member: object) -> CodeType:
    if isinstance(member, property):
        member = member.fget
    elif isinstance(member, classmethod | staticmethod):
        member = member.__func__
    code: CodeType = inspect.unwrap(member).__code__  # type: ignore[arg-type,attr-defined]
    return code


@contextlib.contextmanager
def recorded() -> Iterator[set[CodeType]]:
    """Collect what code of Python is called within the block."""
    called: set[CodeType] = set()

    def note(code: CodeType, _: int) -> object:
        called.add(code)
        return sys.monitoring.DISABLE

    sys.monitoring.use_tool_id(TOOL, "driven")
    sys.monitoring.register_callback(TOOL, sys.monitoring.events.PY_START, note)
    sys.monitoring.set_events(TOOL, sys.monitoring.events.PY_START)
    try:
        yield called
    finally:
        sys.monitoring.free_tool_id(TOOL)
