"""A running capsule in this process: the one session on it, and how long nobody has used it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime

import trio

from anvild.core.clock import utcnow
from anvild.core.engine import Actor, Leases
from anvild.sdk import AnvilError, CapabilityMissing, DeviceLost, Measure, Session, WrongState

from .metrics import SAMPLE_SECONDS, Metrics
from .values import Capsule

__all__ = ["Live"]

TROUBLE_SECONDS = 5.0


class Live:
    """Holds one session on a capsule for all who use it; it is opened when it is first needed.

    ``idle`` is called when nobody has used the capsule for as long as its ``timeout_sec``.
    """

    def __init__(
        self, capsule: Capsule, leases: Leases, metrics: Metrics, nursery: trio.Nursery, idle: Callable[[], None]
    ) -> None:
        self.last_active_at: datetime | None = capsule.last_active_at
        self.noted_at: datetime | None = None
        self.team_id = capsule.team_id
        self._capsule = capsule
        self._leases = leases
        self._metrics = metrics
        self._nursery = nursery
        self._idle = idle
        self._opening = trio.Lock()
        self._session: Session | None = None
        self._let_go = trio.Event()
        self._over = False
        self._users = 0
        self._free = trio.Event()
        self._idling = trio.CancelScope()
        self._measuring = trio.CancelScope()
        self._used = trio.current_time()
        nursery.start_soon(self._measure)
        if capsule.timeout_sec:
            since = (utcnow() - capsule.last_active_at).total_seconds() if capsule.last_active_at else 0.0
            self._used -= max(0.0, min(since, float(capsule.timeout_sec)))
            nursery.start_soon(self._wait_idle, float(capsule.timeout_sec))

    def touch(self) -> None:
        """Somebody uses the capsule now."""
        self._used = trio.current_time()
        self.last_active_at = utcnow()

    @asynccontextmanager
    async def use(self, *, busy: bool = True) -> AsyncIterator[Session]:
        """A session on the capsule; with ``busy`` it counts as being used while the block runs, and not only now.

        Raises what the driver says. A session whose connection has broken is opened anew for the next who comes.
        """
        self.touch()
        self._users += busy
        session = None
        try:
            session = await self.session()
            yield session
        except DeviceLost:
            if session is not None and session is self._session:
                self._let_go.set()
                self._session = None
            raise
        finally:
            self._users -= busy
            if busy:
                self.touch()
            if not self._users:
                self._free.set()
                self._free = trio.Event()

    async def session(self) -> Session:
        """Return the session, open. Raises WrongState when the capsule is being put aside or ended."""
        async with self._opening:
            if self._over:
                raise WrongState("the capsule does not run any more")
            if self._session is None:
                self._let_go = trio.Event()
                self._session = await self._nursery.start(self._hold, self._let_go)
            assert self._session is not None
            return self._session

    def close(self) -> None:
        """End the session, and wait no longer for the capsule to be idle."""
        self._over = True
        self._let_go.set()
        self._idling.cancel()
        self._measuring.cancel()

    async def _hold(self, let_go: trio.Event, task_status: trio.TaskStatus[Session]) -> None:
        holder = Actor(actor=self._capsule.created_by, team_id=self._capsule.team_id)
        async with self._leases.session(self._capsule.device_id, holder) as session:
            task_status.started(session)
            await let_go.wait()

    async def _measure(self) -> None:
        """Take samples as long as the capsule runs here. What is not to be had now may be later."""
        with self._measuring:
            rings = await self._metrics.begin(self._capsule.id)
            while True:
                try:
                    sample = await (await self.session()).require(Measure).sample()
                    rings.add(sample, self._capsule.vcpus)
                except CapabilityMissing:
                    return
                except AnvilError:
                    await trio.sleep(TROUBLE_SECONDS)
                await trio.sleep(SAMPLE_SECONDS)

    async def _wait_idle(self, timeout: float) -> None:
        with self._idling:
            while True:
                left = self._used + timeout - trio.current_time()
                if self._users:
                    await self._free.wait()
                elif left > 0:
                    await trio.sleep(left)
                else:
                    self._idle()
                    self._used = trio.current_time()
