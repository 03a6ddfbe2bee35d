"""The base classes of the other plugins: notifiers, agent providers, environment checks, report exporters.

Each is small on purpose. What calls them lives in the daemon's wings.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from .events import Event
from .values import Health

__all__ = ["AgentProvider", "AgentSpec", "EnvironmentCheck", "Notifier", "ReportExporter"]


class Notifier(ABC):
    """Delivers events to one kind of receiver. ``config_type`` is what a channel must be configured with."""

    name: ClassVar[str]
    config_type: ClassVar[type[msgspec.Struct]]

    @abstractmethod
    async def send(self, config: Any, event: Event) -> str:
        """Deliver one event and return the receiver's answer in one line. Time limit 10 s. Raises Unavailable when a
        later try may succeed and InvalidArgument when none will; the daemon retries, orders and keeps dead letters.
        May be called twice with the same event: pass ``event.id`` on where the receiver can tell."""


class AgentSpec(msgspec.Struct, frozen=True, kw_only=True):
    """How to start an agent program inside a device: ``argv`` carries no prompt and no secret; ``hosts`` are the
    network names that it must reach."""

    argv: tuple[str, ...]
    env: dict[str, str] = {}
    stdin: bytes = b""
    hosts: tuple[str, ...] = ()


class AgentProvider(ABC):
    """Teaches the daemon one agent program."""

    name: ClassVar[str]

    @abstractmethod
    async def probe(self) -> Health:
        """Say whether the program is there, which version, and whether it is logged in. Time limit 10 s."""

    @abstractmethod
    def spec(self, prompt: str, model: str, options: Mapping[str, Any]) -> AgentSpec:
        """Say how to start it for one task."""

    @abstractmethod
    def decode(self, line: bytes) -> Sequence[Mapping[str, Any]]:
        """Turn one line of its output into events; an unknown line becomes one ``log`` event, never an error."""


class EnvironmentCheck(ABC):
    """Judges one property of the host before a measurement."""

    name: ClassVar[str]

    @abstractmethod
    async def check(self) -> Health:
        """Say how the property is. Time limit 10 s. Cancelling it must be safe at any await."""


class ReportExporter(ABC):
    """Writes a run as a document. ``media_type`` and ``suffix`` name its form."""

    name: ClassVar[str]
    media_type: ClassVar[str]
    suffix: ClassVar[str]

    @abstractmethod
    def export(self, run: Mapping[str, Any], findings: Sequence[Mapping[str, Any]]) -> AsyncIterator[bytes]:
        """Produce the document piece by piece. Cancelling leaves nothing behind."""
