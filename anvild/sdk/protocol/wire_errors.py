"""Errors of the stable interface on their way over a wire."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from ..errors import ERROR_TABLE, AnvilError, DriverFault, error_from_code
from .codec import Malformed, decode
from .messages import CANCELLED, ErrorData, ErrorObject

__all__ = ["RequestCancelled", "error_from_wire", "error_to_wire", "only_leaf", "rebuilt"]

_DECODER = msgspec.json.Decoder(ErrorObject)
_BY_WIRE = {row.wire: row.code for row in ERROR_TABLE}


class RequestCancelled(Exception):
    """The other side answered that it has cancelled the request."""


def error_to_wire(error: AnvilError) -> ErrorObject:
    """Write an error down. Details that JSON cannot hold are written as text."""
    details: dict[str, Any] = {}
    for name, value in error.details.items():
        try:
            details[name] = json.loads(msgspec.json.encode(value))
        except (TypeError, ValueError, RecursionError):
            details[name] = repr(value)
    return ErrorObject(code=error.wire, message=error.message, data=ErrorData(code=error.code, details=details))


def error_from_wire(raw: Any) -> Exception:
    """Read the error of an answer. What is no proper error is a DriverFault that says so."""
    try:
        error = decode(raw, _DECODER)
    except Malformed as malformed:
        return DriverFault(f"the other side answered with an error of the wrong form: {malformed}")
    return RequestCancelled(error.message) if error.code == CANCELLED else rebuilt(error)


def rebuilt(error: ErrorObject) -> AnvilError:
    """Make the error of the interface again. Where it is not named, its number tells it."""
    data = error.data or ErrorData()
    code = data.code or _BY_WIRE.get(error.code, str(error.code))
    made = error_from_code(code, error.message)
    made.details.update(data.details)
    return made


def only_leaf(error: BaseException) -> BaseException:
    """Return the exception inside groups of one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
