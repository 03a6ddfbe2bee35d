"""What may stand in a pipeline. The docstrings here are its reference.

To add a verb of another capability: write its :class:`Step` with the verb as its tag, add it to :data:`AnyStep`, and
give it an executor in :mod:`anvild.devicetests.steps`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta, field

from anvild.sdk import DeviceRequest, Requirements

from .app_verbs import (
    Clear,
    CrashReportsStep,
    Install,
    Launch,
    LogsStep,
    Record,
    Screenshot,
    Stop,
    Test,
    Uninstall,
)
from .parts import MAX_STEPS, Environment, Part, Seconds, Step, Variable
from .verbs import Assert, ExecStep, FindingStep, ListStep, Pull, Push, Reboot, Wait

__all__ = ["SECTIONS", "AnyStep", "Frozen", "Given", "Input", "Make", "Parameter", "Pipeline", "Requires"]

SECTIONS = ("steps", "on_failure", "always")
"""The parts of a pipeline that hold steps, in the order in which they are done."""


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
    environment: Environment = field(default_factory=dict)


class Parameter(Part, frozen=True, kw_only=True):
    """``[parameters.NAME]``: a value that a run may give. Without a default every run must give it.

    ``pattern`` is a regular expression that the whole value must match.
    """

    description: str = ""
    default: str | None = None
    pattern: str | None = None


class Input(Part, frozen=True, kw_only=True):
    """``[inputs.NAME]``: a file that a run brings with it. Steps that need one that is not ``required``, and was not
    given, are skipped."""

    description: str = ""
    required: bool = True


AnyStep = (
    ExecStep
    | Push
    | Pull
    | ListStep
    | Wait
    | Assert
    | FindingStep
    | Reboot
    | Install
    | Uninstall
    | Launch
    | Stop
    | Clear
    | Test
    | Screenshot
    | Record
    | LogsStep
    | CrashReportsStep
)
Steps = Annotated[tuple[AnyStep, ...], Meta(max_length=MAX_STEPS)]


class Pipeline(Part, frozen=True, kw_only=True):
    """A whole pipeline file.

    ``deadline`` is how long one attempt may take in seconds. ``retries`` is how many further attempts a run may have
    when the device, not the thing under test, has failed. ``env`` goes to every ``exec`` step. When a required step
    has failed, the ``on_failure`` steps run; ``always`` steps run at the end, whatever has happened before.
    """

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,119}$")] = ""
    description: str = ""
    requires: Requires = Requires()
    make: dict[str, Make] = field(default_factory=dict)
    deadline: Seconds = 3600.0
    retries: Annotated[int, Meta(ge=0, le=10)] = 0
    env: Environment = field(default_factory=dict)
    parameters: dict[Variable, Parameter] = field(default_factory=dict)
    inputs: dict[Variable, Input] = field(default_factory=dict)
    steps: Annotated[Steps, Meta(min_length=1)]
    on_failure: Steps = ()
    always: Steps = ()

    def sections(self) -> Iterator[tuple[str, tuple[Step, ...]]]:
        """Yield the parts that hold steps with their names, in the order in which they are done."""
        for section in SECTIONS:
            yield section, getattr(self, section)

    def requirements(self) -> Requirements:
        """Say what a run of this pipeline needs of a device."""
        used = {capability for _, steps in self.sections() for step in steps for capability in step.needs()}
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


class Given(Part, frozen=True, kw_only=True):
    """A file that a run has brought: the artifact that holds it, its name and its size in bytes."""

    artifact: str
    name: str
    size: int


class Frozen(Part, frozen=True, kw_only=True):
    """A pipeline as a run keeps it: the description at the time of submission, with the run's own values."""

    pipeline: Pipeline
    parameters: dict[str, str] = field(default_factory=dict)
    env: Environment = field(default_factory=dict)
    inputs: dict[str, Given] = field(default_factory=dict)
