"""Identifiers: one kind of 128-bit id for all objects, written as each wing's clients expect it."""

from __future__ import annotations

import os
import random
import time

__all__ = ["event_of", "id_of_event", "new_id"]


_EVENTS = 0x0000_0000_0000_8000_8000_0000_0000_0000
_EVENT_MASK = (1 << 60) - 1

# Ids must differ, they need not be secret: a generator of our own makes one without a system call.
_random = random.Random(os.urandom(32))  # noqa: S311
os.register_at_fork(after_in_child=lambda: _random.seed(os.urandom(32)))


def new_id() -> str:
    """Return a new id: a UUID of version 7 (RFC 9562 §5.7) in its canonical text form.

    Its first 48 bits are the Unix time in milliseconds, so ids sort by age and land side by side in an index.
    It is no secret: whoever has seen some ids may guess others.
    """
    value = (time.time_ns() // 1_000_000) << 80 | _random.getrandbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return _written(value)


def id_of_event(number: int) -> str:
    """Return the number of an event in the form of other ids: a UUID of version 8 that ends in it."""
    return _written(_EVENTS | number)


def event_of(id_: str) -> int | None:
    """Return the number of the event that an id is of; None for an id that is of none."""
    value = int(id_.replace("-", ""), 16)
    return value & _EVENT_MASK if value & ~_EVENT_MASK == _EVENTS else None


def _written(value: int) -> str:
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
