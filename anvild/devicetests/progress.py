"""How far a run of a pipeline has come: the checkpoint that lets it go on after the daemon was away."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from .judge import Judgement

__all__ = ["Begun", "Progress", "Record", "Result"]

Result = Literal["passed", "failed", "skipped"]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A step that is done. ``finding`` is the title of the finding that it left, None where findings of its tests say
    why it failed; ``seconds`` is how long it took."""

    step: str
    result: Result
    reason: str = ""
    finding: str | None = None
    seconds: float = 0.0


class Begun(msgspec.Struct, kw_only=True):
    """The step that has begun and is not done: its place, its process's tag, what was judged and shown of its output.

    ``shown`` counts the bytes of output that went into events, ``pieces`` those events. ``results`` is the artifact
    with the results of its tests, when they have ended.
    """

    index: int
    tag: str
    judgement: Judgement = msgspec.field(default_factory=Judgement)
    shown: int = 0
    pieces: int = 0
    results: str | None = None


class Progress(msgspec.Struct, kw_only=True):
    """The whole checkpoint. ``failed`` is the reason of the first required step that failed.

    ``started`` is when the attempt began, ``marks`` are the places in the device's log where the run (``run``) and
    those steps began whose log is wanted, ``recording`` is the step whose recording of the screen goes on, ``tests``
    are the artifacts with the results of tests, by step.
    """

    records: list[Record] = []
    values: dict[str, str] = {}
    failed: str | None = None
    begun: Begun | None = None
    started: datetime | None = None
    marks: dict[str, str] = {}
    recording: str | None = None
    tests: dict[str, str] = {}
