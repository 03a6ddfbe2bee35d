"""From bytes and text to the types that an operation declares, with every problem that can be named."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping
from enum import Enum
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints
from urllib.parse import parse_qsl

import msgspec
import trio

from anvild.core.errors import FieldProblem, InvalidRequest

from .errors import UnsupportedMediaType

__all__ = ["decode_json", "decode_query", "find_problems"]

LARGE = 64 * 1024  # beyond this, decoding would hold the loop up
DEPTH = 64
QUERY_FIELDS = 200
PROBLEMS = 50  # no client reads more

_JSON_TYPE = re.compile(r"application/([\w.\-]+\+)?json")
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_AT = re.compile(r" - at `(key in )?\$?(?P<path>[^`]*)`$")
_GOT = re.compile(r", got `[^`]*`$")
_WORDS = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}
_TICKED = re.compile(r"`([^`]*)`")


async def decode_json(data: bytes, kind: Any, content_type: str | None) -> Any:
    """Decode a JSON body into ``kind``. A large one is decoded in a thread.

    Raises UnsupportedMediaType, and InvalidRequest with all field problems that can be named.
    """
    media_type = (content_type or "").partition(";")[0].strip().lower()
    if not _JSON_TYPE.fullmatch(media_type):
        raise UnsupportedMediaType(f"the content type must be application/json, not {media_type[:80] or 'missing'}")
    if len(data) > LARGE:
        return await trio.to_thread.run_sync(_decode, data, kind)
    return _decode(data, kind)


def decode_query(query: bytes, kind: Any) -> Any:
    """Decode a query string into ``kind``, a Struct. A field of a list type takes all of its repetitions.

    Raises InvalidRequest.
    """
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=QUERY_FIELDS)
    except ValueError as error:
        raise InvalidRequest("the query is not a well-formed query string of at most 200 fields") from error
    lists = _list_fields(kind)
    values: dict[str, Any] = {}
    for name, value in pairs:
        if "\0" in name or "\0" in value:
            raise InvalidRequest("the query holds a NUL character")
        if name in lists:
            values.setdefault(name, []).append(value)
        else:
            values[name] = value
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        problems = tuple(find_problems(values, kind, "query", strict=False))
        raise InvalidRequest("the query is not as expected", problems) from error


def find_problems(value: object, kind: Any, path: str, *, strict: bool = True) -> Iterator[FieldProblem]:
    """Find what keeps ``value`` from being a ``kind``: each field with what was expected there.

    The decoder stops at the first error; this walks on, field by field and item by item.
    """
    whole = None
    try:
        msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as error:
        whole = _problem(str(error), path, kind)
    if whole is None:
        return
    found = 0
    for problem in _parts(value, _bare(kind), path, strict):
        yield problem
        found += 1
        if found == PROBLEMS:
            return
    if not found:
        yield whole


def _parts(value: object, kind: Any, path: str, strict: bool) -> Iterator[FieldProblem]:
    """Problems within the parts of a value; none where it has no parts or the value as a whole is wrong."""
    origin = get_origin(kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and isinstance(value, Mapping):
        fields = msgspec.structs.fields(kind)
        for field in fields:
            where = f"{path}.{field.encode_name}"
            if field.encode_name in value:
                yield from find_problems(value[field.encode_name], field.type, where, strict=strict)
            elif field.required:
                yield FieldProblem(where, f"{_expectation(field.type)} (it is required)")
        if kind.__struct_config__.forbid_unknown_fields:
            known = {field.encode_name for field in fields}
            for name in value:
                if name not in known and name != kind.__struct_config__.tag_field:
                    yield FieldProblem(f"{path}.{str(name)[:80]}", "no such field")
    elif origin in {list, tuple, set, frozenset} and isinstance(value, list) and get_args(kind):
        for index, item in enumerate(value):
            yield from find_problems(item, get_args(kind)[0], f"{path}[{index}]", strict=strict)
    elif origin in {dict, Mapping} and isinstance(value, Mapping):
        for name, item in value.items():
            yield from find_problems(item, get_args(kind)[1], f"{path}.{str(name)[:80]}", strict=strict)


def _decode(data: bytes, kind: Any) -> Any:
    if data.count(b"[") + data.count(b"{") > DEPTH and _too_deep(data):
        raise InvalidRequest(f"the JSON is nested deeper than {DEPTH} levels")
    if b"\\u0000" in data:
        raise InvalidRequest("the JSON holds a NUL character")
    try:
        return msgspec.json.decode(data, type=kind)
    except RecursionError as error:
        raise InvalidRequest(f"the JSON is nested deeper than {DEPTH} levels") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # The typed decoder stops at the first wrong value, and does not look whether the rest is JSON at all.
        try:
            value = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as malformed:
            raise InvalidRequest(f"the body is no JSON: {malformed}") from malformed
        raise InvalidRequest("the body is not as expected", tuple(find_problems(value, kind, "body"))) from error


def _too_deep(data: bytes) -> bool:
    depth = 0
    for byte in _STRINGS.sub(b"", data):
        if byte in b"[{":
            depth += 1
            if depth > DEPTH:
                return True
        elif byte in b"]}":
            depth -= 1
    return False


def _bare(kind: Any) -> Any:
    """Without annotations, and without the None of an optional type."""
    if get_origin(kind) is Annotated:
        return _bare(get_args(kind)[0])
    if get_origin(kind) in {Union, types.UnionType}:
        others = [arm for arm in get_args(kind) if arm not in {type(None), msgspec.UnsetType}]
        if len(others) == 1:
            return _bare(others[0])
    return kind


def _problem(message: str, path: str, kind: Any) -> FieldProblem:
    inner = _AT.search(message)
    text = _AT.sub("", message)
    where = path + (inner["path"] if inner else "")
    if text.startswith("Invalid enum value"):
        return FieldProblem(where, _expectation(kind))
    text = _GOT.sub("", text.removeprefix("Expected "))
    return FieldProblem(where, _TICKED.sub(lambda match: _WORDS.get(match[1], match[1]), text))


def _expectation(kind: Any) -> str:
    """Say in a word or two what a value of this type looks like."""
    bare = _bare(kind)
    if get_origin(bare) is Literal:
        return "one of " + ", ".join(str(value) for value in get_args(bare))
    if isinstance(bare, type) and issubclass(bare, Enum):
        return "one of " + ", ".join(str(member.value) for member in bare)
    origin = get_origin(bare) or bare
    if isinstance(origin, type):
        if issubclass(origin, msgspec.Struct | dict | Mapping):
            return "object"
        if issubclass(origin, list | tuple | set | frozenset):
            return "array"
        return _WORDS.get(origin.__name__, origin.__name__)
    return "a value"


@cache
def _list_fields(kind: Any) -> frozenset[str]:
    hints = get_type_hints(kind)
    return frozenset(
        field.encode_name
        for field in msgspec.structs.fields(kind)
        if get_origin(_bare(hints[field.name])) in {list, tuple, set, frozenset}
    )
