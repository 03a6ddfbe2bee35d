"""Hosting one driver: started, watched, restarted with growing pauses, quarantined when it keeps failing.

Nothing that a driver does reaches the daemon's nursery. Each life of a driver gets a new instance, from wherever its
factory makes it; a watch that fails is called again on the same instance, so that sessions of running work go on.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext, suppress
from typing import Any, Literal, TypeVar

import msgspec
import trio
from sqlalchemy import Connection

from anvild.core.allowance import Allowance
from anvild.core.events import append
from anvild.core.logging import get_logger
from anvild.core.store import Store
from anvild.sdk import (
    AnvilError,
    Capability,
    CapabilityMissing,
    Description,
    Driver,
    DriverFault,
    Health,
    HealthState,
    InvalidArgument,
    Mend,
    Provision,
    Recovery,
    Unavailable,
)

from .chores import Chores
from .guard import Fault, call_driver
from .persist import persist
from .queue import DriverSupply
from .sightings import Sightings
from .values import DriverInfo

__all__ = ["DriverFactory", "Gone", "HostedDriver", "InProcess"]

T = TypeVar("T")
C = TypeVar("C", bound=Capability)

Gone = Callable[[str], None]
"""Hears why an instance can serve no more."""

START_SECONDS = 60.0
STOP_SECONDS = 30.0
DESCRIBE_SECONDS = 10.0
RECOVER_SECONDS = 30.0
HEALTH_SECONDS = 30.0
SETTLED_SECONDS = 2.0
STEADY_SECONDS = 60.0
LONGEST_PAUSE = 60.0

QUARANTINE_AFTER = 5
"""Failures in a row, of starting or watching, after which a driver is left alone until it is rearmed."""

DEGRADED_AFTER = 3
"""Faults in verbs within :data:`FAULT_WINDOW` seconds after which a driver's health is degraded."""

FAULT_WINDOW = 600.0

FAULT_LINES_PER_SECOND = 1
FAULT_LINES_AT_ONCE = 20
FAULT_WORDS = 1000
"""How much is said of faults: lines in the log at once and a second after that, and letters of the last one."""

LACKING_SECONDS = 60.0
"""How long it is remembered, while its health stays as it is, that a driver could not make a template."""

log = get_logger(__name__)


class DriverFactory(ABC):
    """Makes a new instance of a driver for each of its lives, in one of the places where a driver can stand."""

    @abstractmethod
    def live(self, gone: Gone, fault: Fault) -> AbstractAsyncContextManager[Driver]:
        """Make an instance. It serves while the block runs; when the block has been left, nothing of it is there.

        Call ``gone`` once, before any verb fails for it, when the instance ends by itself, and ``fault`` for every
        breach of its contract that a verb's caller does not see as a foreign exception. What entering raises is the
        reason why the driver cannot be made: InvalidArgument for what only the operator can mend, Unavailable for
        ground that is missing, anything else for a defect of the driver.
        """

    def facts(self) -> dict[str, str]:
        """What there is to know of this place, for people."""
        return {}

    @property
    def elsewhere(self) -> bool:
        """Whether instances stand on another machine: the end of one is then the loss of a link, and no fault."""
        return False

    @property
    def team_id(self) -> str | None:
        """The team for which alone the driver is; None for all."""
        return None

    @property
    def absent(self) -> str | None:
        """Why no instance can be made now; None when it can be tried."""
        return None

    async def present(self) -> None:
        """Return when it can be tried to make an instance."""
        await trio.lowlevel.checkpoint()


class InProcess(DriverFactory):
    """The daemon's own process: nothing stands between the daemon and the driver. ``make`` is cheap and does no I/O."""

    def __init__(self, make: Callable[[], Driver]) -> None:
        self._make = make

    def live(self, gone: Gone, fault: Fault) -> AbstractAsyncContextManager[Driver]:
        """Make an instance."""
        return nullcontext(self._make())


