"""What can be wrong with a pipeline, and where."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

import msgspec

from .text import PathKey

__all__ = ["Flaw", "Problem", "suggestion"]


class Flaw(msgspec.Struct, frozen=True):
    """Something is wrong at ``path`` of the document."""

    path: PathKey
    message: str


class Problem(msgspec.Struct, frozen=True):
    """Something is wrong in a file, at ``line`` where that can be told."""

    file: str
    line: int | None
    message: str

    def __str__(self) -> str:
        place = f"{self.file}, line {self.line}" if self.line else self.file
        return f"{place}: {self.message}"


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return the end of a sentence about an unknown word: the one that was meant, or all that there are."""
    names = sorted(known)
    close = get_close_matches(word, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(names) or 'none'}"
