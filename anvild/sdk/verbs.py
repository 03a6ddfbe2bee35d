"""What a capability is made of: verbs, each with a default deadline."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from typing import ClassVar, ParamSpec, TypeVar

__all__ = ["Capability", "verb", "verbs_of"]

P = ParamSpec("P")
T = TypeVar("T")

VERB_MARK = "__anvil_verb__"


def verb(*, deadline: float) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Mark a method of a capability as a verb with its default ``deadline`` in seconds."""

    def mark(function: Callable[P, T]) -> Callable[P, T]:
        setattr(function, VERB_MARK, deadline)
        return function

    return mark


class Capability(ABC):
    """Base of all capabilities. ``capability`` is the name that drivers declare."""

    capability: ClassVar[str]


def verbs_of(capability: type[Capability]) -> dict[str, float]:
    """Return the verbs of a capability with their default deadlines in seconds."""
    return {
        name: float(getattr(member, VERB_MARK))
        for name, member in vars(capability).items()
        if hasattr(member, VERB_MARK)
    }
