"""The life of capsules: made, paused, resumed, destroyed; all of it goes on behind the answer to who asked."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Any

import msgspec
import trio
from sqlalchemy import Connection

from anvild.core.clock import utcnow
from anvild.core.engine import Actor, Engine, LeaseInfo
from anvild.core.engine.people import Holding
from anvild.core.errors import Conflict, InvalidRequest
from anvild.core.events import EventLog
from anvild.core.ids import new_id
from anvild.core.logging import get_logger
from anvild.sdk import (
    AnvilError,
    CapabilityMissing,
    DeviceFact,
    DeviceRequest,
    DeviceStatus,
    Event,
    NetworkPolicy,
    NotFound,
    ResourceExhausted,
    Session,
    Suspend,
    Unavailable,
)
from anvild.web.kept import keep_open
from anvild.web.request import ByteStream

from .book import SYSTEM, Book, add
from .errors import InvalidState
from .ids import to_wire
from .live import Live
from .metrics import Metrics, Point, once_a_second
from .network import Networks
from .templates import MEGABYTE, Templates
from .values import ALIVE, Capsule, Order, Template

__all__ = ["Capsules", "device_request"]

VCPUS = 1
MEMORY_MB = 512
LARGEST_DISK_MB = 5120
SHORTEST_TIMEOUT = 60
PATIENCE_SECONDS = 1.0
NOTE_EVERY = timedelta(seconds=5)
"""How exactly it is written when a capsule was last used."""

HOST_FAILURE = "host_failure"
"""The reason of a capsule that is missing."""

log = get_logger(__name__)


class Capsules:
    """The capsules of this daemon. Whether somebody may is the caller's question; another team's look missing. Where a
    team is None, the capsules of all are meant.

    :meth:`run` must be running for anything but looking.
    """

    def __init__(
        self,
        engine: Engine,
        events: EventLog,
        book: Book,
        templates: Templates,
        metrics: Metrics,
        networks: Networks,
    ) -> None:
        self._engine = engine
        self._events = events
        self._book = book
        self._templates = templates
        self._metrics = metrics
        self._networks = networks
        self._nursery: trio.Nursery | None = None
        self._live: dict[str, Live] = {}
        self._leases: dict[str, str] = {}
        self._looking = trio.Lock()

    async def run(self) -> None:
        """Take up what an earlier daemon has left, and look after all capsules until cancelled."""
        forget = self._events.on_commit(self._hear)
        try:
            async with trio.open_nursery() as nursery:
                for capsule in await self._book.alive():
                    self._leases[capsule.lease_id] = capsule.id
                    nursery.start_soon(self._adopt, capsule)
                self._nursery = nursery
                await trio.sleep_forever()
        finally:
            self._nursery = None
            self._live.clear()
            forget()

    # ----- what people ask

    async def create(self, team_id: str, order: Order, by: Actor) -> Capsule:
        """Begin to make a capsule at the best place that takes it, and return it as it begins.

        Raises NotFound for an unknown template, InvalidRequest for a size or network that cannot be, ResourceExhausted
        when no slot is free, CapabilityMissing for what its driver cannot do, Unavailable.
        """
        nursery = self._running()
        refusal: AnvilError | None = None
        for template in await self._templates.places(order.template, team_id):
            try:
                capsule, holding = await self._begin(team_id, order, template, by)
            except (ResourceExhausted, CapabilityMissing, Unavailable) as error:
                refusal = refusal or error
                continue
            self._leases[capsule.lease_id] = capsule.id
            nursery.start_soon(self._finish_making, capsule, holding, by)
            return capsule
        assert refusal is not None
        raise refusal

    async def _begin(self, team_id: str, order: Order, template: Template, by: Actor) -> tuple[Capsule, Holding]:
        """Take a slot for a capsule in one place. Raises as :meth:`create`."""
        timeout = max(order.timeout_sec, SHORTEST_TIMEOUT) if order.timeout_sec else 0
        if timeout:
            self._check_pausable(template.driver)
        capsule_id = new_id()
        now = utcnow()
        network = self._networks.choose(order.network, template.driver)
        policy = self._networks.policy(network)
        request = device_request(to_wire("cl", capsule_id), capsule_id, template, order, policy)
        holder = msgspec.structs.replace(by, team_id=team_id)
        made: list[Capsule] = []

        def enter(conn: Connection, lease: LeaseInfo) -> None:
            capsule = Capsule(
                id=capsule_id,
                team_id=team_id,
                created_by=by.actor,
                status="starting",
                driver=template.driver,
                device_id=lease.device_id,
                lease_id=lease.id,
                template=template.name,
                vcpus=request.vcpus or template.vcpus,
                memory_mb=(request.memory or template.memory_mb * MEGABYTE) // MEGABYTE,
                disk_size_mb=(request.disk or template.disk_mb * MEGABYTE) // MEGABYTE or None,
                timeout_sec=timeout,
                metadata=order.metadata,
                network=network,
                created_at=now,
                updated_at=now,
            )
            add(conn, capsule)
            made[:] = [capsule]

        try:
            holding = await self._engine.leases.begin(
                template.driver, request, holder, duration=math.inf, identity=capsule_id, also=enter
            )
        except Conflict as error:
            raise Unavailable(error.message) from None
        return made[0], holding

    async def list(self, team_id: str | None) -> Sequence[Capsule]:
        """Return the capsules of a team that have not ended, newest first."""
        return [self._as_used(capsule) for capsule in await self._book.list(team_id)]

    async def get(self, team_id: str | None, capsule_id: str) -> Capsule:
        """Return a capsule of a team, ended or not. Raises NotFound."""
        return self._as_used(await self._book.get(capsule_id, team_id))

    async def destroy(self, team_id: str | None, capsule_id: str, by: Actor) -> None:
        """Begin to end a capsule, whatever its state. One that is ending or has ended is no error. Raises NotFound."""
        nursery = self._running()
        capsule = await self._book.get(capsule_id, team_id)
        with suppress(InvalidState):
            await self._book.begin(capsule, [state for state in ALIVE if state != "stopping"], "stopping")
            nursery.start_soon(self._end, capsule, by)

    async def end(self, capsules: Iterable[Capsule], by: Actor) -> None:
        """End capsules, whatever their state, and return when they have ended."""
        async with trio.open_nursery() as nursery:
            for capsule in capsules:
                with suppress(InvalidState):  # it has ended, or is ending
                    stopping = await self._book.begin(
                        capsule, [state for state in ALIVE if state != "stopping"], "stopping"
                    )
                    nursery.start_soon(self._end, stopping, by)

    def go_on_ending(self, capsules: Iterable[Capsule], by: Actor) -> None:
        """Go on with capsules that have been taken to ``stopping`` in the store. A daemon that ends before does so when
        it starts again."""
        if self._nursery is not None:
            for capsule in capsules:
                self._nursery.start_soon(self._end, capsule, by)

    async def pause(self, team_id: str, capsule_id: str, by: Actor, *, reason: str | None = None) -> Capsule:
        """Begin to put a running capsule aside on disk. Raises NotFound, InvalidState, CapabilityMissing."""
        nursery = self._running()
        capsule = await self._book.get(capsule_id, team_id)
        self._check_pausable(capsule.driver)
        capsule = await self._book.begin(capsule, ["running"], "pausing")
        self._close(capsule.id)
        nursery.start_soon(self._suspend, capsule, by, reason)
        return self._as_used(capsule)

    async def resume(self, team_id: str, capsule_id: str, by: Actor) -> Capsule:
        """Begin to bring a paused capsule back. Raises NotFound, InvalidState, Unavailable while its host is away."""
        nursery = self._running()
        capsule = await self._book.get(capsule_id, team_id)
        if capsule.status == "paused" and self._is_away(capsule):
            raise Unavailable("the host of the capsule is away")
        capsule = await self._book.begin(capsule, ["paused"], "resuming")
        nursery.start_soon(self._resume, capsule, by)
        return capsule

    async def ping(self, team_id: str, capsule_id: str) -> None:
        """Note that a running capsule is in use. Raises NotFound, InvalidState."""
        live = await self._live_of(team_id, capsule_id)
        live.touch()
        await self._note_use(capsule_id, live)

    async def metrics(self, team_id: str | None, capsule_id: str) -> tuple[Capsule, Sequence[Sequence[Point]]]:
        """Return the metrics of a capsule that runs or is paused, with it. Raises NotFound."""
        capsule = await self._book.get(capsule_id, team_id)
        if capsule.status == "running":
            return capsule, await self._metrics.of(capsule_id)
        if capsule.status == "paused":
            return capsule, [once_a_second(points) for points in await self._metrics.of(capsule_id)]
        raise NotFound(f"the capsule is {capsule.status}, and has no metrics")

    @asynccontextmanager
    async def use(self, team_id: str | None, capsule_id: str, *, busy: bool = True) -> AsyncIterator[Session]:
        """A session on a running capsule, which counts as being used: while the block runs, or (not ``busy``) once.

        Raises NotFound, InvalidState, and what the driver says.
        """
        live = await self._live_of(team_id, capsule_id)
        await self._note_use(capsule_id, live)
        async with live.use(busy=busy) as session:
            yield session

    def touch(self, capsule_id: str) -> None:
        """Somebody uses a capsule now. What runs is told apart from what is idle by it; it is not written down."""
        live = self._live.get(capsule_id)
        if live is not None:
            live.touch()

    async def note_use(self, capsule_id: str) -> None:
        """Note that a capsule that is in use has been used now."""
        live = self._live.get(capsule_id)
        if live is not None:
            live.touch()
            await self._note_use(capsule_id, live)

    async def keep_open(self, source: ByteStream) -> ByteStream:
        """Open what an answer sends; see :func:`anvild.web.kept.keep_open`."""
        return await keep_open(self._running(), source)

    # ----- what goes on behind the answers

    async def _finish_making(self, capsule: Capsule, holding: Holding, by: Actor) -> None:
        try:
            await holding.usable()
        except AnvilError as error:
            await self._book.settle(
                capsule.id, ["starting"], "error", action="create", by=by, reason=error.message, failed=True
            )
            self._leases.pop(capsule.lease_id, None)
        else:
            told = _told_of(holding.tenure.fact)
            await self._runs(capsule, "create", by, metadata={**(capsule.metadata or {}), **told} or None)

    async def _runs(self, capsule: Capsule, action: str, by: Actor, **values: Any) -> None:
        now = utcnow()
        if capsule.started_at is None:
            values["started_at"] = now
        moved = await self._book.settle(
            capsule.id, [capsule.status], "running", action=action, by=by, last_active_at=now, **values
        )
        if moved is not None:
            await self._go_on(moved)

    async def _suspend(self, capsule: Capsule, by: Actor, reason: str | None) -> None:
        await self._metrics.end(capsule.id)
        try:
            await self._engine.leases.suspend(capsule.lease_id)
        except AnvilError as error:
            moved = await self._book.settle(
                capsule.id, ["pausing"], "running", action="pause", by=by, reason=error.message, failed=True
            )
            if moved is not None:
                await self._go_on(moved)
        else:
            await self._book.settle(capsule.id, ["pausing"], "paused", action="pause", by=by, reason=reason)

    async def _resume(self, capsule: Capsule, by: Actor) -> None:
        try:
            await self._engine.leases.resume(capsule.lease_id)
        except AnvilError as error:
            await self._book.settle(
                capsule.id, ["resuming"], "paused", action="resume", by=by, reason=error.message, failed=True
            )
        else:
            await self._runs(capsule, "resume", by)

    async def _end(self, capsule: Capsule, by: Actor) -> None:
        self._close(capsule.id)
        await self._metrics.end(capsule.id)
        await self._engine.leases.settled(capsule.device_id)
        with suppress(NotFound):  # its lease has ended already
            await self._engine.leases.release(capsule.lease_id)
        await self._book.settle(capsule.id, ["stopping"], "stopped", action="destroy", by=by)
        self._leases.pop(capsule.lease_id, None)

    async def _pause_idle(self, capsule: Capsule) -> None:
        try:
            await self.pause(capsule.team_id, capsule.id, SYSTEM, reason="ttl_expired")
        except InvalidState:
            pass  # something else happens with it just now
        except AnvilError as error:
            log.warning("capsule_not_paused", capsule=capsule.id, reason=error.message)

    async def _adopt(self, capsule: Capsule) -> None:
        """Take up a capsule of an earlier daemon, however long the store makes us wait."""
        while True:
            try:
                await self._take_up(capsule)
            except Unavailable as error:
                log.warning("capsule_waits", capsule=capsule.id, reason=error.message)
                await trio.sleep(PATIENCE_SECONDS)
            else:
                await self._end_orphans()  # of teams that were deleted just before that daemon ended
                return

    async def _take_up(self, capsule: Capsule) -> None:
        """Say what became of a capsule, and go on with it in the state that its device is in."""
        lease = await self._engine.leases.on(capsule.device_id)
        if capsule.status == "stopping":
            await self._end(capsule, SYSTEM)
        elif lease is None or lease.id != capsule.lease_id:
            await self._lost(capsule.id, "it has not outlived a restart of the daemon")
        elif (await self._engine.devices.get(capsule.device_id)).status is DeviceStatus.OFFLINE:
            await self._book.settle(capsule.id, [capsule.status], "paused")
        elif self._is_away(capsule):
            await self._book.settle(capsule.id, [capsule.status], "missing", reason=HOST_FAILURE)
            await self._look_for(capsule.id, capsule.lease_id)  # its host may have come back meanwhile
        else:
            moved = await self._book.settle(capsule.id, [capsule.status], "running")
            if moved is not None:
                await self._go_on(moved)

    async def _end_orphans(self) -> None:
        """End the capsules of teams that have been deleted."""
        for capsule in await self._book.orphans():
            try:
                await self.destroy(capsule.team_id, capsule.id, SYSTEM)
            except AnvilError as error:
                log.warning("capsule_left", capsule=capsule.id, reason=error.message)  # the next start looks again

    def _hear(self, events: Sequence[Event]) -> None:
        """Take note of leases that have ended, whoever ended them, of machines that have gone or come back, and of
        teams that were deleted."""
        for event in events:
            if self._nursery is None:
                return
            if event.kind == "team.deleted":
                self._nursery.start_soon(self._end_orphans)
                continue
            capsule_id = self._leases.get(event.subject_id) if event.subject_type == "lease" else None
            if capsule_id is None:
                continue
            if event.kind == "lease.released":
                reason = str(event.data.get("reason"))
                self._nursery.start_soon(self._lost, capsule_id, f"its machine has gone: {reason}")
            elif event.kind in ("lease.away", "lease.back"):
                self._nursery.start_soon(self._look_for, capsule_id, event.subject_id)

    async def _go_on(self, capsule: Capsule) -> None:
        """A capsule runs, unless its host has gone just then."""
        self._go_live(capsule)
        if self._is_away(capsule):
            await self._look_for(capsule.id, capsule.lease_id)

    async def _look_for(self, capsule_id: str, lease_id: str) -> None:
        """Take a running capsule whose host is away to ``missing``, and one that was missing back.

        What counts is how it is now and not what was told: one look after the last change is enough.
        """
        async with self._looking:
            leases = self._engine.leases
            with suppress(NotFound):  # its lease has ended, and that is told of
                if leases.away(lease_id) is not None:
                    await self._book.settle(capsule_id, ["running"], "missing", reason=HOST_FAILURE)
                    self._close(capsule_id)
                    await self._metrics.end(capsule_id)
                elif leases.aside(lease_id):
                    await self._book.settle(capsule_id, ["missing"], "paused")
                else:
                    now = utcnow()
                    moved = await self._book.settle(capsule_id, ["missing"], "running", last_active_at=now)
                    if moved is not None:
                        self._go_live(moved)

    async def _lost(self, capsule_id: str, reason: str) -> None:
        """End what has gone by itself. What is being made or ended tells of that itself."""
        self._close(capsule_id)
        await self._metrics.end(capsule_id)
        where = [state for state in ALIVE if state not in ("starting", "stopping")]
        await self._book.settle(capsule_id, where, "error", action="destroy", reason=reason, failed=True)

    # ----- parts

    def _running(self) -> trio.Nursery:
        if self._nursery is None:
            raise Unavailable("the daemon is starting or stopping")
        return self._nursery

    def _check_pausable(self, driver: str) -> None:
        if Suspend.capability not in self._engine.driver(driver).info.capabilities:
            raise CapabilityMissing(
                f"the driver {driver!r} cannot put capsules aside on disk, so they cannot be paused"
            )

    async def _live_of(self, team_id: str | None, capsule_id: str) -> Live:
        self._running()
        live = self._live.get(capsule_id)
        if live is not None and team_id in (None, live.team_id):
            return live  # it runs, as this process knows without the book
        capsule = await self._book.get(capsule_id, team_id)
        if capsule.status == "missing":
            raise Unavailable("the host of the capsule is away")
        if capsule.status != "running":
            raise InvalidState(f"the capsule is {capsule.status}; this needs one that is running")
        return self._go_live(capsule)

    def _is_away(self, capsule: Capsule) -> bool:
        try:
            return self._engine.leases.away(capsule.lease_id) is not None
        except NotFound:
            return False

    def _go_live(self, capsule: Capsule) -> Live:
        live = self._live.get(capsule.id)
        if live is None:
            nursery = self._running()
            idle = partial(nursery.start_soon, self._pause_idle, capsule)
            live = self._live[capsule.id] = Live(capsule, self._engine.leases, self._metrics, nursery, idle)
        return live

    def _close(self, capsule_id: str) -> None:
        live = self._live.pop(capsule_id, None)
        if live is not None:
            live.close()

    def _as_used(self, capsule: Capsule) -> Capsule:
        """Return a capsule with the moment of its last use, which is written later."""
        live = self._live.get(capsule.id)
        if live is None or live.last_active_at is None:
            return capsule
        return msgspec.structs.replace(capsule, last_active_at=live.last_active_at)

    async def _note_use(self, capsule_id: str, live: Live) -> None:
        now = utcnow()
        if live.noted_at is None or now - live.noted_at >= NOTE_EVERY:
            live.noted_at = now
            await self._book.note_use(capsule_id, now)


def _told_of(fact: DeviceFact) -> Mapping[str, str]:
    """Return what is told of a capsule's machine beside what its maker has told: how old its line of clones is, too."""
    known = {
        "kernel_version": fact.firmware_version,
        "vmm_version": fact.facts.get("vmm"),
        "clone_generation": fact.facts.get("generation"),
    }
    return {name: value for name, value in known.items() if value}


