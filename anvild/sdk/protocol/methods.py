"""The methods of the wire, made from the signatures of the classes that they stand for.

A capability that is written tomorrow crosses the wire as today's do: its verbs' parameters become a typed struct, its
streams and reports become streams of the connection, and its result is decoded into what the signature says.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import types
from collections.abc import Iterator
from enum import Enum
from typing import Any, NoReturn, Union, get_args, get_origin, get_type_hints

import msgspec
import trio

from ..capabilities import DRIVER_CAPABILITIES, SESSION_CAPABILITIES, Process
from ..driver import Driver
from ..verbs import Capability, verbs_of
from .messages import StreamId

__all__ = [
    "DRIVER",
    "PROCESS",
    "Method",
    "Result",
    "Scope",
    "capabilities_of",
    "find_capability",
    "make_method",
    "methods_of",
]


class Scope(Enum):
    """What a method is called on; the value is the parameter that names it."""

    DRIVER = None
    SESSION = "session"
    PROCESS = "process"


class Result(Enum):
    """What a method returns."""

    VALUE = "value"
    STREAM = "stream"
    STREAM_PAIR = "stream pair"
    PROCESS = "process"


class Method(msgspec.Struct, frozen=True, kw_only=True):
    """One method of the wire.

    ``params`` is the struct of its parameters, whose ``sources`` and ``reports`` (with the type of their items) hold
    ids of streams on the wire. ``positional`` and ``keyword`` are the function's own parameters with their defaults,
    ``names`` all of them.
    """

    name: str
    verb: str
    owner: type[Any]
    scope: Scope
    deadline: float
    params: type[Any]
    positional: tuple[tuple[str, Any], ...]
    keyword: tuple[tuple[str, Any], ...]
    names: tuple[str, ...]
    sources: tuple[str, ...]
    reports: dict[str, Any]
    numbers: dict[str, Any]
    result: Result
    result_type: Any
    params_decoder: Any
    result_decoder: Any
    report_decoders: dict[str, Any]

    @property
    def plain(self) -> bool:
        """True when nothing but values go with it."""
        return not self.sources and not self.reports

    def arguments(self, values: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return the positional and the keyword arguments of a call with these values.

        What has its default is left out where it can be, because an implementation may be older than its contract.
        """
        args = [values[name] for name, _ in self.positional]
        for _, default in reversed(self.positional):
            if args[-1] != default:
                break
            args.pop()
        return args, {name: values[name] for name, default in self.keyword if values[name] != default}


RESERVED = ("session", "process", "deadline")

_RESULTS: dict[Any, Result] = {
    trio.abc.ReceiveStream: Result.STREAM,
    trio.abc.Stream: Result.STREAM_PAIR,
    Process: Result.PROCESS,
}


