"""The base class of a workload: the code that executes one kind of run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, Protocol

import msgspec

from .driver import Session
from .values import DeviceRequest, Severity, Verdict

__all__ = ["Outcome", "Requirements", "RunContext", "RunFailed", "RunInfo", "Workload"]

Json = Any


class Requirements(msgspec.Struct, frozen=True, kw_only=True):
    """What a run needs of a device. ``platforms`` empty means any; ``drivers`` narrows the choice to drivers by name.

    ``make`` says, by driver's name, what device to make to order when no present one fits: a driver that is not named
    there makes none. The engine gives each device that it makes an ``identity`` of its own in place of the request's.
    """

    platforms: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    drivers: tuple[str, ...] = ()
    make: dict[str, DeviceRequest] = {}


class RunInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The run as its workload sees it. ``spec`` is the frozen, validated description of the work; ``checkpoint`` is
    what the workload saved last, None on a fresh attempt; ``resumed`` says that this very attempt goes on after a
    pause or a restart of the daemon."""

    run_id: str
    attempt: int
    kind: str
    name: str
    spec: Json
    metadata: Mapping[str, Json]
    checkpoint: Json = None
    resumed: bool = False


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How the work ended: the verdict and one sentence."""

    verdict: Verdict
    reason: str


class RunFailed(Exception):
    """Ends the run with the verdict failed, a short code (``expectation_failed``) and a sentence.

    ``retry`` allows a new attempt within the run's limit; keep it False for a verdict on the thing under test.
    """

    def __init__(self, code: str, message: str, *, retry: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry = retry


class RunContext(Protocol):
    """What a workload may use while it executes one attempt. All writes are durable when their await returns; each
    is a no-op error (StaleLease) once the attempt has lost its lease."""

    run: RunInfo
    session: Session

    async def phase(self, name: str) -> None:
        """Enter a phase: a short word shown beside the state."""

    async def log(self, message: str, **values: Json) -> None:
        """Append a line for people to the run's events."""

    async def emit(self, kind: str, data: Mapping[str, Json]) -> None:
        """Append an event ``run.KIND`` with plain data (at most 64 KiB as JSON) to the run's events."""

    async def finding(
        self, severity: Severity, *, title: str, category: str | None = None, detail: str | None = None
    ) -> None:
        """Record a judged result. The same one again in the same attempt changes nothing, so that work that is done
        again after a restart leaves it once."""

    async def artifact(self, name: str, source: AsyncIterable[bytes], *, media_type: str) -> str:
        """Store a file that the run produced and return its id. A second one of the same name replaces the first."""

    def open_artifact(self, artifact_id: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Open an artifact of the run's team, its own or one that was uploaded, as a stream of chunks. Entering it
        raises NotFound for one that is gone or another team's, Unavailable when its file is not on this host."""

    async def checkpoint(
        self,
        state: Json,
        *,
        kind: str | None = None,
        data: Mapping[str, Json] | None = None,
        phase: str | None = None,
    ) -> None:
        """Save how far the work has come (at most 64 KiB as JSON); in the same transaction append an event when
        ``kind`` is given, then enter a phase when ``phase`` is. After a restart of the daemon the attempt goes on from
        the last checkpoint."""

    async def pause_point(self) -> None:
        """A place where the run may be paused: returns at once, or when a paused run is resumed."""


class Workload(ABC):
    """Executes runs of one ``kind``. ``pausable`` says that it calls :meth:`RunContext.pause_point`; ``adoptable``
    that an attempt can go on from its last checkpoint when the daemon restarted and the device lived on."""

    kind: ClassVar[str]
    pausable: ClassVar[bool] = False
    adoptable: ClassVar[bool] = False

    @abstractmethod
    async def run(self, context: RunContext) -> Outcome:
        """Do the work. Raise RunFailed for a judged failure; driver errors may pass through and end the attempt with
        their code. Cancelled when the run is cancelled, its deadline passes or its device is lost: clean up within
        10 s, the device itself is cleaned by the engine."""
