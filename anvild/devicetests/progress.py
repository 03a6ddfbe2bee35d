"""How far a run of a pipeline has come: the checkpoint that lets it go on after the daemon was away."""

from __future__ import annotations

from typing import Literal

import msgspec

from .judge import Judgement

__all__ = ["Begun", "Progress", "Record", "Result"]

Result = Literal["passed", "failed", "skipped"]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A step that is done. ``finding`` is the title of the finding that it left; ``seconds`` is how long it took."""

    step: str
    result: Result
    reason: str = ""
    finding: str | None = None
    seconds: float = 0.0


class Begun(msgspec.Struct, kw_only=True):
    """The step that has begun and is not done: its place, its process's tag, what was judged and shown of its output.

    ``shown`` counts the bytes of output that went into events, ``pieces`` those events.
    """

    index: int
    tag: str
    judgement: Judgement = msgspec.field(default_factory=Judgement)
    shown: int = 0
    pieces: int = 0


class Progress(msgspec.Struct, kw_only=True):
    """The whole checkpoint. ``failed`` is the reason of the first required step that failed."""

    records: list[Record] = []
    values: dict[str, str] = {}
    failed: str | None = None
    begun: Begun | None = None
