"""The wire shapes of programs in capsules."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

__all__ = [
    "BackgroundExecResponse",
    "ExecRequest",
    "ExecResponse",
    "Exited",
    "Failed",
    "KillQuery",
    "ProcessEntry",
    "ProcessListResponse",
    "Start",
    "Started",
    "Stop",
]


class ExecRequest(msgspec.Struct):
    """A program to run: as it is, without a shell."""

    cmd: str
    args: list[str] = []
    timeout_sec: int = 30
    background: bool = False
    tag: str | UnsetType = UNSET
    envs: dict[str, str] | UnsetType = UNSET
    cwd: str | UnsetType = UNSET


class ExecResponse(msgspec.Struct):
    """How a program ended, and what it wrote."""

    sandbox_id: str
    cmd: str
    stdout: str
    stderr: str
    exit_code: int
    duration_ms: int
    encoding: Literal["utf-8", "base64"]


class BackgroundExecResponse(msgspec.Struct):
    """A program that runs on."""

    sandbox_id: str
    cmd: str
    pid: int
    tag: str


class ProcessEntry(msgspec.Struct, omit_defaults=True):
    """A process of a capsule."""

    pid: int
    cmd: str
    args: list[str]
    tag: str | UnsetType = UNSET


class ProcessListResponse(msgspec.Struct):
    """The processes of a capsule."""

    processes: list[ProcessEntry]


class KillQuery(msgspec.Struct):
    """Which signal is sent."""

    signal: Literal["SIGKILL", "SIGTERM"] = "SIGKILL"


class Start(msgspec.Struct, frozen=True, tag="start"):
    """The first message to a stream: what to run."""

    cmd: str
    args: list[str] = []
    envs: dict[str, str] = {}
    cwd: str | None = None


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """End what the stream has started."""


class Started(msgspec.Struct, frozen=True, tag="start"):
    """The program runs."""

    pid: int


class Exited(msgspec.Struct, frozen=True, tag="exit"):
    """The program has ended."""

    exit_code: int


class Failed(msgspec.Struct, frozen=True, tag="error"):
    """The stream cannot go on."""

    data: str
