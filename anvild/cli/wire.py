"""What the client reads of the daemon's answers. Fields that it does not know are left alone."""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypeVar

import msgspec

__all__ = [
    "Artifact",
    "Device",
    "DriverInfo",
    "Finding",
    "Key",
    "NewKey",
    "Pipeline",
    "Plugin",
    "Run",
    "RunState",
    "Upload",
    "read",
    "read_all",
]

T = TypeVar("T", bound=msgspec.Struct)


class Wire(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of all shapes."""


class Run(Wire, frozen=True):
    """A run."""

    id: str
    pipeline: str
    status: str
    created_at: datetime
    device_id: str | None = None
    metadata: dict[str, Any] | None = None


class RunState(Wire, frozen=True):
    """What a run's status does not tell."""

    state: str
    phase: str | None = None
    reason_code: str | None = None
    reason: str | None = None
    waiting: str | None = None
    attempt: int = 0


class Finding(Wire, frozen=True):
    """A judged result of a run."""

    id: str
    severity: str
    category: str | None = None
    title: str | None = None
    detail: str | None = None


class Device(Wire, frozen=True):
    """A device."""

    id: str
    name: str
    status: str
    created_at: datetime
    model: str | None = None
    firmware_version: str | None = None
    capabilities: tuple[str, ...] = ()
    metadata: dict[str, Any] | None = None


class Artifact(Wire, frozen=True):
    """A file that a run left."""

    id: str
    name: str
    size: int
    media_type: str
    created_at: datetime


class Upload(Wire, frozen=True):
    """A file that the daemon keeps for runs."""

    id: str


class Key(Wire, frozen=True):
    """An API key without its text."""

    id: str
    name: str
    prefix: str
    scopes: tuple[str, ...]
    created_at: datetime
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None


class NewKey(Wire, frozen=True):
    """A key that was just made, with its text."""

    id: str
    plaintext: str


class Pipeline(Wire, frozen=True):
    """Something that can be run."""

    name: str
    description: str = ""
    parameters: dict[str, str | None] = {}
    inputs: dict[str, Any] = {}
    problem: str | None = None


class DriverInfo(Wire, frozen=True):
    """A driver and how it is."""

    name: str
    version: str
    health: str
    state: str = ""
    reason: str | None = None
    facts: dict[str, str] = {}
    capabilities: tuple[str, ...] = ()
    slots: int = 0
    slots_used: int = 0
    devices: int = 0


class Plugin(Wire, frozen=True):
    """A plugin as the daemon found it."""

    name: str
    version: str
    state: str
    api: str
    hooks: tuple[str, ...] = ()
    reason: str | None = None
    grade: str | None = None


def read(document: dict[str, Any], field: str, kind: type[T]) -> T:
    """Take one object out of an answer."""
    return msgspec.convert(document[field], kind)


def read_all(document: dict[str, Any], field: str, kind: type[T]) -> list[T]:
    """Take a list of objects out of an answer."""
    return [msgspec.convert(each, kind) for each in document[field]]
