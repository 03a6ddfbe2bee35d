"""Reads the arguments of a driver's verb from the words of a command line, by the verb's own signature."""

from __future__ import annotations

import collections.abc
import inspect
from collections.abc import Sequence
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from anvild.sdk import DRIVER_CAPABILITIES, SESSION_CAPABILITIES, Capability, InvalidArgument, verbs_of

from .exits import ExitCode, Failure

__all__ = ["VerbCall", "find_verb"]


class Field(msgspec.Struct, frozen=True):
    """One argument: of a verb, or a field of the only one that it takes."""

    name: str
    type: Any
    required: bool


class VerbCall(msgspec.Struct, frozen=True, kw_only=True):
    """A verb and what it takes: plain values, byte streams (``sources``) and callbacks (``reports``)."""

    name: str
    verb: str
    capability: type[Capability]
    fields: tuple[Field, ...]
    sources: tuple[str, ...]
    reports: tuple[str, ...]

    def read(self, words: Sequence[str]) -> dict[str, Any]:
        """Return the plain arguments. ``NAME=VALUE`` words are taken by name, the others in order.

        A verb whose only argument is a struct takes the struct's fields. Raises Failure, InvalidArgument.
        """
        only = self.fields[0] if len(self.fields) == 1 else None
        try:
            if only is not None and isinstance(only.type, type) and issubclass(only.type, msgspec.Struct):
                inner = tuple(Field(each.name, each.type, each.required) for each in msgspec.structs.fields(only.type))
                return {only.name: msgspec.convert(_named(inner, words, self.name), only.type, strict=False)}
            types = {field.name: field.type for field in self.fields}
            found = _named(self.fields, words, self.name)
            return {name: msgspec.convert(value, types[name], strict=False) for name, value in found.items()}
        except msgspec.ValidationError as error:
            raise InvalidArgument(f"{self.name}: {error}") from None


def find_verb(name: str) -> VerbCall:
    """Find a verb by its name ``CAPABILITY.VERB``. Raises Failure that names what there is."""
    known = {**SESSION_CAPABILITIES, **DRIVER_CAPABILITIES}
    part, _, verb = name.partition(".")
    capability = known.get(part)
    if capability is None:
        raise Failure(ExitCode.USAGE, "usage", f"there is no capability {part!r}; there are: {', '.join(known)}")
    verbs = verbs_of(capability)
    if verb not in verbs:
        raise Failure(ExitCode.USAGE, "usage", f"{part} has no verb {verb!r}; it has: {', '.join(verbs)}")
    function = getattr(capability, verb)
    hints = get_type_hints(function, include_extras=True)
    parameters = list(inspect.signature(function).parameters.values())[1:]
    origins = {each.name: get_origin(hints[each.name]) for each in parameters}
    return VerbCall(
        name=name,
        verb=verb,
        capability=capability,
        fields=tuple(
            Field(each.name, hints[each.name], each.default is each.empty)
            for each in parameters
            if origins[each.name] not in (collections.abc.AsyncIterable, collections.abc.Callable)
        ),
        sources=tuple(name for name, origin in origins.items() if origin is collections.abc.AsyncIterable),
        reports=tuple(name for name, origin in origins.items() if origin is collections.abc.Callable),
    )


def _named(fields: Sequence[Field], words: Sequence[str], verb: str) -> dict[str, Any]:
    """Give each word its field: by its name, or else in order; a field of several words takes all that are left."""
    by_name = {field.name: field for field in fields}
    found: dict[str, Any] = {}
    left = list(words)
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name in by_name:
            found[name] = _value(by_name[name].type, value)
            left.remove(word)
        elif any(_takes_words(field.type) for field in fields):
            break  # what follows may be anything: the arguments of a program, say
    for field in fields:
        if not left or field.name in found:
            continue
        if _takes_words(field.type):
            found[field.name], left = left, []
        else:
            found[field.name] = _value(field.type, left.pop(0))
    missing = [field.name for field in fields if field.required and field.name not in found]
    takes = f"{verb} takes {', '.join(by_name) or 'nothing'}"
    if missing:
        raise Failure(ExitCode.USAGE, "usage", f"{takes}; it needs {', '.join(missing)}")
    if left:
        raise Failure(ExitCode.USAGE, "usage", f"{takes}; {left[0]!r} is too much")
    return found


def _value(kind: Any, word: str) -> Any:
    """A word where the type takes one; else JSON, if it is that."""
    if _fits(kind, word):
        return word
    try:
        return msgspec.json.decode(word)
    except msgspec.DecodeError:
        return word


def _takes_words(kind: Any) -> bool:
    inner = [kind, *get_args(kind)]
    return any(get_origin(each) in (tuple, list, collections.abc.Sequence) for each in inner)


def _fits(kind: Any, word: str) -> bool:
    try:
        msgspec.convert(word, kind, strict=False)
    except msgspec.ValidationError:
        return False
    return True
