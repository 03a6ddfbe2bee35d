"""Rules about the device as a machine: power, pause, measurement, remedies."""

from __future__ import annotations

from functools import partial

import trio

from ...capabilities import Exec, Files, Measure, Mend, Pause, Power, Rehearsal
from ...driver import Session
from ...errors import CapabilityMissing, NotFound
from ...values import Remedy, Sample
from ..bench import Bench
from ..rules import Level, NotApplicable, require
from ..trying import limited, refused, valid
from .book import BOOK

REBOOT_SECONDS = 300.0


@BOOK.rule("power.reboot", Level.BRONZE, about=Power, seconds=REBOOT_SECONDS + 120)
async def reboots(bench: Bench) -> None:
    """`reboot` returns when the device takes verbs again: in a session that is opened after it, at the latest."""
    async with bench.session() as session:
        await limited("reboot", REBOOT_SECONDS, session.require(Power).reboot)
    async with bench.session() as session:
        await _use(bench, session)


@BOOK.of(Pause, "freeze", Level.BRONZE)
async def freezes(bench: Bench, device: Pause) -> None:
    """A device is frozen, twice, and thawed, twice, and takes verbs again."""
    for _ in range(2):
        await limited("freeze", 30, device.freeze)
    for _ in range(2):
        await limited("thaw", 30, device.thaw)
    require(isinstance(device, Session), "the session is no Session")
    async with bench.session() as session:
        await _use(bench, session)


@BOOK.rule("pause.stands-still", Level.SILVER, about=Pause)
async def stands_still(bench: Bench) -> None:
    """A program on a frozen device stands still, and goes on when the device is thawed."""
    async with bench.session() as session:
        if not isinstance(session, Exec):
            raise NotApplicable("the device does not offer exec")
        pause = session.require(Pause)
        async with await session.start(bench.script("read line; echo $line", stdin=True)) as process:
            await pause.freeze()
            try:
                with trio.move_on_after(1) as scope:
                    await process.send(b"late\n")
                    await process.wait()
                require(scope.cancelled_caught, "a program ended on a frozen device")
            finally:
                with trio.CancelScope(shield=True):
                    await pause.thaw()
            found = await limited("wait", 30, process.wait)
            require(found.ok, f"the program came back as {found}")


@BOOK.of(Measure, "sample", Level.BRONZE)
async def samples(bench: Bench, device: Measure) -> None:
    """A measurement has its types, is of now, and the next one is later; no value is below zero."""
    first = await limited("sample", 5, device.sample)
    second = await limited("sample", 5, device.sample)
    for each in (first, second):
        valid(each, Sample, "sample")
        require(each.at.tzinfo is not None, "the time of a sample has no zone")
        low = [name for name in ("cpu", "memory", "disk", "read", "written") if getattr(each, name) < 0]
        require(not low, f"below zero: {', '.join(low)}")
    require(second.at >= first.at, "time goes backwards")
    require(second.read >= first.read and second.written >= first.written, "a counter went down")


@BOOK.of(Mend, "remedies", Level.BRONZE)
async def remedies(bench: Bench, driver: Mend) -> None:
    """The remedies of a device are listed, each once, in the order in which they are tried."""
    device = await bench.device()
    found = list(await limited("remedies", 10, lambda: driver.remedies(device.identity)))
    valid(found, list[Remedy], "remedies")
    require(found == [each for each in Remedy if each in found], f"the remedies are {found}")


@BOOK.of(Mend, "mend", Level.SILVER, seconds=REBOOT_SECONDS * len(Remedy))
async def mends(bench: Bench, driver: Mend) -> None:
    """Each remedy leaves a device that works, and is told in a sentence."""
    device = await bench.device()
    for remedy in await driver.remedies(device.identity):
        told = await limited(
            f"mend by {remedy}",
            REBOOT_SECONDS,
            partial(driver.mend, device.identity, remedy),
        )
        require(len(told.split()) > 1, f"{remedy} was told as {told!r}")
        async with bench.session() as session:
            await _use(bench, session)


@BOOK.of(Mend, "wrong-input", Level.SILVER)
async def mend_wrong_input(bench: Bench, driver: Mend) -> None:
    """A remedy that is not listed raises CapabilityMissing, a device that there is not NotFound."""
    device = await bench.device()
    listed = await driver.remedies(device.identity)
    for remedy in Remedy:
        if remedy not in listed:
            await refused(
                f"mend by {remedy}",
                CapabilityMissing,
                partial(driver.mend, device.identity, remedy),
            )
    await refused("remedies of no device", NotFound, lambda: driver.remedies("no-such-device"))
    await refused("mend of no device", NotFound, lambda: driver.mend("no-such-device", Remedy.RECONNECT))


@BOOK.of(Rehearsal, "real-ones", Level.BRONZE)
async def rehearses(bench: Bench, driver: Rehearsal) -> None:
    """The rehearsal knows the device under test."""
    device = await bench.device()
    await limited("plug", 30, lambda: driver.plug(device.identity))


async def _use(bench: Bench, session: Session) -> None:
    """Use a device, by whatever it offers."""
    if isinstance(session, Exec):
        done = await bench.shell(session, "echo here")
        require(done.stdout == b"here\n", f"echo gave {done.stdout!r}")
    elif isinstance(session, Files):
        await session.stat(bench.profile.files.scratch)
