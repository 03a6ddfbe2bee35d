"""The verbs that any device may take: programs, files, values. The docstrings here are their reference."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from anvild.sdk import Severity

from .parts import Environment, Lines, Part, Path, Paths, Seconds, Step, Text, Variable


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

    capabilities = ("exec",)

    command: Annotated[tuple[Text, ...], Meta(min_length=1, max_length=1000)] | None = None
    shell: Text | None = None
    cwd: Path | None = None
    env: Environment = field(default_factory=dict)
    user: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    expect: ExecExpectation = ExecExpectation()
    capture: Variable | None = None


class Push(Step, frozen=True, kw_only=True, tag="push"):
    """Write a file to the device: its content is ``text``, for bytes ``base64``, for a file of any size the name of
    an ``input``."""

    capabilities = ("files",)

    path: Path
    text: Text | None = None
    base64: Text | None = None
    input: Variable | None = None
    mode: Annotated[int, Meta(ge=0, le=0o7777)] = 0o644
    user: Annotated[str, Meta(min_length=1, max_length=64)] | None = None


class Pull(Step, frozen=True, kw_only=True, tag="pull"):
    """Keep files of the device as artifacts of the run, under their own file names.

    A missing file fails the step unless ``missing`` is ``"ok"``.
    """

    capabilities = ("files",)

    path: Paths
    media_type: Annotated[str, Meta(max_length=120)] = "application/octet-stream"
    missing: Literal["fail", "ok"] = "fail"


class ListExpectation(Part, frozen=True, kw_only=True):
    """Names that must be, and must not be, in a directory."""

    contains: Lines = ()
    not_contains: Lines = ()


class ListStep(Step, frozen=True, kw_only=True, tag="list"):
    """List a directory of the device and expect names in it; with ``depth``, names are paths below it."""

    capabilities = ("files",)

    path: Path
    depth: Annotated[int, Meta(ge=1, le=16)] = 1
    expect: ListExpectation = ListExpectation()


class Wait(Step, frozen=True, kw_only=True, tag="wait"):
    """Wait until a ``path`` exists on the device, or with ``gone`` until it does not; ``timeout`` fails the step. Or
    just wait for so many ``seconds``."""

    path: Path | None = None
    gone: bool = False
    seconds: Seconds | None = None

    def needs(self) -> tuple[str, ...]:
        return () if self.path is None else ("files",)


class Assert(Step, frozen=True, kw_only=True, tag="assert"):
    """Judge a ``value``, which names parameters or what was captured: the whole of it ``equals`` a text, it
    ``contains`` a text, a regular expression ``matches`` somewhere in it. All that are given must hold."""

    value: Text
    equals: Text | None = None
    contains: Lines = ()
    matches: Lines = ()


class FindingStep(Step, frozen=True, kw_only=True, tag="finding"):
    """Record a result: ``title`` (needed) and ``detail``, with captured values as ``{{ name }}``."""

    severity: Severity = Severity.INFO
    category: Annotated[str, Meta(max_length=60)] = "fact"
    detail: Annotated[str, Meta(max_length=4000)] | None = None


class Reboot(Step, frozen=True, kw_only=True, tag="reboot"):
    """Restart the device and wait until it takes verbs again."""

    capabilities = ("power",)

    timeout: Seconds = 300.0


__all__ = [
    "Assert",
    "ExecExpectation",
    "ExecStep",
    "FindingStep",
    "ListExpectation",
    "ListStep",
    "Pull",
    "Push",
    "Reboot",
    "Wait",
]
