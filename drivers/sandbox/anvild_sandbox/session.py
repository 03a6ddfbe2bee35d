"""A session on a sandbox: the guest agent's verbs, pause and measurement."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import ClassVar

import trio

from anvild.sdk import DeadlineExceeded, DeviceFact, DeviceLost, Exec, Files, Measure, Pause, Ports, Sample
from anvild.sdk.agent import AgentClient, AgentSession
from anvild.sdk.cgroups import Group, Usage

from .storage import Storage


class MeasuredSession(AgentSession, Measure):
    """A session on a host that has no freezer for us."""

    offered: ClassVar[tuple[str, ...]] = (Exec.capability, Files.capability, Ports.capability, Measure.capability)

    def __init__(self, device: DeviceFact, agent: AgentClient, group: Group, storage: Storage) -> None:
        super().__init__(device, agent)
        self._group = group
        self._storage = storage
        self._last: tuple[float, Usage] | None = None

    async def sample(self) -> Sample:
        usage, disk = await trio.to_thread.run_sync(self._measure)
        now = time.monotonic()
        before, self._last = self._last, (now, usage)
        cpu = 0.0
        if before is not None and now > before[0]:
            cpu = 100 * max(0.0, usage.cpu - before[1].cpu) / (now - before[0])
        return Sample(
            at=datetime.now(UTC), cpu=cpu, memory=usage.memory, disk=disk, read=usage.read, written=usage.written
        )

    def _measure(self) -> tuple[Usage, int]:
        return self._group.usage(), self._storage.used(self.device.identity)


class SandboxSession(MeasuredSession, Pause):
    """A session on a host where sandboxes can be paused."""

    offered: ClassVar[tuple[str, ...]] = (*MeasuredSession.offered, Pause.capability)

    async def freeze(self) -> None:
        await self._set(self._group.freeze)

    async def thaw(self) -> None:
        await self._set(self._group.thaw)

    async def _set(self, change: Callable[[], None]) -> None:
        try:
            await trio.to_thread.run_sync(change)
        except TimeoutError as error:
            raise DeadlineExceeded(f"the sandbox {self.device.name!r}: {error}") from None
        except OSError as error:
            raise DeviceLost(f"the sandbox {self.device.name!r} has gone: {error}") from None
