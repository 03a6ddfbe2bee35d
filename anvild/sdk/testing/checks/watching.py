"""Rules about devices that appear, go and come back."""

from __future__ import annotations

import re
from pathlib import Path

import trio

from ...capabilities import Exec, Files, Rehearsal
from ...errors import DeviceLost, NotFound, Unavailable, WrongState
from ...values import DeviceFact, DeviceStatus, Sighting
from ..bench import Bench
from ..rules import Level, NotApplicable, require
from ..trying import described, leaf, limited, refused, valid
from .book import BOOK

ADDRESS = re.compile(r"^/|^[\w.\[\]:-]+:\d{2,5}$")
LOST_SECONDS = 5.0


@BOOK.rule("watch.appears", Level.BRONZE)
async def appears(bench: Bench) -> None:
    """A device is reported, or made to order, and is ready."""
    device = await bench.device()
    valid(device, DeviceFact, "the driver")
    require(device.status is DeviceStatus.READY, f"the device is {device.status}")


@BOOK.rule("watch.endless", Level.BRONZE)
async def endless(bench: Bench) -> None:
    """`watch` neither returns nor raises while the driver lives."""
    await bench.device()
    require(bench.life.error is None, f"watch raised {bench.life.error!r}")
    require(not bench.life.watching_ended, "watch returned")


@BOOK.rule("watch.facts", Level.BRONZE)
async def facts(bench: Bench) -> None:
    """What is reported has its types, is of a platform of the driver, and declares capabilities that the driver
    declares."""
    device = await bench.device()
    told = bench.description
    for sighting in bench.life.sightings:
        valid(sighting, Sighting, "watch")
    for each in (device, *bench.life.present.values()):
        require(each.platform in told.platforms, f"{each.identity} is of the platform {each.platform!r}")
        more = set(each.capabilities) - set(told.capabilities)
        require(not more, f"{each.identity} declares more than its driver: {', '.join(sorted(more))}")


@BOOK.rule("watch.identity", Level.SILVER)
async def identity(bench: Bench) -> None:
    """An identity is a serial or the like, never a path or a network address."""
    for each in (await bench.device(), *bench.life.present.values()):
        found = each.identity
        require(not ADDRESS.search(found) and not Path(found).is_absolute(), f"{found!r} is a path or an address")


@BOOK.rule("watch.same-after-restart", Level.SILVER)
async def same_after_restart(bench: Bench) -> None:
    """After a restart of the driver the same device is there, with the same identity."""
    device = await bench.device()
    if bench.makes:
        raise NotApplicable("the device is made to order: recover.handle is about it")
    await bench.restart()
    identity, seconds = device.identity, bench.profile.appear_seconds
    found = await bench.life.until(
        lambda: bench.life.present.get(identity), seconds, f"the device {identity!r} was not reported again"
    )
    require(found.platform == device.platform, f"its platform is {found.platform!r} now")


@BOOK.of(Rehearsal, "goes-and-comes", Level.SILVER)
async def goes_and_comes(bench: Bench, rehearsal: Rehearsal) -> None:
    """A device that is pulled off is reported as lost or offline, and one that comes back as ready, with the same
    identity."""
    device = await bench.device()
    for _ in range(3):
        await _unplug(bench, rehearsal, device)
        await _plug(bench, rehearsal, device)
    async with bench.session():
        pass


@BOOK.of(Rehearsal, "twice", Level.SILVER)
async def twice(bench: Bench, rehearsal: Rehearsal) -> None:
    """Pulling off twice and bringing back twice is no error; a device that there is not, is."""
    device = await bench.device()
    await _unplug(bench, rehearsal, device)
    await limited("unplug", 30, lambda: rehearsal.unplug(device.identity))
    await _plug(bench, rehearsal, device)
    await limited("plug", 30, lambda: rehearsal.plug(device.identity))
    await refused("unplug of an unknown device", NotFound, lambda: rehearsal.unplug("no-such-device"))


