"""Identifiers: one kind of 128-bit id for all objects, written as each wing's clients expect it."""

from __future__ import annotations

import os
import time

__all__ = ["new_id"]


def new_id() -> str:
    """Return a new id: a UUID of version 7 (RFC 9562 §5.7) in its canonical text form.

    Its first 48 bits are the Unix time in milliseconds, so ids sort by age and land side by side in an index.
    """
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
