"""The pure choice: which waiting run gets which free device, and why a run waits.

Order: priority, then the team with the fewest running, then age (the run's number). Nothing here touches the store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec

from anvild.sdk import DeviceRequest, DeviceStatus, Requirements

__all__ = [
    "Candidate",
    "Demand",
    "DriverSupply",
    "FreeDevice",
    "FreeSlot",
    "Lane",
    "Pick",
    "can_make",
    "choose",
    "fits",
    "fits_slot",
    "lane_of",
    "order_for",
    "why_not",
]


class Demand(msgspec.Struct, frozen=True):
    """What decides where a run can go."""

    device_id: str | None
    requirements: Requirements


class Candidate(msgspec.Struct, frozen=True):
    """A queued run as far as the choice needs it."""

    number: int
    run_id: str
    version: int
    attempt: int
    requirements: Requirements


class Lane(msgspec.Struct):
    """Queued runs that are alike: same team, priority and demand. ``candidates`` come in order of age."""

    team_id: str
    priority: int
    demand: Demand
    candidates: Iterator[Candidate]
    head: Candidate | None = None

    def advance(self) -> None:
        self.head = next(self.candidates, None)


class FreeDevice(msgspec.Struct, frozen=True):
    """A device that may be leased now (or, for :func:`why_not`, any device). ``holder`` is the person who has it, with
    the team in which they do; ``held`` is why it is held back for its own good."""

    device_id: str
    driver: str
    name: str
    platform: str | None
    capabilities: frozenset[str]
    team_id: str | None
    fence: int
    status: str = DeviceStatus.READY
    quarantine: str | None = None
    here: bool = True
    made_to_order: bool = False
    holder: str | None = None
    holder_team: str | None = None
    held: str | None = None


class DriverSupply(msgspec.Struct, frozen=True):
    """A hosted driver as far as the choice needs it. ``blocked`` is why it takes no work now, None when it does;
    ``lacks`` is why it cannot make devices of some templates, by template; ``team_id`` is for whom alone it is."""

    name: str
    platforms: frozenset[str]
    capabilities: frozenset[str]
    slots: int
    blocked: str | None
    lacks: Mapping[str, str] = {}
    team_id: str | None = None


class FreeSlot(msgspec.Struct, frozen=True):
    """A slot of a driver that makes devices."""

    driver: DriverSupply
    slot: int


class Pick(msgspec.Struct, frozen=True):
    """A run and what it gets."""

    candidate: Candidate
    team_id: str
    place: FreeDevice | FreeSlot


def lane_of(team_id: str, priority: int, demand: Demand) -> str:
    """Name the lane of a run: equal for runs that are alike to the scheduler."""
    wanted = demand.requirements
    text = "\0".join(
        (
            demand.device_id or "",
            *(",".join(sorted(part)) for part in (wanted.platforms, wanted.capabilities, wanted.drivers)),
            *sorted(f"{driver}={request.template}" for driver, request in wanted.make.items()),
        )
    )
    return f"{hashlib.blake2b(text.encode(), digest_size=10).hexdigest()}:{team_id}:{priority}"


def fits(demand: Demand, team_id: str, device: FreeDevice) -> bool:
    """Say whether a run of this team may go to this device."""
    wanted = demand.requirements
    return (
        (demand.device_id is None or demand.device_id == device.device_id)
        and (device.team_id is None or device.team_id == team_id)
        and (not wanted.platforms or device.platform in wanted.platforms)
        and (not wanted.drivers or device.driver in wanted.drivers)
        and device.capabilities.issuperset(wanted.capabilities)
    )


def order_for(wanted: Requirements, driver: str) -> DeviceRequest | None:
    """Return what a run asks a driver to make, if anything. A driver of another machine, ``NAME@HOST``, is asked as the
    one of that name here."""
    return wanted.make.get(driver) or wanted.make.get(driver.partition("@")[0])


def fits_slot(demand: Demand, driver: DriverSupply, team_id: str) -> bool:
    """Say whether a run of this team may have a device made by this driver."""
    wanted = demand.requirements
    return (
        demand.device_id is None
        and driver.team_id in (None, team_id)
        and order_for(wanted, driver.name) is not None
        and (not wanted.platforms or not driver.platforms.isdisjoint(wanted.platforms))
        and (not wanted.drivers or driver.name in wanted.drivers)
        and driver.capabilities.issuperset(wanted.capabilities)
    )


def lacking(demand: Demand, driver: DriverSupply) -> str | None:
    """Say why a driver cannot make what a run asks of it, as far as that is known; None when it may."""
    order = order_for(demand.requirements, driver.name)
    if order is None or order.template not in driver.lacks:
        return None
    return f"the driver {driver.name!r} cannot make {order.template!r}: {driver.lacks[order.template]}"


def can_make(demand: Demand, driver: DriverSupply, team_id: str) -> bool:
    """Say whether a driver makes devices that this run can have, whether or not it takes work now."""
    return fits_slot(demand, driver, team_id) and driver.slots > 0 and lacking(demand, driver) is None


def choose(
    lanes: Sequence[Lane],
    devices: Iterable[FreeDevice],
    slots: Iterable[FreeSlot],
    running: Mapping[str, int],
    limit: int,
) -> list[Pick]:
    """Match waiting runs with free places, at most ``limit``.

    Each lane's head must be set. A present device goes before a slot; of several fitting devices the least capable
    one is taken, so that the rare ones stay free for those who need them.
    """
    free = sorted(devices, key=lambda device: (len(device.capabilities), device.device_id))
    open_slots = list(slots)
    load = dict(running)
    picks: list[Pick] = []
    waiting = [lane for lane in lanes if lane.head is not None]
    while waiting and (free or open_slots) and len(picks) < limit:
        lane = min(waiting, key=lambda each: _order(each, load))
        candidate = lane.head
        place = _place(lane, free, open_slots)
        if place is None or candidate is None:
            waiting.remove(lane)
            continue
        if isinstance(place, FreeDevice):
            free.remove(place)
        else:
            open_slots.remove(place)
        picks.append(Pick(candidate, lane.team_id, place))
        load[lane.team_id] = load.get(lane.team_id, 0) + 1
        lane.advance()
        if lane.head is None:
            waiting.remove(lane)
    return picks


def why_not(
    demand: Demand, team_id: str, devices: Sequence[FreeDevice], drivers: Mapping[str, DriverSupply]
) -> str | None:
    """Say what blocks a run: the sentence that holds even if every device were idle. None when only others are in
    its way, other runs that is: nobody knows when a person lets go. ``devices`` are all devices of the lab that are not
    retired."""
    if demand.device_id is not None:
        return _why_not_device(demand, team_id, devices, drivers)
    fitting = [device for device in devices if not device.made_to_order and fits(demand, team_id, device)]
    makers = [driver for driver in drivers.values() if fits_slot(demand, driver, team_id) and driver.slots]
    obstacles = [_obstacle(device, team_id, drivers) for device in fitting]
    obstacles += [lacking(demand, driver) or _driver_obstacle(driver) for driver in makers]
    if any(obstacle is None for obstacle in obstacles):
        return None
    if obstacles:
        return _joined(obstacle for obstacle in obstacles if obstacle is not None)
    return _nothing_fits(demand.requirements, team_id, devices, drivers)


def _order(lane: Lane, load: Mapping[str, int]) -> tuple[int, int, int]:
    number = lane.head.number if lane.head is not None else 0
    return (-lane.priority, load.get(lane.team_id, 0), number)


def _place(lane: Lane, free: Sequence[FreeDevice], slots: Sequence[FreeSlot]) -> FreeDevice | FreeSlot | None:
    for device in free:
        if fits(lane.demand, lane.team_id, device):
            return device
    return next((slot for slot in slots if can_make(lane.demand, slot.driver, lane.team_id)), None)


def _obstacle(device: FreeDevice, team_id: str, drivers: Mapping[str, DriverSupply]) -> str | None:
    if device.quarantine is not None:
        return f"the device {device.name!r} is in quarantine: {device.quarantine}"
    if device.status != DeviceStatus.READY:
        return f"the device {device.name!r} is {device.status}"
    if device.holder is not None:
        holder = device.holder if device.holder_team == team_id else "somebody of another team"
        return f"the device {device.name!r} is held by {holder}"
    if device.held is not None:
        return f"the device {device.name!r} is held back: {device.held}"
    if not device.here:
        return None  # its own host knows how its driver is
    if not device.driver:
        return f"no driver reaches the device {device.name!r} yet"
    driver = drivers.get(device.driver)
    if driver is None:
        return f"the driver {device.driver!r} of the device {device.name!r} is not loaded"
    return _driver_obstacle(driver)


def _driver_obstacle(driver: DriverSupply) -> str | None:
    return None if driver.blocked is None else f"the driver {driver.name!r} is not ready: {driver.blocked}"


def _why_not_device(
    demand: Demand, team_id: str, devices: Sequence[FreeDevice], drivers: Mapping[str, DriverSupply]
) -> str | None:
    device = next((each for each in devices if each.device_id == demand.device_id), None)
    if device is None:
        return "the requested device is not in the lab any more"
    obstacle = _obstacle(device, team_id, drivers)
    if obstacle is not None:
        return obstacle
    if device.made_to_order:
        return f"the requested device {device.name!r} was made to order and goes with its lease"
    if fits(demand, team_id, device):
        return None
    missing = sorted(set(demand.requirements.capabilities) - device.capabilities)
    if missing:
        return f"the requested device {device.name!r} does not offer {', '.join(missing)}"
    return f"the requested device {device.name!r} does not fit the run's platforms, drivers or team"


def _nothing_fits(
    wanted: Requirements, team_id: str, devices: Sequence[FreeDevice], drivers: Mapping[str, DriverSupply]
) -> str:
    visible = [each for each in devices if not each.made_to_order and each.team_id in (None, team_id)]
    makers = [driver for driver in drivers.values() if driver.slots and order_for(wanted, driver.name) is not None]
    if not visible and not makers:
        return "no device is attached to the lab and no driver makes one for this run"
    offered: set[str] = set().union(*(d.capabilities for d in visible), *(d.capabilities for d in makers))
    missing = [name for name in wanted.capabilities if name not in offered]
    if missing:
        return f"no device offers the capability {' or '.join(map(repr, missing))}"
    if wanted.drivers and not any(name in drivers for name in wanted.drivers):
        return f"no driver {' or '.join(map(repr, wanted.drivers))} is loaded"
    if wanted.platforms:
        return f"no device of the platform {' or '.join(map(repr, wanted.platforms))} offers all that the run needs"
    return "no device offers all that the run needs"


def _joined(obstacles: Iterable[str]) -> str:
    distinct = sorted(set(obstacles))
    more = f" (and {len(distinct) - 3} more)" if len(distinct) > 3 else ""
    return "; ".join(distinct[:3]) + more


PageOf = Callable[[str, int], Sequence[Candidate]]


def paged(page: PageOf, lane: str, first: Candidate) -> Iterator[Candidate]:
    """Walk a lane from its head, reading further pages only when they are needed."""
    last = first
    yield first
    while batch := page(lane, last.number):
        yield from batch
        last = batch[-1]