class _Broken(Exception):
    """This life of the driver is over. ``fault`` says that it is to blame, not the ground that it works on; ``final``
    that another life would not help."""

    def __init__(self, reason: str, *, fault: bool, final: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.fault = fault
        self.final = final


class HostedDriver:
    """One driver of the lab, wherever its factory makes it.

    ``on_change`` is called when what it can serve has changed; ``on_lost`` when a device has gone, with its id and the
    reason; ``on_stop`` when the driver itself is taken away from the work that runs on it. ``over`` is set when it is
    not hosted any more.
    """

    def __init__(
        self,
        name: str,
        factory: DriverFactory,
        *,
        store: Store,
        host: str,
        on_change: Callable[[], None],
        on_lost: Callable[[str, str], None],
        on_stop: Callable[[str, str], None],
    ) -> None:
        self.name = name
        self.description: Description | None = None
        self.state: Literal["starting", "running", "waiting", "quarantined"] = "starting"
        self.slots_used = 0
        self._factory = factory
        self._store = store
        self._on_change = on_change
        self._on_stop = on_stop
        self._driver: Driver | None = None
        self._alive = trio.CancelScope()
        self._gone: str | None = None
        self._reason: str | None = "it is starting"
        self._withdrawn: str | None = None
        self.over = trio.Event()
        self._told: str | None = ""
        self._changed = trio.Event()
        self._rearmed = trio.Event()
        self._faults: deque[float] = deque(maxlen=100)
        self._fault_count = 0
        self._last_fault = ""
        self._fault_log = Allowance(FAULT_LINES_PER_SECOND, FAULT_LINES_AT_ONCE)
        self._lacking: dict[str, tuple[float, str]] = {}
        self.sightings = Sightings(
            name,
            host=host,
            team_id=factory.team_id,
            store=store,
            fault=self.fault,
            on_change=on_change,
            on_lost=on_lost,
        )
        self._chores = Chores(self, store=store, host=host, done=on_change)
        self.sightings.on_unclean = self._chores.wake

    # ----- what others ask

    @property
    def blocked(self) -> str | None:
        """Why the driver takes no work now; None when it does."""
        if self._withdrawn is not None:
            return self._withdrawn
        if self._reason is not None:
            return self._reason
        if self.description is not None and not self.description.health.usable:
            return self.description.health.reason
        return None

    @property
    def supply(self) -> DriverSupply:
        """The driver as the scheduler sees it."""
        known = self.description
        return DriverSupply(
            name=self.name,
            platforms=frozenset(known.platforms if known else ()),
            capabilities=frozenset(known.capabilities if known else ()),
            slots=known.slots if known else 0,
            blocked=self.blocked,
            lacks={template: reason for template, (_, reason) in self._lacking.items()},
            team_id=self.team_id,
        )

    @property
    def info(self) -> DriverInfo:
        """The driver as people see it."""
        known = self.description
        health = self._health()
        return DriverInfo(
            name=self.name,
            version=known.version if known else "",
            state=self.state,
            health=health.state,
            reason=health.reason,
            platforms=known.platforms if known else (),
            capabilities=known.capabilities if known else (),
            slots=known.slots if known else 0,
            slots_used=self.slots_used,
            devices=len(self.sightings.present),
            faults=self._fault_count,
            facts={**(known.facts if known else {}), **self._factory.facts(), **self._held_back()},
            elsewhere=self.elsewhere,
            team_id=self.team_id,
        )

    @property
    def driver(self) -> Driver:
        """The living instance. Raises Unavailable when there is none."""
        if self._driver is None:
            raise Unavailable(f"the driver {self.name!r} is not ready: {self.blocked}")
        return self._driver

    @property
    def mender(self) -> Mend | None:
        """The living instance as one that knows remedies for devices in trouble; None when there is none."""
        driver: object = self._driver
        return driver if isinstance(driver, Mend) else None

    @property
    def provision(self) -> Provision:
        """The living instance as one that makes devices. Raises DriverFault when it does not."""
        driver: object = self.driver
        if isinstance(driver, Provision):
            return driver
        raise self.fault("describe", TypeError("it declares slots and does not implement Provision"))

    def require(self, capability: type[C]) -> C:
        """The living instance as one that has a capability beside sessions. Raises Unavailable, CapabilityMissing."""
        driver: object = self.driver
        if isinstance(driver, capability):
            return driver
        offered = ", ".join(self.description.capabilities) if self.description is not None else "nothing"
        raise CapabilityMissing(
            f"the driver {self.name!r} does not offer {capability.capability!r}; it offers {offered}"
        )

    def fault(self, what: str, error: BaseException) -> DriverFault:
        """Count a breach of the contract and return what the caller of the verb gets."""
        self._faults.append(trio.current_time())
        self._fault_count += 1
        message = f"the driver {self.name!r} failed in {what} with {type(error).__name__}: {str(error)[:FAULT_WORDS]}"
        self._last_fault = f"{what}: {error}"[:FAULT_WORDS]
        if self._fault_log.take():
            log.warning("driver_fault", driver=self.name, verb=what, error=repr(error)[:FAULT_WORDS])
        return DriverFault(message, driver=self.name)

    def lacks(self, template: str, reason: str) -> None:
        """Remember for a while that the driver cannot make devices of this template."""
        self._lacking[template] = (trio.current_time(), reason)
        self._on_change()

    async def call(self, what: str, limit: float, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Call the driver with a time limit, letting only errors of the interface out."""
        return await call_driver(self.fault, f"{self.name}.{what}", limit, function, *args)

    async def recover(self, handle: str) -> Recovery:
        """Ask what became of a device while the daemon was away."""
        return await self.call("recover", RECOVER_SECONDS, self.driver.recover, handle)

    async def wait_ready(self) -> None:
        """Return when the driver takes work."""
        while self._driver is None or self.blocked is not None:
            await self._changed.wait()

    async def wait_started(self) -> None:
        """Return when it is known whether the driver can serve."""
        while self.state == "starting":
            await self._changed.wait()

    @property
    def elsewhere(self) -> bool:
        """Whether the driver stands on another machine."""
        return self._factory.elsewhere

    @property
    def team_id(self) -> str | None:
        """The team for which alone the driver is; None for all."""
        return self._factory.team_id

    def rearm(self) -> None:
        """End the quarantine of the driver, and forget its faults."""
        self._faults.clear()
        self._rearmed.set()
        self._rearmed = trio.Event()

    def tidy(self) -> None:
        """Look for devices that must be cleaned or destroyed."""
        self._chores.wake()

    def trouble(self, device_id: str, reason: str) -> None:
        """Note what is wrong with a device: it is mended before it is cleaned, and cleaned when it is free."""
        self._chores.ladder.trouble(device_id, reason)

    # ----- its lives

    async def run(self, scope: trio.CancelScope) -> None:
        """Host the driver until cancelled, by ``scope`` or from outside; then stop it, within its time limit."""
        try:
            with scope:
                await self._lives()
        finally:
            self.over.set()

    def withdraw(self, reason: str) -> None:
        """Let no more work come to the driver."""
        self._withdrawn = reason
        self._on_change()

    async def _lives(self) -> None:
        failures = 0
        while True:
            if (absent := self._factory.absent) is not None:
                await self._set("waiting", absent)
                await self.sightings.note_absent(absent)
                await self._factory.present()
                await self._set("starting", "it is starting")
            started = trio.current_time()
            try:
                await self._live()
            except _Broken as broken:
                failures = 0 if trio.current_time() - started > STEADY_SECONDS else failures
                failures += 1
                if broken.final or (broken.fault and failures >= QUARANTINE_AFTER):
                    await self._quarantine(broken.reason if broken.final else _repeated(broken.reason))
                    failures = 0
                else:
                    await self._set("waiting", broken.reason)
                    if not self.elsewhere:  # another machine decides itself when it comes again
                        await trio.sleep(_pause(failures))
            await self._set("starting", "it is starting")

    async def _live(self) -> None:
        """One life: made, started, watched, stopped. Ends by _Broken or cancellation."""
        self._gone = None
        self._alive = trio.CancelScope()
        async with AsyncExitStack() as stack:
            driver = await self._make(stack)
            broken = await self._until_broken(driver)
        raise broken

    async def _make(self, stack: AsyncExitStack) -> Driver:
        try:
            return await stack.enter_async_context(self._factory.live(self._end_of_life, self.fault))
        except InvalidArgument as error:
            raise _Broken(f"it refuses its settings: {error.message}", fault=True, final=True) from error
        except AnvilError as error:
            raise _Broken(error.message, fault=not isinstance(error, Unavailable)) from error
        except Exception as error:
            raise _Broken(f"it cannot be made: {self.fault('__init__', error).message}", fault=True) from error

    def _end_of_life(self, reason: str) -> None:
        """The instance has ended by itself. Those who use it hear of it before their verbs fail."""
        log.warning("driver_gone", driver=self.name, reason=reason)
        self._fault_count += not self.elsewhere
        self._driver = None
        self._gone = self._reason = reason
        self._on_stop(self.name, reason)
        self._alive.cancel()

    async def _until_broken(self, driver: Driver) -> _Broken:
        try:
            with self._alive:
                try:
                    await self.call("start", START_SECONDS, driver.start)
                    self.description = await self._describe(driver)
                except Unavailable as error:
                    with suppress(AnvilError):  # whether there is ground to work on; the reason is told already
                        self.description = await self._describe(driver)
                    return _Broken(error.message, fault=False)
                except AnvilError as error:
                    return _Broken(error.message, fault=True)
                self._driver = driver
                self._lacking.clear()
                await self._set("running", None)
                broken = await self._serve(driver)
                self._reason = broken.reason
                return broken
            return _Broken(self._gone or "it has gone", fault=not self.elsewhere)
        finally:
            self._driver = None
            self.sightings.forget()
            self._on_stop(self.name, self._gone or self._reason or "the daemon stops")
            if self._gone is None:
                await self._stop(driver)

    async def _serve(self, driver: Driver) -> _Broken:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.sightings.run)
            nursery.start_soon(self._chores.run)
            nursery.start_soon(self._keep_described, driver)
            broken = await self._watch(driver)
            nursery.cancel_scope.cancel()
        return broken

    async def _watch(self, driver: Driver) -> _Broken:
        failures = 0
        while True:
            started = trio.current_time()
            async with trio.open_nursery() as nursery:
                if failures:
                    nursery.start_soon(self._settled)
                error = await self._watch_once(driver)
                nursery.cancel_scope.cancel()
            failures = 0 if trio.current_time() - started > STEADY_SECONDS else failures
            failures += 1
            reason = f"its watch failed: {error.message}"
            if isinstance(error, DriverFault) and failures >= QUARANTINE_AFTER:
                return _Broken(_repeated(reason), fault=True, final=True)
            await self._set("waiting", reason)
            await trio.sleep(_pause(failures))

    async def _watch_once(self, driver: Driver) -> AnvilError:
        try:
            await self.call("watch", math.inf, driver.watch, self.sightings.report)
        except AnvilError as error:
            return error
        # What is annotated NoReturn may return all the same.
        return self.fault("watch", RuntimeError("it returned; it must report for ever"))  # type: ignore[unreachable]

    async def _settled(self) -> None:
        await trio.sleep(SETTLED_SECONDS)
        await self._set("running", None)

    async def _describe(self, driver: Driver) -> Description:
        described: object = await self.call("describe", DESCRIBE_SECONDS, driver.describe)
        try:
            return msgspec.convert(msgspec.to_builtins(described), Description)
        except (msgspec.ValidationError, TypeError) as error:
            raise self.fault("describe", error) from error

    async def _keep_described(self, driver: Driver) -> None:
        """Look at the driver's health now and then. An answer that fails is itself a state of health."""
        while True:
            await trio.sleep(HEALTH_SECONDS)
            before = self.description
            try:
                self.description = await self._describe(driver)
            except AnvilError as error:
                if self.description is not None:
                    health = Health(state=HealthState.UNHEALTHY, reason=error.message)
                    self.description = msgspec.structs.replace(self.description, health=health)
            if before is None or self.description is None or before.health != self.description.health:
                self._lacking.clear()
            horizon = trio.current_time() - LACKING_SECONDS
            self._lacking = {each: known for each, known in self._lacking.items() if known[0] > horizon}
            await self._tell()
            self._chores.wake()

    async def _stop(self, driver: Driver) -> None:
        with trio.CancelScope(shield=True):
            try:
                await self.call("stop", STOP_SECONDS, driver.stop)
            except AnvilError as error:
                log.warning("driver_stop", driver=self.name, error=error.message)

    async def _quarantine(self, reason: str) -> None:
        def job(conn: Connection) -> None:
            append(conn, "driver.quarantined", subject=("driver", self.name), data={"reason": reason}, audit=True)

        rearmed = self._rearmed
        await self._set("quarantined", f"it is in quarantine: {reason}", tell=False)
        await persist(self._store, job)
        self._told = self.blocked
        await rearmed.wait()

    async def _set(
        self, state: Literal["starting", "running", "waiting", "quarantined"], reason: str | None, *, tell: bool = True
    ) -> None:
        self.state = state
        self._reason = reason
        self._on_change()
        changed, self._changed = self._changed, trio.Event()
        changed.set()
        if tell and state != "starting":
            await self._tell()

    async def _tell(self) -> None:
        """Append an event when the driver has become healthy, or unhealthy for a new reason."""
        blocked = self.blocked
        if blocked != self._told:
            self._told = blocked
            health = self._health()
            kind = "driver.healthy" if blocked is None else "driver.unhealthy"
            data = {"state": str(health.state), "reason": health.reason}
            await persist(self._store, lambda conn: append(conn, kind, subject=("driver", self.name), data=data))
        self._on_change()

    def _held_back(self) -> dict[str, str]:
        held = self.sightings.held_back
        return {"reports_held_back": str(held)} if held else {}

    def _health(self) -> Health:
        if self._reason is not None or self.description is None:
            known = self.description.health.state if self.description is not None else None
            state = HealthState.ABSENT if known is HealthState.ABSENT else HealthState.UNHEALTHY
            return Health(state=state, reason=self._reason or "it has not been described yet")
        health = self.description.health
        now = trio.current_time()
        recent = sum(1 for at in self._faults if now - at < FAULT_WINDOW)
        if recent >= DEGRADED_AFTER and health.state is HealthState.HEALTHY:
            within = f"{recent} faults in the last {FAULT_WINDOW / 60:g} minutes"
            reason = f"{within}, last in {self._last_fault}; {health.reason}"
            return Health(state=HealthState.DEGRADED, reason=reason)
        return health


def _repeated(reason: str) -> str:
    return f"it failed {QUARANTINE_AFTER} times in a row, last: {reason}"


def _pause(failures: int) -> float:
    return float(min(2 ** (failures - 1), LONGEST_PAUSE))
