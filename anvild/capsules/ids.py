"""Ids as the interface shows them: the kind of the object, a dash, and 25 letters and digits.

Those are the 128 bits of the daemon's own id, as one big-endian number in base 36.
"""

from __future__ import annotations

import re
from typing import Literal
from uuid import UUID

from anvild.sdk import NotFound

__all__ = ["Kind", "from_wire", "to_wire"]

Kind = Literal["cl", "usr", "team", "key", "host", "log", "bld", "ch", "htok", "hrt", "dlv"]
"""Capsule, user, team, API key, host, audit entry, build, channel, the two records of a host's tokens, delivery."""

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_LENGTH = 25
_FORM = re.compile(rf"[0-9a-z]{{{_LENGTH}}}")


def to_wire(kind: Kind, id_: str) -> str:
    """Return the shown form of one of the daemon's ids."""
    number, text = UUID(id_).int, ""
    for _ in range(_LENGTH):
        number, digit = divmod(number, 36)
        text = _DIGITS[digit] + text
    return f"{kind}-{text}"


def from_wire(kind: Kind, text: str) -> str:
    """Return the daemon's id that a text shows. Raises NotFound for a text that is the id of no such object."""
    prefix, _, digits = text.partition("-")
    if prefix == kind and _FORM.fullmatch(digits):
        number = int(digits, 36)
        if number < 1 << 128:
            return str(UUID(int=number))
    raise NotFound("there is no object of this id")