@BOOK.of(Rehearsal, "away", Level.SILVER)
async def away(bench: Bench, rehearsal: Rehearsal) -> None:
    """A device that is away cannot be opened: DeviceLost, Unavailable or WrongState says so."""
    device = await bench.device()
    await _unplug(bench, rehearsal, device)
    try:
        await refused(
            "open of a device that is away",
            (DeviceLost, Unavailable, WrongState),
            lambda: _open(bench, device),
        )
    finally:
        await _plug(bench, rehearsal, device)


@BOOK.of(Rehearsal, "in-use", Level.PLATINUM)
async def in_use(bench: Bench, rehearsal: Rehearsal) -> None:
    """A device that is pulled off while it is used ends the verbs of its session with DeviceLost within 5 s."""
    device = await bench.device()
    if not {Exec.capability, Files.capability} & bench.declared(device):
        raise NotApplicable("the device offers neither exec nor files")
    told: BaseException | None = None
    with trio.move_on_after(LOST_SECONDS + 30) as scope:
        try:
            async with bench.session(device) as session:
                await rehearsal.unplug(device.identity)
                scope.deadline = trio.current_time() + LOST_SECONDS
                if isinstance(session, Files):
                    await session.stat(bench.profile.files.scratch)
                elif isinstance(session, Exec):
                    await bench.shell(session, "true")
        except Exception as error:
            told = leaf(error)
    await _plug(bench, rehearsal, device)
    require(not scope.cancelled_caught, f"the session did not end within {LOST_SECONDS:g} s")
    require(isinstance(told, DeviceLost), f"the verb ended with {described(told) if told else 'an answer'}")
    async with bench.session():
        pass


@BOOK.of(Rehearsal, "slow-listener", Level.PLATINUM)
async def slow_listener(bench: Bench, rehearsal: Rehearsal) -> None:
    """A daemon that is slow to take reports stops no verb, and hears of the last state of every device in the end."""
    device = await bench.device()
    bench.life.held = trio.Event()
    try:
        await limited("unplug", 30, lambda: rehearsal.unplug(device.identity))
        await limited("describe while a report waits", 10, bench.driver.describe)
        await limited("plug", 30, lambda: rehearsal.plug(device.identity))
    finally:
        bench.life.held.set()
    await _ready_again(bench, device)
    async with bench.session():
        pass


@BOOK.of(Rehearsal, "fifty-times", Level.PLATINUM, seconds=300)
async def fifty_times(bench: Bench, rehearsal: Rehearsal) -> None:
    """Fifty times pulled off and brought back, a device is there and can be opened."""
    device = await bench.device()
    for _ in range(50):
        await limited("unplug", 30, lambda: rehearsal.unplug(device.identity))
        await limited("plug", 30, lambda: rehearsal.plug(device.identity))
    await _ready_again(bench, device)
    async with bench.session():
        pass


async def _open(bench: Bench, device: DeviceFact) -> None:
    async with bench.session(device):
        pass


async def _unplug(bench: Bench, rehearsal: Rehearsal, device: DeviceFact) -> None:
    await limited("unplug", 30, lambda: rehearsal.unplug(device.identity))

    def gone() -> bool:
        known = bench.life.present.get(device.identity)
        return known is None or known.status is not DeviceStatus.READY

    await bench.life.until(gone, bench.profile.change_seconds, "the device that was pulled off was not reported so")


async def _plug(bench: Bench, rehearsal: Rehearsal, device: DeviceFact) -> None:
    await limited("plug", 30, lambda: rehearsal.plug(device.identity))
    await _ready_again(bench, device)


async def _ready_again(bench: Bench, device: DeviceFact) -> None:
    def ready() -> bool:
        known = bench.life.present.get(device.identity)
        return known is not None and known.status is DeviceStatus.READY

    await bench.life.until(
        ready, bench.profile.change_seconds, f"the device {device.identity!r} that was brought back was not reported"
    )
