"""What the verbs are made of: the types of their keys, and the base of all tables and steps."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from anvild.sdk import InvalidArgument, Severity

MAX_STEPS = 64
MAX_CAPTURES = 16
MAX_FILE = 256 * 1024

Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,59}$")]
Variable = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Text = Annotated[str, Meta(max_length=64 * 1024)]
Line = Annotated[str, Meta(min_length=1, max_length=1000, pattern=r"^[^\n]+\Z")]
Lines = Line | tuple[Line, ...]
Path = Annotated[str, Meta(min_length=1, max_length=4096)]
Paths = Path | Annotated[tuple[Path, ...], Meta(min_length=1, max_length=64)]
Environment = dict[Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")], Text]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Count = Annotated[int, Meta(ge=0, le=1_000_000)]


class PipelineError(InvalidArgument):
    """A pipeline cannot be used. The message names the file, the line where it can, and what was expected."""

    code = "invalid_pipeline"


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of all tables of a pipeline."""


class Step(Part, frozen=True, kw_only=True, tag_field="verb"):
    """What every step has.

    ``name`` is unique in the pipeline (``step-N`` when left out). When its expectation fails, the step leaves a
    finding with ``severity``, ``category`` and ``title``; a ``required`` step also fails the run, and the steps after
    it are skipped, those of ``on_failure`` and ``always`` excepted. ``timeout`` is in seconds.
    """

    capabilities: ClassVar[tuple[str, ...]] = ()

    name: Name = ""
    severity: Severity = Severity.HIGH
    category: Annotated[str, Meta(max_length=60)] = "expectation"
    title: Annotated[str, Meta(max_length=200)] | None = None
    required: bool = True
    timeout: Seconds = 60.0

    def needs(self) -> tuple[str, ...]:
        """Name the capabilities that a device must have for this step."""
        return self.capabilities
