"""``python -m anvild.sdk.protocol.schemas DIRECTORY``: write the JSON Schemas of every message and every verb.

They are made from the same types that the messages are decoded with, so they say what is true.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from ..capabilities import DRIVER_CAPABILITIES, SESSION_CAPABILITIES
from . import messages
from .methods import DRIVER, PROCESS, Method, Result, Scope, methods_of
from .version import PROTOCOL_VERSION

__all__ = ["schemas", "write_schemas"]

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_RESULTS: dict[Result, Any] = {
    Result.STREAM: messages.StreamResult,
    Result.STREAM_PAIR: messages.StreamPair,
    Result.PROCESS: messages.StartedProcess,
}

_ENVELOPES = (messages.Request, messages.Notification, messages.Answer, messages.Failure)

_NOTIFICATIONS: dict[str, tuple[type[Any], str]] = {
    "cancel": (messages.Cancel, "both"),
    "credit": (messages.Credit, "both"),
    "end": (messages.End, "both"),
    "drop": (messages.Drop, "both"),
    "progress": (messages.Progress, "both"),
    "session.ended": (messages.SessionEnded, "driver to host"),
}

_CORE: dict[str, tuple[type[Any], Any]] = {
    "initialize": (messages.Initialize, messages.Initialized),
    "ping": (messages.Nothing, messages.Nothing),
    "session.open": (messages.OpenSession, messages.OpenedSession),
    "session.close": (messages.CloseSession, None),
}


def schemas() -> dict[str, dict[str, Any]]:
    """Return the content of every file by its name."""
    files = {"messages.json": _messages(), "driver.json": _methods("driver", DRIVER.values())}
    files["process.json"] = _methods("process", PROCESS.values())
    for scope, capabilities in ((Scope.SESSION, SESSION_CAPABILITIES), (Scope.DRIVER, DRIVER_CAPABILITIES)):
        for name, capability in capabilities.items():
            files[f"{name}.json"] = _methods(name, methods_of(capability, scope).values(), capability)
    return files


def write_schemas(directory: Path) -> None:
    """Write every file. A file that is no schema any more is removed. It blocks."""
    directory.mkdir(parents=True, exist_ok=True)
    files = schemas()
    for path in directory.glob("*.json"):
        if path.name not in files:
            path.unlink()
    for name, content in files.items():
        (directory / name).write_text(rendered(content))


def rendered(content: Mapping[str, Any]) -> str:
    """A file as it is written."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _messages() -> dict[str, Any]:
    core = [each for pair in _CORE.values() for each in pair]
    types = [*_ENVELOPES, *(kind for kind, _ in _NOTIFICATIONS.values()), *core, messages.LogLine, messages.ErrorObject]
    made, definitions = _components(types)
    schema = dict(zip(map(id, types), made, strict=True))
    return {
        "$schema": DIALECT,
        "title": "The messages of the driver protocol",
        "protocol": PROTOCOL_VERSION,
        "messages": {kind.__name__.lower(): schema[id(kind)] for kind in _ENVELOPES},
        "notifications": {
            name: {"summary": _summary(kind), "direction": direction, "params": schema[id(kind)]}
            for name, (kind, direction) in _NOTIFICATIONS.items()
        },
        "methods": {
            name: {"summary": _summary(params), "params": schema[id(params)], "result": schema[id(result)]}
            for name, (params, result) in _CORE.items()
        },
        "log": schema[id(messages.LogLine)],
        "error": schema[id(messages.ErrorObject)],
        "$defs": definitions,
    }


def _methods(title: str, methods: Iterable[Method], owner: type[Any] | None = None) -> dict[str, Any]:
    known = list(methods)
    types: list[Any] = []
    for method in known:
        types += [method.params, _RESULTS.get(method.result, method.result_type), *method.reports.values()]
    made, definitions = _components(types)
    remaining = iter(made)
    described = {}
    for method in known:
        entry: dict[str, Any] = {"summary": _summary(getattr(method.owner, method.verb))}
        if method.deadline != float("inf"):
            entry["deadline"] = method.deadline
        entry["params"] = next(remaining)
        entry["result"] = next(remaining)
        if method.sources:
            entry["sources"] = list(method.sources)
        if method.reports:
            entry["reports"] = {name: next(remaining) for name in method.reports}
        described[method.name] = entry
    return {
        "$schema": DIALECT,
        "title": title,
        **({} if owner is None else {"description": inspect.getdoc(owner)}),
        "protocol": PROTOCOL_VERSION,
        "methods": described,
        "$defs": definitions,
    }


def _components(types: list[Any]) -> tuple[tuple[dict[str, Any], ...], dict[str, Any]]:
    made, definitions = msgspec.json.schema_components(types, ref_template="#/$defs/{name}")
    for definition in definitions.values():
        if "description" in definition:  # a docstring, which some versions of Python leave indented
            definition["description"] = inspect.cleandoc(definition["description"])
    return made, dict(sorted(definitions.items()))


def _summary(described: Any) -> str:
    return (inspect.getdoc(described) or "").split("\n\n")[0].replace("\n", " ")


def main(arguments: list[str]) -> int:
    """Write the schemas into the directory that is named."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m anvild.sdk.protocol.schemas DIRECTORY\n")
        return 2
    write_schemas(Path(arguments[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
