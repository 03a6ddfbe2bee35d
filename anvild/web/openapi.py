"""OpenAPI 3.1 documents from what the wings declare."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec

from anvild.core.errors import Unauthenticated

from .operations import Operation, Parameter

if TYPE_CHECKING:
    from .api import Api

__all__ = ["document", "merge"]

Schema = dict[str, Any]

REF = "#/components/schemas/{name}"
PARAMETER_SCHEMAS: Mapping[str, Schema] = {
    "text": {"type": "string"},
    "uuid": {"type": "string", "format": "uuid"},
    "int": {"type": "integer", "minimum": 0},
}
ENVELOPE: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
        }
    },
}
PROBLEM: Schema = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "instance": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "expected"],
                "properties": {"field": {"type": "string"}, "expected": {"type": "string"}},
            },
        },
    },
}


def document(api: Api) -> Schema:
    """Return the document of one wing. Paths carry the wing's prefix, so documents can be merged."""
    kinds: list[Any] = []
    for operation in api.operations:
        kinds += [kind for kind in (operation.body, operation.form, *operation.answers.values()) if _is_json(kind)]
    schemas, components = msgspec.json.schema_components(kinds, ref_template=REF)
    known = _Known(list(zip(kinds, schemas, strict=True)))
    paths: dict[str, Schema] = {}
    for operation in api.operations:
        at = paths.setdefault(api.prefix + operation.path, {})
        at[operation.method.lower()] = _operation(api, operation, known)
    envelope = api.errors.form == "envelope"
    found: Schema = _nullable(
        {
            "openapi": "3.1.0",
            "info": {"title": api.title, "version": api.version, "description": api.description},
            "servers": [{"url": "/"}],
            "paths": paths,
            "components": {
                "schemas": {**components, "Error": ENVELOPE if envelope else PROBLEM},
                "securitySchemes": {name: dict(scheme) for name, scheme in api.security.items()},
            },
        }
    )
    return found


def merge(documents: Mapping[str, Schema], *, title: str, version: str) -> Schema:
    """Merge the documents of several wings, given by name, into one.

    A path that two wings serve keeps the operations of both by method. An operation's id that is taken gets its wing's
    name before it. Raises ValueError where two wings have the same method at a path, or differing schemas of one name.
    """
    merged: Schema = {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "servers": [{"url": "/"}],
        "paths": {},
        "components": {"schemas": {}, "securitySchemes": {}},
    }
    taken: set[str] = set()
    for wing, one in documents.items():
        for path, item in one["paths"].items():
            named = {method: _named(operation, wing, taken) for method, operation in item.items()}
            _join(merged["paths"].setdefault(path, {}), named, path, same_is_fine=False)
        for section, entries in one.get("components", {}).items():
            _join(merged["components"].setdefault(section, {}), entries, section, same_is_fine=True)
    return merged


def _named(operation: Schema, wing: str, taken: set[str]) -> Schema:
    name = operation["operationId"]
    if name in taken:
        name = f"{wing}.{name}"
    taken.add(name)
    return operation | {"operationId": name}


def _join(into: Schema, entries: Schema, where: str, *, same_is_fine: bool) -> None:
    for name, entry in entries.items():
        if name in into and not (same_is_fine and into[name] == entry):
            raise ValueError(f"two wings have a {name!r} of their own in {where}")
        into[name] = entry


class _Known:
    """The schemas of the types that operations name. Types are compared by identity: not all of them have a hash."""

    def __init__(self, pairs: list[tuple[Any, Schema]]) -> None:
        self._pairs = pairs

    def __getitem__(self, kind: Any) -> Schema:
        return next(schema for known, schema in self._pairs if known is kind)


def _operation(api: Api, operation: Operation, known: _Known) -> Schema:
    responses: Schema = {
        str(status): _answer(operation, status, kind, known) for status, kind in sorted(operation.answers.items())
    }
    errors = dict(operation.errors)
    if not operation.public:
        errors.setdefault(api.errors.status_and_code(Unauthenticated)[0], "No valid credential.")
    for status, meaning in sorted(errors.items()):
        responses[str(status)] = _error(api, meaning)
    responses["default"] = _error(api, "Anything else that went wrong.")
    found: Schema = {
        "operationId": _camel(operation.name),
        "summary": operation.summary,
        "tags": list(operation.tags),
        "parameters": _parameters(operation),
        "responses": responses,
        "security": [] if operation.public else [{name: []} for name in operation.accepts or api.security],
    }
    if operation.description:
        found["description"] = operation.description
    if operation.body is not None:
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": known[operation.body]}}}
    elif operation.form is not None:
        found["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": known[operation.form]}}}
    elif operation.raw and operation.method in {"POST", "PUT", "PATCH"}:
        binary = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
        found["requestBody"] = {"required": False, "content": binary}
    if not operation.contract:
        found["x-beyond-contract"] = True
    return found


def _answer(operation: Operation, status: int, kind: Any, known: _Known) -> Schema:
    answer: Schema = {"description": HTTPStatus(status).phrase}
    if _is_json(kind):
        answer["content"] = {operation.media_type or "application/json": {"schema": known[kind]}}
    elif kind is not None:
        default = "text/plain" if kind is str else "application/octet-stream"
        schema: Schema = {"type": "string"} if kind is str else {"type": "string", "format": "binary"}
        answer["content"] = {operation.media_type or default: {"schema": schema}}
    return answer


def _error(api: Api, meaning: str) -> Schema:
    return {
        "description": meaning,
        "content": {api.errors.media_type: {"schema": {"$ref": REF.format(name="Error")}}},
    }


def _parameters(operation: Operation) -> list[Schema]:
    found = [_path_parameter(parameter) for parameter in operation.parameters]
    if operation.query is not None:
        (_,), components = msgspec.json.schema_components([operation.query], ref_template=REF)
        own = components[operation.query.__name__]
        required = own.get("required", [])
        for name, schema in own["properties"].items():
            description = schema.pop("description", None)
            parameter = {"in": "query", "name": name, "required": name in required, "schema": schema}
            found.append(parameter | ({"description": description} if description else {}))
    if operation.idempotent:
        found.append(
            {
                "in": "header",
                "name": "Idempotency-Key",
                "required": False,
                "schema": {"type": "string", "minLength": 1, "maxLength": 255},
                "description": "A repetition with the same key gets the first answer again.",
            }
        )
    return found


def _path_parameter(parameter: Parameter) -> Schema:
    if parameter.kind.startswith("="):
        schema: Schema = {"type": "string", "enum": parameter.kind[1:].split("|")}
    else:
        schema = dict(PARAMETER_SCHEMAS[parameter.kind])
    return {"in": "path", "name": parameter.name, "required": True, "schema": schema}


def _is_json(kind: Any) -> bool:
    return kind is not None and kind is not bytes and kind is not str


def _nullable(node: Any) -> Any:
    """Write "this or null" as a list of types, where that says the same, beside whatever else stands there."""
    if isinstance(node, list):
        return [_nullable(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {name: _nullable(value) for name, value in node.items()}
    arms = node.get("anyOf", ())
    if len(arms) == 2 and {"type": "null"} in arms:
        other: Schema = next((arm for arm in arms if arm != {"type": "null"}), {})
        if isinstance(other.get("type"), str) and "enum" not in other:
            rest = {name: value for name, value in node.items() if name != "anyOf"}
            return other | rest | {"type": [other["type"], "null"]}
    return node


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)