def make_method(owner: type[Any], prefix: str, verb: str, *, scope: Scope, deadline: float = float("inf")) -> Method:
    """Make the method of one function. Raises TypeError for a signature that cannot cross a wire."""
    function = getattr(owner, verb)
    name = f"{prefix}.{verb}"
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as error:
        raise TypeError(f"{name}: a type of its signature cannot be found at run time: {error}") from None
    positional: list[Any] = []
    keyword: list[Any] = [("deadline", float | None, None)]
    if scope.value is not None:
        keyword.append((scope.value, int))
    sources: list[str] = []
    reports: dict[str, Any] = {}
    numbers: dict[str, Any] = {}
    parameters = list(inspect.signature(function).parameters.values())[1:]
    for each in parameters:
        if each.kind in (each.VAR_KEYWORD, each.VAR_POSITIONAL) or each.name in RESERVED or each.name not in hints:
            raise TypeError(f"{name}: the parameter {each} cannot cross a wire")
        hint = hints[each.name]
        item = _report_item(hint)
        if item is not None:
            reports[each.name] = item
            hint = StreamId
        elif get_origin(hint) is collections.abc.AsyncIterable and get_args(hint) == (bytes,):
            sources.append(each.name)
            hint = StreamId
        elif _may_be_float(hint):
            numbers[each.name] = each.default
        field = (each.name, hint) if each.default is each.empty else (each.name, hint, _default(each.default))
        (keyword if each.kind is each.KEYWORD_ONLY else positional).append(field)
    title = "".join(part.capitalize() for part in name.replace(".", "_").split("_"))
    by_name = msgspec.defstruct(f"_{title}Keywords", keyword, kw_only=True, omit_defaults=True)
    params = msgspec.defstruct(f"{title}Parameters", positional, bases=(by_name,), omit_defaults=True)
    returned = hints.get("return", None)
    result = _RESULTS.get(returned, Result.VALUE)
    if returned in (NoReturn, type(None)):
        returned = None
    try:
        return Method(
            name=name,
            verb=verb,
            owner=owner,
            scope=scope,
            deadline=deadline,
            params=params,
            positional=tuple((each.name, each.default) for each in parameters if each.kind is not each.KEYWORD_ONLY),
            keyword=tuple((each.name, each.default) for each in parameters if each.kind is each.KEYWORD_ONLY),
            names=tuple(each.name for each in parameters),
            sources=tuple(sources),
            reports=reports,
            numbers=numbers,
            result=result,
            result_type=returned,
            params_decoder=msgspec.json.Decoder(params),
            result_decoder=msgspec.json.Decoder(returned if result is Result.VALUE else None),
            report_decoders={key: msgspec.json.Decoder(item) for key, item in reports.items()},
        )
    except TypeError as error:
        raise TypeError(f"{name}: a type of its signature cannot cross a wire: {error}") from None


def _report_item(hint: Any) -> Any:
    """The type of the items of a report callback; None for another hint."""
    if get_origin(hint) is not collections.abc.Callable:
        return None
    parameters, returned = get_args(hint)
    if (
        get_origin(returned) is not collections.abc.Awaitable
        or not isinstance(parameters, list)
        or len(parameters) != 1
    ):
        return None
    return parameters[0]


def _may_be_float(hint: Any) -> bool:
    if get_origin(hint) in (Union, types.UnionType):
        return any(_may_be_float(each) for each in get_args(hint))
    return bool(hint is float)


def _default(value: Any) -> Any:
    """A default as a struct may have it: an empty or full collection is made anew."""
    if isinstance(value, list | dict | set):
        return msgspec.field(default_factory=lambda: type(value)(value))
    return value


@functools.cache
def methods_of(capability: type[Capability], scope: Scope) -> dict[str, Method]:
    """Return the methods of a capability, by the names of its verbs, as they are called on a session or a driver.

    Raises TypeError for a signature that cannot cross a wire.
    """
    return {
        verb: make_method(capability, capability.capability, verb, scope=scope, deadline=deadline)
        for verb, deadline in verbs_of(capability).items()
    }


def capabilities_of(kind: type[Any]) -> dict[str, type[Capability]]:
    """Return the capabilities that a class of drivers or sessions inherits, by name."""
    return {
        each.capability: each
        for each in kind.__mro__
        if issubclass(each, Capability) and "capability" in vars(each) and verbs_of(each)
    }


def find_capability(name: str) -> type[Capability] | None:
    """Return the capability of this name: one of the interface, or one that a loaded module defines."""
    known = SESSION_CAPABILITIES.get(name) or DRIVER_CAPABILITIES.get(name)
    return known or next((each for each in _descendants(Capability) if vars(each).get("capability") == name), None)


def _descendants(kind: type[Any]) -> Iterator[type[Any]]:
    for each in kind.__subclasses__():
        yield each
        yield from _descendants(each)


DRIVER: dict[str, Method] = {
    verb: make_method(Driver, "driver", verb, scope=Scope.DRIVER, deadline=deadline)
    for verb, deadline in {
        "start": 60.0,
        "stop": 30.0,
        "describe": 10.0,
        "watch": float("inf"),
        "clean": 120.0,
        "recover": 30.0,
    }.items()
}
"""The methods of every driver but ``open``, which is ``session.open``."""

PROCESS: dict[str, Method] = {
    verb: make_method(Process, "process", verb, scope=Scope.PROCESS)
    for verb in ("send", "close_stdin", "wait", "signal", "resize", "aclose")
}
"""The methods of a process."""
