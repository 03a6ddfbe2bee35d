"""The messages of a terminal."""

from __future__ import annotations

import msgspec

__all__ = ["Connect", "Exited", "Failed", "Input", "Kill", "Output", "Ping", "Resize", "Start", "Started"]


class Start(msgspec.Struct, frozen=True, tag="start"):
    """The first message to a new terminal."""

    cmd: str = "/bin/bash"
    args: list[str] = []
    cols: int = 80
    rows: int = 24
    envs: dict[str, str] = {}
    cwd: str | None = None
    user: str | None = None


class Connect(msgspec.Struct, frozen=True, tag="connect"):
    """The first message to a terminal that is there already."""

    tag: str


class Input(msgspec.Struct, frozen=True, tag="input"):
    """Keys, in base64."""

    data: str


class Resize(msgspec.Struct, frozen=True, tag="resize"):
    """The terminal has another size now."""

    cols: int = 0
    rows: int = 0


class Kill(msgspec.Struct, frozen=True, tag="kill"):
    """End the program."""


class Started(msgspec.Struct, frozen=True, tag="started"):
    """The program runs. The tag finds it again."""

    tag: str
    pid: int


class Output(msgspec.Struct, frozen=True, tag="output"):
    """What is on the screen, in base64."""

    data: str


class Exited(msgspec.Struct, frozen=True, tag="exit"):
    """The program has ended."""

    exit_code: int


class Failed(msgspec.Struct, frozen=True, tag="error"):
    """Something went wrong; a fatal error is the last message."""

    data: str
    fatal: bool


class Ping(msgspec.Struct, frozen=True, tag="ping"):
    """Keeps the connection alive."""
