"""The wire shapes of builds. What is not known is left out."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from .common import Moment

__all__ = ["Build", "BuildStep", "CreateBuildRequest"]

Line = Annotated[str, Meta(max_length=8192)]


class CreateBuildRequest(msgspec.Struct):
    """A template to be built."""

    name: str
    recipe: Annotated[list[Line], Meta(min_length=1, max_length=200)]
    base_template: str = "minimal"
    healthcheck: Line | UnsetType | None = UNSET
    vcpus: int | UnsetType | None = UNSET
    memory_mb: Annotated[int, Meta(le=2**20)] | UnsetType | None = UNSET
    skip_pre_post: bool = False


class BuildStep(msgspec.Struct, omit_defaults=True):
    """A step that has ended. Of what it wrote, the end is kept; it has an exit code when it ran a command."""

    step: int
    phase: Literal["pre-build", "recipe", "post-build"]
    cmd: str
    stdout: str
    stderr: str
    ok: bool
    elapsed_ms: int
    exit: int | UnsetType = UNSET


class Build(msgspec.Struct, omit_defaults=True):
    """A build as it stands. ``current_step`` is how many steps have ended; lists come without ``logs``."""

    id: str
    name: str
    base_template: str
    recipe: list[str]
    vcpus: int
    memory_mb: int
    skip_pre_post: bool
    status: Literal["pending", "running", "success", "failed", "cancelled"]
    current_step: int
    total_steps: int
    created_at: Moment
    healthcheck: str | UnsetType = UNSET
    default_user: str | UnsetType = UNSET
    default_env: dict[str, str] | UnsetType = UNSET
    logs: list[BuildStep] | UnsetType = UNSET
    error: str | UnsetType = UNSET
    sandbox_id: str | UnsetType = UNSET
    started_at: Moment | UnsetType = UNSET
    completed_at: Moment | UnsetType = UNSET