def device_request(
    name: str, identity: str, template: Template, order: Order, network: NetworkPolicy | None = None
) -> DeviceRequest:
    """Return what a driver is asked for. Raises InvalidRequest, CapabilityMissing."""
    request = DeviceRequest(
        template=template.reference,
        name=name,
        identity=identity,
        environment=dict(template.environment),
        user=template.account,
        network=network,
    )
    if not template.memory:  # one with memory fixes the sizes
        disk = None
        if order.disk_size_mb is not None and order.disk_size_mb > 0:
            if not template.disk_mb:
                raise CapabilityMissing(
                    f"capsules of {template.name!r} share their host's disk and have no limit of their own: leave "
                    "disk_size_mb out"
                )
            disk = max(min(order.disk_size_mb, LARGEST_DISK_MB), template.disk_mb) * MEGABYTE
        vcpus = order.vcpus if order.vcpus and order.vcpus > 0 else VCPUS
        memory_mb = order.memory_mb if order.memory_mb and order.memory_mb > 0 else MEMORY_MB
        request = msgspec.structs.replace(request, vcpus=vcpus, memory=memory_mb * MEGABYTE, disk=disk)
    try:
        return msgspec.convert(msgspec.to_builtins(request), DeviceRequest)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"a capsule of this size cannot be: {error}") from None
