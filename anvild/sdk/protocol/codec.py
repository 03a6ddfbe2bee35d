"""Between typed values and JSON text.

Two things that Python's text and numbers hold and JSON does not are handled here. Text that is no Unicode (a file's
name on a device, with its odd bytes as lone surrogates) is written with an escape per surrogate, which the fast
decoder refuses, so it is read by a slow one. Numbers that are not finite do not cross: a parameter that is infinite by
default is left out, and any other is refused where it is given.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

import msgspec

from .messages import Envelope, Loose

__all__ = ["Malformed", "decode", "decode_envelope", "encode"]

T = TypeVar("T")

_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Envelope)


class Malformed(ValueError):
    """A text is no JSON, or not of the type that it must have. The message says what is wrong."""


def encode(value: object) -> str:
    """Encode a value. Raises TypeError or ValueError for one that cannot cross a wire."""
    try:
        return _ENCODER.encode(value).decode()
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(value), separators=(",", ":"), allow_nan=False)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def decode_envelope(text: str) -> Envelope:
    """Decode the outside of a message; its parameters or result stay as they are. Raises Malformed."""
    try:
        return _DECODER.decode(text)
    except msgspec.ValidationError as error:
        raise Malformed(str(error)) from None
    except msgspec.DecodeError as error:
        slow = _decode_slowly(text)
        if slow is None:
            raise Malformed(str(error)) from None
        return slow
    except RecursionError:
        raise Malformed("it is nested too deeply") from None


def _decode_slowly(text: str) -> Envelope | None:
    """Decode a text whose only fault may be escapes of lone surrogates."""
    if "\\ud" not in text and "\\uD" not in text:
        return None
    try:
        loose = msgspec.convert(json.loads(text), Loose)
    except (ValueError, RecursionError):
        return None
    return Envelope(loose.id, loose.method, loose.params, loose.result, loose.error)


def decode(value: Any, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode parameters or a result that :func:`decode_envelope` left as they are. Raises Malformed."""
    try:
        if isinstance(value, msgspec.Raw):
            return decoder.decode(value)
        converted: T = msgspec.convert(value, decoder.type)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Malformed(str(error)) from None
    return converted
