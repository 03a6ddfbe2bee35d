"""A lease being used by this process: its device is made if need be, sessions are opened on it, and at the end it is
cleaned or destroyed before anybody else may have it."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import msgspec
import trio
from sqlalchemy import Connection, update

from anvild.core.logging import get_logger
from anvild.core.store import Store
from anvild.sdk import (
    AnvilError,
    DeadlineExceeded,
    DeviceFact,
    DeviceLost,
    DeviceRequest,
    DeviceStatus,
    InvalidArgument,
    Lease,
    RecoveryState,
    ResourceExhausted,
    Session,
    Suspend,
    Unavailable,
)

from .chores import CLEAN_SECONDS, DESTROY_SECONDS
from .claims import free_slot
from .devices import device_event, device_row, facts_of
from .guard import Fences, Guard, guarded
from .hosting import HostedDriver
from .leases import Fate, leave_slot, take_slot, takes_slot
from .persist import persist
from .tables import devices
from .values import LeaseInfo

__all__ = ["OpenSession", "Tenure"]

CREATE_SECONDS = 120.0
OPEN_SECONDS = 60.0
CLOSE_SECONDS = 30.0
SUSPEND_SECONDS = 120.0
RESUME_SECONDS = 120.0

SIGHT_SECONDS = 10.0
"""How long a found device may take to be seen again."""

log = get_logger(__name__)


class OpenSession:
    """A session that a task of its own holds open. ``broken`` is called when it ends by itself."""

    def __init__(self, tenure: Tenure, broken: Callable[[AnvilError], None]) -> None:
        self.session: Session | None = None
        self._tenure = tenure
        self._broken = broken
        self._let_go = trio.Event()
        self._closed = trio.Event()

    async def hold(self, task_status: trio.TaskStatus[Session]) -> None:
        """Open the session, tell it as started, and close it when asked to, each within its time limit."""
        hosted, lease = self._tenure.hosted, self._tenure.lease
        try:
            with trio.CancelScope(deadline=trio.current_time() + OPEN_SECONDS) as scope:
                right = Lease(lease_id=lease.id, fence=lease.fence, holder=lease.holder)
                async with hosted.driver.open(self._tenure.fact, right) as session:
                    scope.deadline = math.inf
                    self.session = self._tenure.guard(session)
                    task_status.started(self.session)
                    await self._let_go.wait()
                    scope.deadline = trio.current_time() + CLOSE_SECONDS
        except Exception as error:
            self._ended_by(error)
        else:
            if scope.cancelled_caught:
                self._ended_by(DeadlineExceeded(f"the driver {hosted.name!r} did not open or close a session in time"))
        finally:
            self._tenure.forget(self)
            self._closed.set()

    async def close(self) -> bool:
        """Close the session; False when the driver does not let go of it in time."""
        self._let_go.set()
        with trio.move_on_after(CLOSE_SECONDS + 5):
            await self._closed.wait()
        return self._closed.is_set()

    def _ended_by(self, error: Exception) -> None:
        known = _interface_error(error)
        if known is None:
            known = self._tenure.hosted.fault("open" if self.session is None else "session", error)
        if self.session is None:
            raise known from error
        if self._let_go.is_set():
            log.warning("session_close", driver=self._tenure.hosted.name, error=known.message)
        else:
            self._broken(known)


class Tenure:
    """What this process does with one lease, from its first use to the device's fate."""

    def __init__(
        self, hosted: HostedDriver, lease: LeaseInfo, fact: DeviceFact, *, store: Store, fences: Fences
    ) -> None:
        self.hosted = hosted
        self.lease = lease
        self.fact = fact
        self.made_to_order = lease.slot is not None
        self.lost: str | None = None
        self._store = store
        self._fences = fences
        self._open: set[OpenSession] = set()
        fences.set(lease.device_id, lease.fence)

    async def make(self, request: DeviceRequest) -> None:
        """Have the device made, unless it is there already, and write what the driver says of it."""
        wanted = msgspec.structs.replace(request, identity=self.fact.identity)
        made = await self.hosted.call("create", CREATE_SECONDS, self.hosted.provision.create, wanted)
        try:
            self.fact = _check_made(made, self.fact.identity)
        except InvalidArgument as error:
            raise self.hosted.fault("create", error) from error
        await self.write_fact()

    async def write_fact(self) -> None:
        """Write what the driver says of the device now."""
        fact, device_id = self.fact, self.lease.device_id

        def job(conn: Connection) -> None:
            row = device_row(conn, device_id)
            if row.status != DeviceStatus.RETIRED:
                conn.execute(update(devices).where(devices.c.id == device_id).values(**facts_of(fact)))
                if row.status != fact.status:
                    device_event(conn, row, "changed", status=fact.status, changed=["status"])

        await persist(self._store, job)

    async def open(self, nursery: trio.Nursery, broken: Callable[[AnvilError], None]) -> OpenSession:
        """Open a guarded session; it is held in ``nursery``. Raises what the driver says, Unavailable, DriverFault."""
        opened = OpenSession(self, broken)
        self._open.add(opened)
        try:
            await nursery.start(opened.hold)
        except BaseException:
            self._open.discard(opened)
            raise
        return opened

    def forget(self, opened: OpenSession) -> None:
        """A session has been closed."""
        self._open.discard(opened)

    @property
    def aside(self) -> bool:
        """Whether the driver keeps the device aside: its memory is on disk, and it takes no session."""
        return self.made_to_order and self.fact.status is DeviceStatus.OFFLINE

    async def suspend(self) -> None:
        """End all sessions, have the device put aside, and free its slot.

        Raises CapabilityMissing, Unavailable, and what the driver says; then the device goes on, without sessions.
        """
        suspend = self.hosted.require(Suspend).suspend
        await self.close_sessions()
        await self._moved("suspend", SUSPEND_SECONDS, suspend)
        await self._leave_slot()

    async def resume(self) -> None:
        """Take a slot and bring the device back from aside.

        Raises ResourceExhausted when no slot is free, CapabilityMissing, Unavailable, and what the driver says; then
        the device stays aside.
        """
        resume = self.hosted.require(Suspend).resume
        await self._take_slot()
        try:
            await self._moved("resume", RESUME_SECONDS, resume)
        except AnvilError:
            await self._leave_slot()
            raise

    async def survived(self) -> tuple[bool, str]:
        """Ask the driver, which was away, whether the device runs on, and return that with the reason for thinking so.

        Raises Unavailable when the driver is away again, and what else it says.
        """
        if self.fact.handle is None:
            if self.made_to_order:
                return False, "it was not finished when the daemon ended"
            with trio.move_on_after(SIGHT_SECONDS):
                await self.hosted.sightings.wait_present(self.fact.identity)
                return True, "its driver sees it"
            return False, "its driver does not see it"
        answer = await self.hosted.recover(self.fact.handle)
        if answer.state is not RecoveryState.RUNNING:
            return False, answer.reason
        if answer.device is not None and answer.device.identity == self.fact.identity:
            self.fact = answer.device
            await self.write_fact()
        return True, answer.reason

    async def fit_slot(self) -> None:
        """Have a slot, or none, as it fits a device that has outlived the absence of its driver: what the driver was
        doing with it then may have been done all the same.

        A device that came back from aside, and for which no slot is free now, is put aside again. Raises what the
        driver says.
        """
        if self.aside and takes_slot(self.lease):
            await self._leave_slot()
        elif self.made_to_order and not self.aside and not takes_slot(self.lease):
            try:
                await self._take_slot()
            except ResourceExhausted:
                await self._moved("suspend", SUSPEND_SECONDS, self.hosted.require(Suspend).suspend)

    async def close_sessions(self) -> None:
        """End all sessions."""
        for opened in list(self._open):
            await opened.close()

    async def _take_slot(self) -> None:
        slots = self.hosted.description.slots if self.hosted.description is not None else 0
        host, driver = self.lease.host, self.lease.driver
        self.lease = await self._store.write(
            lambda conn: take_slot(conn, self.lease, free_slot(conn, host, driver, slots))
        )
        self.hosted.slots_used += 1

    async def _leave_slot(self) -> None:
        self.lease = await persist(self._store, lambda conn: leave_slot(conn, self.lease))
        self.hosted.slots_used -= 1

    async def _moved(self, what: str, limit: float, verb: Callable[[str], Awaitable[DeviceFact]]) -> None:
        told = await self.hosted.call(what, limit, verb, self.fact.identity)
        try:
            self.fact = _check_made(told, self.fact.identity)
        except InvalidArgument as error:
            raise self.hosted.fault(what, error) from error
        await self.write_fact()

    def guard(self, session: Session) -> Session:
        """Put a session of this lease behind its guard."""
        guard = Guard(
            device=self.fact.name,
            device_id=self.lease.device_id,
            fence=self.lease.fence,
            fences=self._fences,
            fault=self.hosted.fault,
        )
        return guarded(session, guard, frozenset(self.fact.capabilities))

    async def finish(self) -> Fate:
        """End all use of the device and bring it back to a clean state. Returns what has become of it.

        From its start on every verb is refused. A driver that is away now cleans the device when it is back.
        """
        self._fences.end(self.lease.device_id, self.lease.fence)
        stuck = False
        for opened in list(self._open):
            stuck = not await opened.close() or stuck
        if self.made_to_order:
            return await self._destroy()
        if stuck:
            return Fate(
                quarantine=f"the driver {self.hosted.name!r} did not close a session within {CLOSE_SECONDS:g} s"
            )
        if self.lost is not None:
            return Fate(unclean=True)
        try:
            await self.hosted.call("clean", CLEAN_SECONDS, self.hosted.driver.clean, self.fact)
        except (DeviceLost, Unavailable):
            return Fate(unclean=True)
        except AnvilError as error:
            reason = f"cleaning failed: {error.message}"
            if self.hosted.mender is None:
                return Fate(quarantine=reason)
            self.hosted.trouble(self.lease.device_id, reason)
            return Fate(unclean=True)
        return Fate()

    async def _destroy(self) -> Fate:
        try:
            await self.hosted.call("destroy", DESTROY_SECONDS, self.hosted.provision.destroy, self.fact.identity)
        except AnvilError as error:
            log.warning("destroy_put_off", device=self.lease.device_id, reason=error.message)
            return Fate(unclean=True)
        return Fate(gone=True)


def _check_made(fact: object, identity: str) -> DeviceFact:
    """Check what a driver's ``create`` returned. Raises InvalidArgument."""
    try:
        made = msgspec.convert(msgspec.to_builtins(fact), DeviceFact)
    except (msgspec.ValidationError, TypeError) as error:
        raise InvalidArgument(f"it returned something else than a device: {error}") from error
    if made.identity != identity:
        raise InvalidArgument(f"it returned the device {made.identity!r} in place of {identity!r}")
    return made


def _interface_error(error: BaseException) -> AnvilError | None:
    if isinstance(error, AnvilError):
        return error
    if isinstance(error, BaseExceptionGroup):
        return next((known for inner in error.exceptions if (known := _interface_error(inner)) is not None), None)
    return None
