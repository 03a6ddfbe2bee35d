"""Writes the reference of the interface from its docstrings: ``python -m anvild.sdk.testing.document``.

The text goes to standard output; it is kept as ``docs/driver-reference.md``, and a test sees to it that it is current.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any

import msgspec

from .. import cgroups, processes, sockets, values
from .. import errors as errors_module
from ..agent import AgentSession, guest_archive
from ..capabilities import DRIVER_CAPABILITIES, SESSION_CAPABILITIES, Process, run
from ..driver import Driver, DriverContext, DriverSettings, Session
from ..errors import ERROR_TABLE
from ..verbs import Capability, verbs_of
from . import ChildProcess, InProcess, OverWebSocket, Report, Result, examine, load_profile, profile, profile_of, table
from .checks import RULES

__all__ = ["reference"]

HEAD = """# The driver interface: reference

Generated from the docstrings of `anvild.sdk` by `python -m anvild.sdk.testing.document`; do not edit. The guide is
[driver.md](driver.md).
"""

LINE = 110
DEFAULT = 40
"""The longest signature on one line, and the longest default value that is written out."""


def reference() -> str:
    """Return the whole reference as Markdown."""
    parts = [HEAD]
    parts += ["## The driver", *_class(Driver), *_class(Session), *_class(DriverContext), *_class(DriverSettings)]
    parts += ["## Capabilities of a session", *_capabilities(SESSION_CAPABILITIES.values())]
    parts += [*_class(Process), *_function(run)]
    parts += ["## Capabilities of a driver", *_capabilities(DRIVER_CAPABILITIES.values())]
    parts += ["## Values", *_values()]
    parts += ["## Errors", _text(errors_module), error_table()]
    parts += ["## Help for devices that run programs", *_class(AgentSession, methods=False), *_function(guest_archive)]
    for module in (cgroups, processes, sockets):
        parts += [f"## `{module.__name__}`", _text(module), *_exports(module)]
    parts += ["## The conformance kit", *_function(examine), *_function(load_profile), *_function(profile_of)]
    for kind in (InProcess, ChildProcess, OverWebSocket, Report, Result):
        parts += _class(kind)
    parts += ["### The profile: `conformance.toml`"]
    parts += [line for kind in vars(profile).values() if _is_table(kind) for line in _struct(kind, "####")]
    parts += ["### The rules", table(RULES).rstrip()]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def error_table() -> str:
    """Return the table of errors as Markdown."""
    lines = ["| code | condition | what the caller must do | retry |", "|---|---|---|---|"]
    lines += [
        f"| `{row.code}` | {row.condition} | {row.remedy} | {'yes' if row.retry else 'no'} |" for row in ERROR_TABLE
    ]
    return "\n".join(lines)


def _capabilities(found: Iterable[type[Capability]]) -> list[str]:
    parts = []
    for each in found:
        parts += [f"### `{each.__name__}`", f"Declared as `{each.capability}`. {_text(each)}"]
        for verb, deadline in verbs_of(each).items():
            limit = "no deadline" if deadline == float("inf") else f"deadline {deadline:g} s"
            parts += [
                f"#### `{each.capability}.{verb}`",
                _code(getattr(each, verb)),
                f"*{limit}.* {_text(getattr(each, verb))}",
            ]
    return parts


def _class(kind: type[Any], *, methods: bool = True) -> list[str]:
    parts = _struct(kind) if issubclass(kind, msgspec.Struct) else [f"### `{kind.__name__}`", _text(kind)]
    for name, member in vars(kind).items() if methods else ():
        function = member.__func__ if isinstance(member, classmethod) else member
        if name.startswith("_") or not inspect.getdoc(function):
            continue
        if isinstance(function, property):
            parts += [f"#### `{kind.__name__}.{name}`", _text(function)]
        elif inspect.isfunction(function):
            parts += [f"#### `{kind.__name__}.{name}`", _code(function), _text(function)]
    return parts


def _struct(kind: type[msgspec.Struct], level: str = "###") -> list[str]:
    fields = []
    for each in msgspec.structs.fields(kind):
        told = "" if each.required else f" = {_default(each)}"
        fields.append(f"{each.name}: {_type(kind, each.name)}{told}")
    code = "\n".join(["```python", f"class {kind.__name__}:", *(f"    {field}" for field in fields), "```"])
    return [f"{level} `{kind.__name__}`", _text(kind), *([code] if fields else [])]


def _values() -> list[str]:
    parts = []
    for kind in vars(values).values():
        if not isinstance(kind, type) or kind.__module__ != values.__name__ or kind is values.Value:
            continue
        if issubclass(kind, Enum):
            parts += [f"### `{kind.__name__}`", _text(kind), ", ".join(f"`{each.value}`" for each in kind)]
        elif issubclass(kind, msgspec.Struct):
            parts += _struct(kind)
    return parts


def _exports(module: Any) -> list[str]:
    parts = []
    for name in module.__all__:
        member = getattr(module, name)
        if inspect.isclass(member):
            parts += _class(member)
        elif inspect.isfunction(member):
            parts += _function(member)
    return parts


def _function(function: Callable[..., Any]) -> list[str]:
    return [f"### `{function.__name__}`", _code(function), _text(function)]


def _code(function: Callable[..., Any]) -> str:
    """The signature as it stands in the source, with no decorator."""
    plain = inspect.unwrap(function)
    signature = inspect.signature(plain)
    word = "async def" if inspect.iscoroutinefunction(plain) else "def"
    inside, starred = [], False
    for each in signature.parameters.values():
        if each.kind is each.KEYWORD_ONLY and not starred:
            inside.append("*")
            starred = True
        inside.append(_parameter(each))
    returned = f" -> {_annotation(signature.return_annotation)}"
    line = f"{word} {plain.__name__}({', '.join(inside)}){returned}"
    if len(line) > LINE:
        body = "".join(f"    {each},\n" for each in inside)
        line = f"{word} {plain.__name__}(\n{body}){returned}"
    return f"```python\n{line}\n```"


def _parameter(parameter: inspect.Parameter) -> str:
    told = parameter.name if parameter.kind is not parameter.VAR_KEYWORD else f"**{parameter.name}"
    if parameter.annotation is not parameter.empty:
        told += f": {_annotation(parameter.annotation)}"
    if parameter.default is not parameter.empty:
        default = repr(parameter.default)
        told += f" = {default if len(default) <= DEFAULT else '...'}"
    return told


def _annotation(annotation: object) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", repr(annotation))


def _text(thing: object) -> str:
    """A docstring as Markdown."""
    text = inspect.getdoc(thing) or ""
    text = re.sub(r":(?:class|meth|func|mod|data):`~?(?:[\w]+\.)*?([\w.]+?)`", r"`\1`", text)
    text = re.sub(r"``([^`]+)``", r"`\1`", text)
    text = re.sub(r"::\n\n((?:    .*\n?|\n)+)", lambda found: ":\n\n" + _fenced(found[1]), text + "\n")
    return re.sub(r"^:(\w+)(?: (\w+))?:", lambda found: f"- {found[2] or found[1]}:", text, flags=re.MULTILINE).strip()


def _fenced(block: str) -> str:
    lines = [line.removeprefix("    ") for line in block.strip("\n").splitlines()]
    return "\n".join(["```python", *lines, "```", ""])


def _type(kind: type[Any], name: str) -> str:
    """A field's annotation as it stands in the source, without its limits."""
    for base in kind.__mro__:
        if name in vars(base).get("__annotations__", {}):
            text = str(base.__annotations__[name])
            return re.sub(r"Annotated\[(.+), msgspec\.Meta\((?:[^()]|\([^()]*\))*\)\]", r"\1", text)
    return "Any"


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.default_factory is not msgspec.NODEFAULT:
        return repr(field.default_factory()) if field.default_factory in (dict, list) else "..."
    return repr(field.default) if not isinstance(field.default, msgspec.Struct) else f"{type(field.default).__name__}()"


def _is_table(kind: object) -> bool:
    return (
        isinstance(kind, type)
        and issubclass(kind, msgspec.Struct)
        and kind.__module__ == profile.__name__
        and bool(kind.__struct_fields__)
    )


if __name__ == "__main__":
    sys.stdout.write(reference())
