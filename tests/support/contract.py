"""How a served document, and each answer, are held against a contract."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker

Document = dict[str, Any]

METHODS = ("get", "put", "post", "delete", "patch")
SAYS_NOTHING = {"title", "description", "example", "examples", "default", "summary", "bearerFormat"}
FORMATS = FormatChecker()
BEYOND = "x-beyond-contract"
EXAMPLES = {"string": "x", "integer": 1, "number": 1, "boolean": True, "array": [], "object": {}}


@FORMATS.checks("date-time")
def _is_date_time(value: object) -> bool:
    """RFC 3339, which demands an offset."""
    if not isinstance(value, str):
        return True
    try:
        return datetime.fromisoformat(value.replace("Z", "+00:00")).tzinfo is not None
    except ValueError:
        return False


def resolve(document: Document, node: Any) -> Any:
    """Follow references within a document."""
    while isinstance(node, Mapping) and "$ref" in node:
        target: Any = document
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part.replace("~1", "/").replace("~0", "~")]
        node = target
    return node


def plain_schema(document: Document, node: Any) -> Any:
    """Bring a schema into one form: no references, no words, null as a type, names of fields sorted. Fields that are
    marked as beyond the contract are left out."""
    node = resolve(document, node)
    if not isinstance(node, Mapping):
        return node
    if "allOf" in node:
        node = _all_of(document, node["allOf"])
    options = [plain_schema(document, option) for option in node.get("anyOf", node.get("oneOf", ()))]
    if options:
        others = [option for option in options if option != {"type": ["null"]}]
        assert len(others) == 1, f"more than one alternative to null in {node}"
        node = {**others[0], "type": sorted({*others[0].get("type", ()), "null"})}
    schema: Document = {}
    for key, value in node.items():
        if key in SAYS_NOTHING or key == "nullable" or (key == "additionalProperties" and value is True):
            continue
        if key == "properties":
            promised = {name: item for name, item in value.items() if not item.get(BEYOND)}
            schema[key] = {name: plain_schema(document, item) for name, item in sorted(promised.items())}
        elif key in ("items", "additionalProperties"):
            schema[key] = plain_schema(document, value)
        elif key in ("required", "enum"):
            if value:
                schema[key] = sorted(set(value))
        elif key == "type":
            schema[key] = sorted([value] if isinstance(value, str) else value)
        else:
            schema[key] = value
    if node.get("nullable"):
        schema["type"] = sorted({*schema["type"], "null"})
    if "enum" in schema:
        schema.setdefault("type", ["string"])
    return schema


def _all_of(document: Document, parts: list[Any]) -> Document:
    """Join objects that hold together into one."""
    joined: Document = {"type": "object", "properties": {}, "required": []}
    for part in (resolve(document, part) for part in parts):
        joined["properties"] |= part.get("properties", {})
        joined["required"] += part.get("required", [])
    return joined


def differences(contract: Document, served: Document, *, prefix: str = "") -> list[str]:
    """Say where a served document falls short of the contract. What goes beyond it must say so.

    ``prefix`` is where the paths of the contract are served.
    """
    return list(_differences(contract, served, prefix))


def _differences(contract: Document, served: Document, prefix: str) -> Iterator[str]:
    promised = {(path, method) for path, item in contract["paths"].items() for method in METHODS if method in item}
    offered = {
        (path.removeprefix(prefix), method): item[method]
        for path, item in served["paths"].items()
        for method in METHODS
        if method in item
    }
    for path, method in sorted(promised - offered.keys()):
        yield f"{method} {path} is not served"
    for (path, method), operation in sorted(offered.items()):
        if ((path, method) in promised) == bool(operation.get(BEYOND)):
            yield f"{method} {path} is {'marked' if operation.get(BEYOND) else 'not marked'} {BEYOND}"
    for path, method in sorted(promised & offered.keys()):
        item = contract["paths"][path]
        shared = {"parameters": [*item.get("parameters", []), *item[method].get("parameters", [])]}
        for difference in _operation(contract, item[method] | shared, served, offered[path, method]):
            yield f"{method} {path}: {difference}"


def _operation(contract: Document, wanted: Document, served: Document, given: Document) -> Iterator[str]:
    if wanted.get("tags") != given.get("tags"):
        yield f"tags are {given.get('tags')}, not {wanted.get('tags')}"
    if _security(contract, wanted) != _security(served, given):
        yield f"security is {_security(served, given)}, not {_security(contract, wanted)}"
    want, have = _parameters(contract, wanted), _parameters(served, given)
    for key in sorted(want.keys() | have.keys()):
        if want.get(key) != have.get(key):
            yield f"parameter {key} is {have.get(key)}, not {want.get(key)}"
    want, have = _content(contract, wanted.get("requestBody")), _content(served, given.get("requestBody"))
    if want != have:
        yield f"body is {have}, not {want}"
    for status, answer in wanted["responses"].items():
        if status not in given["responses"]:
            yield f"status {status} is missing"
            continue
        want, have = _content(contract, answer), _content(served, given["responses"][status])
        have = {media_type: _cut(want.get(media_type), schema) for media_type, schema in have.items()}
        if want != have:
            yield f"answer {status} is {have}, not {want}"
    error = {"application/json": plain_schema(contract, contract["components"]["schemas"]["Error"])}
    for status in given["responses"].keys() - wanted["responses"].keys():
        have = _content(served, given["responses"][status])
        have = {media_type: _cut(error.get(media_type), schema) for media_type, schema in have.items()}
        known_form = (status == "default" or int(status) >= 400) and have == error
        if not known_form:
            yield f"status {status} is not in the contract, and is no error in the contract's form"


ANY_OBJECT = {"type": ["object"]}


def _cut(want: Any, have: Any) -> Any:
    """Leave out what an answer promises beyond the contract to be there always, and all that it says of an object of
    which the contract says nothing else."""
    if not (isinstance(want, Mapping) and isinstance(have, Mapping)):
        return have
    if want == ANY_OBJECT and have.get("type") == ["object"]:
        return want
    cut = {key: _cut(want.get(key), value) for key, value in have.items() if key != "required"}
    required = [name for name in have.get("required", ()) if name in want.get("required", ())]
    return cut | ({"required": required} if required else {})


def _security(document: Document, operation: Document) -> bool:
    """Whether a credential is needed."""
    return bool(operation.get("security", document.get("security")))


def example_request(document: Document, operation: Document) -> dict[str, Any]:
    """Make up what an HTTP client needs for the body that an operation demands: its required fields."""
    content = operation.get("requestBody", {}).get("content", {})
    if "application/json" in content:
        schema = resolve(document, content["application/json"]["schema"])
        properties = schema.get("properties", {})
        return {
            "json": {name: EXAMPLES[resolve(document, properties[name])["type"]] for name in schema.get("required", ())}
        }
    return {"data": {"path": "/x"}, "files": {"file": b"x"}} if content else {}


def schemes(operation: Document) -> set[str]:
    """Name the security schemes that an operation takes."""
    return {name for way in operation.get("security", ()) for name in way}


def _parameters(document: Document, operation: Document) -> dict[str, Any]:
    found = {}
    for reference in operation.get("parameters", ()):
        parameter = resolve(document, reference)
        if parameter["in"] != "header":
            key = f"{parameter['in']}.{parameter['name']}"
            found[key] = (bool(parameter.get("required")), plain_schema(document, parameter["schema"]))
    return found


def _content(document: Document, part: Any) -> Any:
    part = resolve(document, part) or {}
    return {
        media_type: plain_schema(document, content.get("schema", {}))
        for media_type, content in part.get("content", {}).items()
    }


def check_answer(contract: Document, method: str, path: str, status: int, body: Any) -> None:
    """Hold one answer against the contract: its status is promised and its body fits."""
    operation = contract["paths"][path][method.lower()]
    assert str(status) in operation["responses"], f"{method} {path} answered {status}: {body}"
    answer = resolve(contract, operation["responses"][str(status)])
    if "content" not in answer:
        assert body is None, f"{method} {path} answered {status} with a body"
        return
    schema = plain_schema(contract, answer["content"]["application/json"]["schema"])
    Draft202012Validator(schema, format_checker=FORMATS).validate(body)
