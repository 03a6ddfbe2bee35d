"""The base classes of the other plugins: notifiers, agent providers, environment checks, report exporters.

Each is small on purpose. What calls them lives in the daemon's wings.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

import msgspec

from .outbound import Outbound
from .values import Health

__all__ = ["AgentProvider", "AgentSpec", "EnvironmentCheck", "Notice", "Notifier", "ReportExporter"]


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """An event as a channel tells of it.

    ``id`` is the same each time that the event is sent, and of no other event. ``title`` is one line for people and
    ``text`` some more, both plain text: they hold names that users chose. ``body`` is for programs: plain JSON values.
    """

    id: str
    kind: str
    at: datetime
    title: str
    text: str
    body: dict[str, Any] = {}


class Notifier(ABC):
    """Delivers events to one kind of receiver.

    The daemon makes one instance, whose :meth:`send` is called for many channels at a time. ``config_type`` is what a
    channel must be configured with: a Struct of strings, checked before a channel is made, kept encrypted and never
    shown. A field named ``secret`` is shown once, in the answer to the channel's creation; give it a default factory
    to have one made.
    """

    name: ClassVar[str]
    config_type: ClassVar[type[msgspec.Struct]]

    def __init__(self, outbound: Outbound) -> None:
        """``outbound`` is the way to the receivers. Another way is not guarded: do not let users say where it goes."""
        self.outbound = outbound

    @abstractmethod
    async def send(self, config: Any, notice: Notice) -> str:
        """Deliver one notice and return the receiver's answer in one line.

        ``config`` is an instance of ``config_type``. Raises InvalidArgument when no later try will succeed; every
        other error is followed by one: Unavailable may say when, in seconds, by its detail ``retry_after``. The daemon
        retries, orders, and keeps dead letters. May be called twice with the same notice: pass its ``id`` on where the
        receiver can tell. Time limit 10 s. Cancellation: at the limit, and when the channel is deleted or the daemon
        stops; the notice may have arrived nevertheless.
        """


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
