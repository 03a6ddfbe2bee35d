"""The engine: devices, leases, runs, their scheduler and the drivers of this host, composed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from functools import partial
from typing import Protocol

import msgspec
import trio

from anvild.core.artifacts import Artifacts
from anvild.core.errors import Conflict
from anvild.core.events import EventLog, append
from anvild.core.ids import new_id
from anvild.core.logging import get_logger
from anvild.core.settings import EngineSettings
from anvild.core.store import Store
from anvild.sdk import AlreadyExists, DeviceFact, DeviceRequest, Event, NotFound, Session, Workload

from . import journal
from .claims import Grant, Supply
from .condition import Limits
from .devices import Devices
from .execution import Execution
from .guard import Fences
from .hosting import DriverFactory, HostedDriver
from .leases import Fate, forsake, takes_slot
from .people import Holding, Leases
from .persist import persist
from .queue import Demand, can_make, order_for
from .recovery import Recoverer
from .retention import runs_retention
from .runs import Runs
from .scheduler import Scheduler
from .states import Ending
from .tenure import Tenure
from .values import Actor, DriverInfo, EngineStatistics, LeaseInfo, RunState

__all__ = ["Engine"]

LONGEST_REST = 60.0
STARTING_PATIENCE = 20.0

TROUBLED_AFTER = 3
"""Attempts in a row that could not begin on a device, after which it is mended before it gets the next one."""

log = get_logger(__name__)


class Tenant(Protocol):
    """Who holds a lease in this process."""

    @property
    def lease(self) -> LeaseInfo: ...

    def device_lost(self, reason: str) -> None: ...

    def driver_gone(self, reason: str) -> None: ...


class Engine:
    """Hosts the drivers of this machine and executes runs on what they offer.

    ``runs``, ``devices`` and ``leases`` are its services; they may be used before and while :meth:`run` runs.
    ``workloads`` maps kinds of runs to what executes them; fill it before :meth:`run`.

    :param drivers: makes a new instance of each driver, by name.
    :param host: the name of this machine, the same over restarts.
    :param keep: how long runs are kept after their end.
    """

    def __init__(
        self,
        *,
        store: Store,
        events: EventLog,
        artifacts: Artifacts,
        drivers: Mapping[str, DriverFactory],
        host: str,
        settings: EngineSettings | None = None,
        workloads: Mapping[str, Workload] | None = None,
        keep: timedelta = timedelta(days=365),
    ) -> None:
        self.incarnation = new_id()
        self.workloads: dict[str, Workload] = dict(workloads or {})
        self._settings = settings or EngineSettings()
        self._store = store
        self._events = events
        self._artifacts = artifacts
        self._host = host
        self._fences = Fences()
        self._tenants: dict[str, Tenant] = {}
        self._executions: dict[str, Execution] = {}
        self._resting: dict[str, int] = {}
        self._rests: set[str] = set()
        self._runaways = 0
        self._ended = 0
        self._supply_now: Supply | None = None
        self._nursery: trio.Nursery | None = None
        self.scheduler = Scheduler(store, supply=self.supply, idle=self._idle, start=self._start)
        self.runs = Runs(store, self.workloads, default_deadline=self._settings.run_deadline, supply=self.supply)
        self.devices = Devices(store, host)
        self._retention = runs_retention(store, keep=keep)
        self._settling: dict[str, trio.Event] = {}
        self.leases = Leases(
            store,
            supply=self.supply,
            start=self._hold,
            holdings=self._holdings,
            settled=self._settled,
            changed=self._changed,
        )
        self._hosting: trio.Nursery | None = None
        self._hosted: dict[str, trio.CancelScope] = {}
        self._left = trio.Event()
        self._drivers = {name: self._host_for(name, factory) for name, factory in drivers.items()}
        self._heard: dict[str, Callable[[Event], None]] = {
            "run.cancelled": self._hear_cancelled,
            "run.pausing": self._hear_pausing,
            "run.resumed": self._hear_resumed,
            "run.queued": self._hear_change,
            "lease.released": self._hear_change,
            "device.seen": self._hear_change,
            "device.changed": self._hear_change,
            "device.registered": self._hear_change,
            "device.quarantined": self._hear_change,
            "device.rearmed": self._hear_rearmed,
            "device.lost": self._hear_lost,
            "device.retired": self._hear_lost,
        }

    # ----- what others ask

    def drivers(self) -> list[DriverInfo]:
        """The hosted drivers with their health, by name."""
        return [self._drivers[name].info for name in sorted(self._drivers)]

    def driver(self, name: str) -> HostedDriver:
        """A hosted driver, for what it offers beside sessions. Raises NotFound."""
        try:
            return self._drivers[name]
        except KeyError:
            raise NotFound(f"no driver {name!r} is loaded") from None

    def attach(self, name: str, factory: DriverFactory) -> None:
        """Host another driver from now on; before :meth:`run`, so that it is asked for what it had at its last stay.

        Raises AlreadyExists.
        """
        if name in self._drivers:
            raise AlreadyExists(f"there is a driver {name!r} already")
        self._drivers[name] = self._host_for(name, factory)
        self._host_driver(name)
        self._changed()

    async def detach(self, name: str, reason: str) -> None:
        """Host a driver no longer, and return when nothing of it is there: the leases on its devices have ended, and
        those are retired. What it has made and cannot destroy now, one that is attached under its name will.

        Idempotent.
        """
        hosted = self._drivers.get(name)
        if hosted is None:
            return
        hosted.withdraw(reason)
        for tenant in [each for each in self._tenants.values() if each.lease.driver == name]:
            if isinstance(tenant, Holding):
                tenant.let_go(reason)
            else:
                tenant.device_lost(reason)
        while any(tenant.lease.driver == name for tenant in self._tenants.values()):
            await self._left.wait()
        scope = self._hosted.pop(name, None)
        if scope is not None:
            scope.cancel()
            await hosted.over.wait()
        await persist(self._store, lambda conn: forsake(conn, self._host, name, reason))
        self._drivers.pop(name, None)
        self._changed()

    async def rearm_driver(self, name: str, by: Actor = journal.SYSTEM) -> None:
        """End a driver's quarantine. Raises NotFound, and Conflict when it is in none."""
        hosted = self.driver(name)
        if hosted.state != "quarantined":
            raise Conflict(f"the driver {name!r} is not in quarantine")
        await self._store.write(
            lambda conn: append(
                conn,
                "driver.rearmed",
                subject=("driver", name),
                actor=by.actor,
                audit=True,
                ip=by.ip,
                user_agent=by.user_agent,
            )
        )
        hosted.rearm()

    async def drivers_started(self) -> None:
        """Return when no driver is starting any more, or after :data:`STARTING_PATIENCE` seconds: what is asked right
        after a start of the daemon waits for an answer instead of being told that everything is away."""
        with trio.move_on_after(STARTING_PATIENCE):
            for hosted in list(self._drivers.values()):
                await hosted.wait_started()

    def session(self, device_id: str, by: Actor) -> AbstractAsyncContextManager[Session]:
        """A session on a device by hand; see :meth:`Leases.session`."""
        return self.leases.session(device_id, by)

    def supply(self) -> Supply:
        """What this host can offer now."""
        if self._supply_now is None:
            hosted = self._drivers.values()
            self._supply_now = Supply(
                host=self._host,
                incarnation=self.incarnation,
                drivers={each.name: each.supply for each in hosted},
                present=frozenset(device for each in hosted for device in each.sightings.present.values()),
                resting=frozenset(self._rests),
                limit=self._settings.max_running,
                limits=Limits(self._settings.hold_above_celsius, self._settings.hold_below_percent),
            )
        return self._supply_now

    def statistics(self) -> EngineStatistics:
        """What the engine does now, and has done since it started."""
        return EngineStatistics(
            executing=sum(isinstance(tenant, Execution) for tenant in self._tenants.values()),
            person_leases=len(self._holdings()),
            drivers_usable=sum(each.blocked is None for each in self._drivers.values()),
            devices_present=sum(len(each.sightings.present) for each in self._drivers.values()),
            granted=self.scheduler.granted,
            ended=self._ended,
            claims=self.scheduler.claims,
            claims_failed=self.scheduler.failures,
            runaways=self._runaways,
            last_claim_seconds=self.scheduler.last_claim_seconds,
        )

    # ----- its life

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Host the drivers, settle what an earlier incarnation left, and execute runs until cancelled.

        Started when leases are being settled and runs are being claimed; drivers get ready behind it. When it is
        cancelled, work is cancelled and sessions close first, then the drivers stop. Nothing of the work's state is
        written then: the next start takes it up.
        """
        forget = self._events.on_commit(self._hear)
        hosting = trio.CancelScope(shield=True)
        try:
            async with trio.open_nursery() as outer:
                outer.start_soon(self._host_drivers, hosting)
                try:
                    async with trio.open_nursery() as nursery:
                        self._nursery = nursery
                        await self._recoverer().run(nursery)
                        nursery.start_soon(self.scheduler.run)
                        nursery.start_soon(self._retention.run)
                        self.scheduler.wake()
                        task_status.started()
                        await trio.sleep_forever()
                finally:
                    hosting.cancel()
        finally:
            self._nursery = None
            forget()

    async def _host_drivers(self, scope: trio.CancelScope) -> None:
        """Outlive the work: the scope is cancelled when all sessions are closed."""
        with scope:
            async with trio.open_nursery() as nursery:
                self._hosting = nursery
                for name in self._drivers:
                    self._host_driver(name)
                await trio.sleep_forever()

    def _host_driver(self, name: str) -> None:
        """Begin to host a driver; before :meth:`run`, that does it."""
        if self._hosting is not None:
            scope = self._hosted[name] = trio.CancelScope()
            self._hosting.start_soon(self._drivers[name].run, scope)

    def _host_for(self, name: str, factory: DriverFactory) -> HostedDriver:
        return HostedDriver(
            name,
            factory,
            store=self._store,
            host=self._host,
            on_change=self._changed,
            on_lost=self._lost,
            on_stop=self._driver_stops,
        )

    def _recoverer(self) -> Recoverer:
        return Recoverer(
            store=self._store,
            host=self._host,
            incarnation=self.incarnation,
            drivers=self._drivers,
            workloads=self.workloads,
            fences=self._fences,
            release=self._release,
            adopt=self._adopt,
            settling=self._settling,
            hold=self._hold_again,
        )

    # ----- tenants: executions and people's leases

    def _start(self, grants: Sequence[Grant]) -> None:
        for grant in grants:
            self._execute(grant.lease, grant.run_id, grant.attempt, resumed=False)

    def _adopt(self, lease: LeaseInfo) -> None:
        assert lease.run_id is not None
        assert lease.attempt is not None
        mine = msgspec.structs.replace(lease, incarnation=self.incarnation)
        self._execute(mine, lease.run_id, lease.attempt, resumed=True)

    def _execute(self, lease: LeaseInfo, run_id: str, attempt: int, *, resumed: bool) -> None:
        hosted = self._drivers[lease.driver]
        execution = Execution(
            run_id,
            attempt,
            lease,
            hosted=hosted,
            workloads=self.workloads,
            store=self._store,
            artifacts=self._artifacts,
            fences=self._fences,
            release=self._release,
            false_start=lambda: self._rest(_place(lease)),
            elsewhere=self._elsewhere,
            resumed=resumed,
        )
        self._executions[run_id] = execution
        self._enter(execution)
        if self._nursery is not None:
            self._nursery.start_soon(self._host_execution, execution)

    async def _host_execution(self, execution: Execution) -> None:
        try:
            await execution.run()
        except Exception as error:
            # A defect of the engine itself ends this run and keeps this device from the next one, and nothing else.
            log.exception("execution_failed", run=execution.run_id, attempt=execution.attempt)
            reason = f"the engine failed: {type(error).__name__}: {error}"
            ending = Ending(state=RunState.FAILED, code="engine_fault", reason=reason, began=True)
            settle = partial(journal.settle, run_id=execution.run_id, attempt=execution.attempt, ending=ending)
            await persist(self._store, settle)
            await self._release(execution.lease, Fate(quarantine=reason), ending.code)
        if self._executions.get(execution.run_id) is execution:
            del self._executions[execution.run_id]

    def _hold(self, lease: LeaseInfo, fact: DeviceFact, make: DeviceRequest | None) -> Holding:
        tenure = Tenure(self._drivers[lease.driver], lease, fact, store=self._store, fences=self._fences)
        holding = Holding(lease, tenure, make=make, store=self._store, release=self._release)
        self._enter_holding(holding)
        return holding

    def _hold_again(self, tenure: Tenure, away: str | None) -> None:
        self._enter_holding(
            Holding(tenure.lease, tenure, make=None, store=self._store, release=self._release, away=away)
        )

    def _enter_holding(self, holding: Holding) -> None:
        self._enter(holding)
        if self._nursery is not None:
            self._nursery.start_soon(holding.run)

    def _holdings(self) -> list[Holding]:
        return [tenant for tenant in self._tenants.values() if isinstance(tenant, Holding)]

    async def _settled(self, device_id: str | None) -> None:
        """Wait for the drivers, and for the recovery of a device that an earlier incarnation had leased."""
        await self.drivers_started()
        recovery = self._settling.get(device_id or "")
        if recovery is not None:
            await recovery.wait()

    def _enter(self, tenant: Tenant) -> None:
        self._tenants[tenant.lease.device_id] = tenant
        if takes_slot(tenant.lease):
            self._drivers[tenant.lease.driver].slots_used += 1

    def _leave(self, lease: LeaseInfo) -> None:
        tenant = self._tenants.get(lease.device_id)
        if tenant is None or tenant.lease.id != lease.id:
            return
        del self._tenants[lease.device_id]
        self._left.set()
        self._left = trio.Event()
        self._ended += 1
        if isinstance(tenant, Execution):
            self._runaways += tenant.runaway
            if tenant.began:
                self._resting.pop(_place(lease), None)
        if takes_slot(lease):
            self._drivers[lease.driver].slots_used -= 1

    async def _release(self, lease: LeaseInfo, fate: Fate, reason: str) -> None:
        self._leave(lease)
        hosted = self._drivers.get(lease.driver)
        failures = self._resting.get(lease.device_id, 0)
        if hosted is not None and failures >= TROUBLED_AFTER and fate == Fate() and hosted.mender is not None:
            del self._resting[lease.device_id]
            hosted.trouble(lease.device_id, f"{failures} attempts in a row could not begin on it, last: {reason}")
            fate = Fate(unclean=True)
        await self.scheduler.release(lease, fate, reason)
        if fate.unclean and hosted is not None:
            hosted.tidy()

    # ----- what the drivers tell

    def _changed(self) -> None:
        self._supply_now = None
        self.scheduler.wake()

    def _lost(self, device_id: str, reason: str) -> None:
        tenant = self._tenants.get(device_id)
        if tenant is not None:
            tenant.device_lost(reason)

    def _driver_stops(self, name: str, reason: str) -> None:
        for tenant in list(self._tenants.values()):
            if tenant.lease.driver == name:
                tenant.driver_gone(reason)

    def _idle(self) -> bool:
        """Whether there may be a free place: cheap, and never wrong when it says no."""
        for hosted in self._drivers.values():
            if hosted.blocked is None:
                slots = hosted.description.slots if hosted.description is not None else 0
                if hosted.slots_used < slots:
                    return True
                if any(device not in self._tenants for device in hosted.sightings.present.values()):
                    return True
        return False

    def _rest(self, place: str) -> None:
        """Keep a place that could not begin an attempt from the next one, longer each time in a row."""
        failures = self._resting[place] = self._resting.get(place, 0) + 1
        self._rests.add(place)
        self._supply_now = None
        if self._nursery is not None:
            self._nursery.start_soon(self._wake_later, place, min(2.0 ** (failures - 1), LONGEST_REST))

    def _elsewhere(self, demand: Demand, driver: str, team_id: str) -> bool:
        """Whether a driver other than this one makes what a run of a team needs, or may turn out to: it is starting."""
        others = [other for name, other in self._drivers.items() if name != driver]
        return any(
            can_make(demand, other.supply, team_id)
            or (other.state == "starting" and order_for(demand.requirements, other.name) is not None)
            for other in others
        )

    async def _wake_later(self, place: str, seconds: float) -> None:
        await trio.sleep(seconds)
        self._rests.discard(place)
        self._changed()

    # ----- what the event log tells

    def _hear(self, events: Sequence[Event]) -> None:
        for event in events:
            hear = self._heard.get(event.kind)
            if hear is not None:
                hear(event)

    def _hear_change(self, _: Event) -> None:
        self.scheduler.wake()

    def _hear_cancelled(self, event: Event) -> None:
        execution = self._executions.get(event.subject_id)
        if execution is not None:
            execution.cancelled(str(event.data.get("reason", "cancelled")))

    def _hear_pausing(self, event: Event) -> None:
        execution = self._executions.get(event.subject_id)
        if execution is not None:
            execution.pause()

    def _hear_resumed(self, event: Event) -> None:
        execution = self._executions.get(event.subject_id)
        if execution is not None:
            execution.resume()
        self.scheduler.wake()

    def _hear_rearmed(self, event: Event) -> None:
        for hosted in self._drivers.values():
            if hosted.name == event.data.get("driver"):
                hosted.tidy()
        self.scheduler.wake()

    def _hear_lost(self, event: Event) -> None:
        self._lost(event.subject_id, str(event.data.get("reason") or "it has gone"))
        self.scheduler.wake()


def _place(lease: LeaseInfo) -> str:
    """What rests after a false start: the device, or the driver that should have made one."""
    return lease.driver if lease.slot is not None else lease.device_id
