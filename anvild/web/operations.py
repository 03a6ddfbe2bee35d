"""Operations as a wing declares them, and finding the one that a path asks for."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import UUID

import msgspec

from anvild.core.errors import FieldProblem, InvalidRequest

from .request import Request

__all__ = ["Handler", "Match", "Operation", "Parameter", "Routes", "parse_template"]

Handler = Callable[[Request], Awaitable[object]]

_PARAMETER = re.compile(r"\{(\w+)(?::(\w+|=[\w|]+))?\}")


class Parameter(msgspec.Struct, frozen=True):
    """A parameter of a path: ``{id}`` is text, ``{id:uuid}`` a UUID, ``{id:int}`` an integer from 0 on.

    ``{name:=one|other}`` is one of these texts. Another one is refused by the handler, which knows what it would be.
    """

    name: str
    kind: str = "text"

    def check(self, text: str) -> str:
        """Return the value in its canonical form. Raises InvalidRequest."""
        if self.kind == "uuid":
            try:
                return str(UUID(text)) if len(text) == 36 else self._refuse("a UUID")
            except ValueError:
                return self._refuse("a UUID")
        if self.kind == "int" and not (text.isascii() and text.isdigit() and len(text) <= 18):
            return self._refuse("an integer")
        return text

    def _refuse(self, expected: str) -> str:
        raise InvalidRequest("the path is not as expected", (FieldProblem(f"path.{self.name}", expected),))


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One operation of a wing. See :meth:`anvild.web.api.Api.operation` for what the fields mean."""

    name: str
    method: str
    path: str
    parameters: tuple[Parameter, ...]
    handler: Handler
    summary: str
    description: str = ""
    tags: tuple[str, ...] = ()
    answers: Mapping[int, Any] = {}
    errors: Mapping[int, str] = {}
    body: Any = None
    form: Any = None
    query: Any = None
    action: str | None = None
    signed_in: bool = False
    accepts: tuple[str, ...] = ()
    lenient: bool = False
    idempotent: bool = False
    limit: str | None = None
    max_body: int = 0
    media_type: str | None = None
    raw: bool = False
    by_hand: bool = False
    contract: bool = True

    @property
    def public(self) -> bool:
        """Whether it asks for no credential."""
        return self.action is None and not self.signed_in

    @property
    def of_admins(self) -> bool:
        """Whether it is for the platform's admins: who is one is read anew for each request."""
        return self.action is not None and self.action.startswith("admin:")


class Match(msgspec.Struct, frozen=True):
    """What is at a path: its operations by method, and the path's parameters as they stand there."""

    operations: Mapping[str, Operation]
    values: tuple[str, ...]


class _Node:
    """A place in the tree of paths: what is here, and what follows by its name or, failing that, as a parameter."""

    __slots__ = ("named", "operations", "parameter")

    def __init__(self) -> None:
        self.named: dict[str, _Node] = {}
        self.parameter: _Node | None = None
        self.operations: dict[str, Operation] = {}


class Routes:
    """The operations of a wing by path. A segment by its name is stronger than a parameter."""

    def __init__(self) -> None:
        self._root = _Node()

    def add(self, operation: Operation) -> None:
        """Add an operation. Adding a second one for the same method and path is an error of the wing."""
        node = self._root
        for segment in operation.path.split("/"):
            if _PARAMETER.fullmatch(segment):
                node.parameter = node.parameter or _Node()
                node = node.parameter
            else:
                node = node.named.setdefault(segment, _Node())
        if operation.method in node.operations:
            raise ValueError(f"{operation.method} {operation.path} is declared twice")
        node.operations[operation.method] = operation

    def find(self, path: str) -> Match | None:
        """Return what is at the path; None when nothing is."""
        return self._find(self._root, path.split("/"), ())

    def _find(self, node: _Node, segments: list[str], values: tuple[str, ...]) -> Match | None:
        for index, segment in enumerate(segments):
            following = node.named.get(segment)
            if node.parameter is not None and segment:
                found = following and self._find(following, segments[index + 1 :], values)
                return found or self._find(node.parameter, segments[index + 1 :], (*values, segment))
            if following is None:
                return None
            node = following
        return Match(node.operations, values) if node.operations else None


def parse_template(path: str) -> tuple[str, tuple[Parameter, ...]]:
    """Split ``/runs/{id:uuid}`` into the path as documents show it and its parameters."""
    parameters = tuple(Parameter(name, kind or "text") for name, kind in _PARAMETER.findall(path))
    return _PARAMETER.sub(r"{\1}", path), parameters
