"""What may stand in a pipeline. The docstrings here are its reference.

To add a verb of another capability: write its :class:`Step` with the verb as its tag, add it to :data:`AnyStep`, and
give it an executor in :mod:`anvild.devicetests.steps`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from anvild.sdk import DeviceRequest, InvalidArgument, Requirements, Severity

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


class PipelineError(InvalidArgument):
    """A pipeline cannot be used. The message names the file, the line where it can, and what was expected."""

    code = "invalid_pipeline"


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of all tables of a pipeline."""


class Requires(Part, frozen=True, kw_only=True):
    """What the pipeline needs of a device. The capabilities of its verbs need not be named."""

    platforms: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    drivers: tuple[str, ...] = ()


class Make(Part, frozen=True, kw_only=True):
    """``[make.DRIVER]``: the device to make by that driver when no present one fits. Sizes are bytes."""

    template: Annotated[str, Meta(min_length=1, max_length=64)]
    vcpus: Annotated[int, Meta(ge=1, le=64)] | None = None
    memory: Annotated[int, Meta(ge=16 * 2**20)] | None = None
    disk: Annotated[int, Meta(ge=2**20)] | None = None
    environment: Environment = {}


class Parameter(Part, frozen=True, kw_only=True):
    """``[parameters.NAME]``: a value that a run may give. Without a default every run must give it.

    ``pattern`` is a regular expression that the whole value must match.
    """

    description: str = ""
    default: str | None = None
    pattern: str | None = None


class Step(Part, frozen=True, kw_only=True, tag_field="verb"):
    """What every step has.

    ``name`` is unique in the pipeline (``step-N`` when left out). When its expectation fails, the step leaves a
    finding with ``severity``, ``category`` and ``title``; a ``required`` step also fails the run, and the steps after
    it are skipped, those of ``always`` excepted. ``timeout`` is in seconds.
    """

    capability: ClassVar[str | None] = None

    name: Name = ""
    severity: Severity = Severity.HIGH
    category: Annotated[str, Meta(max_length=60)] = "expectation"
    title: Annotated[str, Meta(max_length=200)] | None = None
    required: bool = True
    timeout: Seconds = 60.0


class ExecExpectation(Part, frozen=True, kw_only=True):
    """What an ``exec`` step must do. Texts and regular expressions are looked for line by line, so that output of any
    length is judged; ``any`` as ``exit`` takes every exit code."""

    exit: int | Literal["any"] = 0
    stdout_contains: Lines = ()
    stdout_matches: Lines = ()
    stderr_contains: Lines = ()
    stderr_matches: Lines = ()
    not_stdout_contains: Lines = ()
    not_stdout_matches: Lines = ()
    not_stderr_contains: Lines = ()
    not_stderr_matches: Lines = ()


class ExecStep(Step, frozen=True, kw_only=True, tag="exec"):
    """Run a program: either ``command`` as a list, or ``shell`` as a text for the device's own ``sh -c``.

    ``capture`` keeps the first 512 characters of standard output, trimmed, under a name for later steps.
    ``{{ name }}`` is filled in everywhere but in ``shell``: give values to a shell by ``env``.
    """

    capability = "exec"

    command: Annotated[tuple[Text, ...], Meta(min_length=1, max_length=1000)] | None = None
    shell: Text | None = None
    cwd: Path | None = None
    env: Environment = {}
    user: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    expect: ExecExpectation = ExecExpectation()
    capture: Variable | None = None


class Push(Step, frozen=True, kw_only=True, tag="push"):
    """Write a file to the device: its content is ``text`` or, for bytes, ``base64``."""

    capability = "files"

    path: Path
    text: Text | None = None
    base64: Text | None = None
    mode: Annotated[int, Meta(ge=0, le=0o7777)] = 0o644
    user: Annotated[str, Meta(min_length=1, max_length=64)] | None = None


class Collect(Step, frozen=True, kw_only=True, tag="collect"):
    """Keep files of the device as artifacts of the run, under their own file names.

    A missing file fails the step unless ``missing`` is ``"ok"``.
    """

    capability = "files"

    path: Paths
    media_type: Annotated[str, Meta(max_length=120)] = "application/octet-stream"
    missing: Literal["fail", "ok"] = "fail"


class ListExpectation(Part, frozen=True, kw_only=True):
    """Names that must be, and must not be, in a directory."""

    contains: Lines = ()
    not_contains: Lines = ()


class ListStep(Step, frozen=True, kw_only=True, tag="list"):
    """List a directory of the device and expect names in it; with ``depth``, names are paths below it."""

    capability = "files"

    path: Path
    depth: Annotated[int, Meta(ge=1, le=16)] = 1
    expect: ListExpectation = ListExpectation()


class Wait(Step, frozen=True, kw_only=True, tag="wait"):
    """Wait until a path exists on the device, or with ``gone`` until it does not; ``timeout`` fails the step."""

    capability = "files"

    path: Path
    gone: bool = False


class FindingStep(Step, frozen=True, kw_only=True, tag="finding"):
    """Record a result: ``title`` (needed) and ``detail``, with captured values as ``{{ name }}``."""

    severity: Severity = Severity.INFO
    category: Annotated[str, Meta(max_length=60)] = "fact"
    detail: Annotated[str, Meta(max_length=4000)] | None = None


AnyStep = ExecStep | Push | Collect | ListStep | Wait | FindingStep
Steps = Annotated[tuple[AnyStep, ...], Meta(max_length=MAX_STEPS)]


class Pipeline(Part, frozen=True, kw_only=True):
    """A whole pipeline file.

    ``deadline`` is how long one attempt may take in seconds. ``retries`` is how many further attempts a run may have
    when the device, not the thing under test, has failed. ``env`` goes to every ``exec`` step. ``always`` steps run
    at the end, whatever has happened before.
    """

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,119}$")] = ""
    description: str = ""
    requires: Requires = Requires()
    make: dict[str, Make] = {}
    deadline: Seconds = 3600.0
    retries: Annotated[int, Meta(ge=0, le=10)] = 0
    env: Environment = {}
    parameters: dict[Variable, Parameter] = {}
    steps: Annotated[Steps, Meta(min_length=1)]
    always: Steps = ()

    def requirements(self) -> Requirements:
        """Say what a run of this pipeline needs of a device."""
        used = {step.capability for step in (*self.steps, *self.always) if step.capability}
        return Requirements(
            platforms=self.requires.platforms,
            capabilities=tuple(sorted(used.union(self.requires.capabilities))),
            drivers=self.requires.drivers,
            make={
                driver: DeviceRequest(
                    template=make.template,
                    name=self.name,
                    identity="to-be-given",
                    vcpus=make.vcpus,
                    memory=make.memory,
                    disk=make.disk,
                    environment=make.environment,
                )
                for driver, make in self.make.items()
            },
        )


class Frozen(Part, frozen=True, kw_only=True):
    """A pipeline as a run keeps it: the description at the time of submission, with the run's own values."""

    pipeline: Pipeline
    parameters: dict[str, str] = {}
    env: Environment = {}
