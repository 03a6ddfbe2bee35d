"""Rules about what a driver says of itself, and about its life."""

from __future__ import annotations

from functools import partial

import trio

from ...capabilities import DRIVER_CAPABILITIES, SESSION_CAPABILITIES
from ...values import Description, HealthState, Recovery, RecoveryState
from ..bench import Bench
from ..leaks import no_growth
from ..rules import Level, NotApplicable, require
from ..trying import CANCEL_SECONDS, DESCRIBE_SECONDS, STOP_SECONDS, cancelled, limited, valid
from .book import BOOK

LIVES = 5
STARTS = "life.start"
"""The rule without which no other that needs a living driver is tried."""


@BOOK.rule("describe.before-start", Level.BRONZE, alone=True)
async def before_start(bench: Bench) -> None:
    """`describe` answers before `start`, within 10 s, with a description whose fields have their types."""
    async with bench.fresh() as driver:
        found = await limited("describe", DESCRIBE_SECONDS, driver.describe)
    valid(found, Description, "describe")


@BOOK.rule("life.stop-without-start", Level.BRONZE, alone=True)
async def stop_without_start(bench: Bench) -> None:
    """`stop` works on a driver that was never started."""
    async with bench.fresh() as driver:
        await limited("stop", STOP_SECONDS, driver.stop)


@BOOK.rule("life.stop-after-failed-start", Level.SILVER, alone=True)
async def stop_after_failed_start(bench: Bench) -> None:
    """A `start` that is cancelled half-way ends within a second, and `stop` works after it."""
    async with bench.fresh() as driver:
        try:
            await cancelled("start", driver.start, after=0.01)
        finally:
            with trio.CancelScope(shield=True):
                await limited("stop", STOP_SECONDS, driver.stop)


@BOOK.rule("life.nothing-stays", Level.GOLD, alone=True, seconds=300)
async def nothing_stays(bench: Bench) -> None:
    """Five lives of a driver, each started, described and stopped, leave no descriptor, process or task behind."""

    async def live() -> None:
        async with bench.fresh() as driver:
            try:
                await limited("start", 60, driver.start)
                await limited("describe", DESCRIBE_SECONDS, driver.describe)
            finally:
                with trio.CancelScope(shield=True):
                    await limited("stop", STOP_SECONDS, driver.stop)

    await live()  # what is loaded once and kept is no leak
    async with no_growth(f"{LIVES} lives", bench.strangers):
        for _ in range(LIVES):
            await live()


@BOOK.rule(STARTS, Level.BRONZE)
async def starts(bench: Bench) -> None:
    """`start` works on this host, within 60 s. Where it does not, the rules that need it are not tried."""
    require(bench.driver.name, "the driver has no name")


@BOOK.rule("describe.types", Level.BRONZE)
async def types(bench: Bench) -> None:
    """The description's fields have their types, its capabilities are known ones, and it names a platform."""
    found = bench.description
    valid(found, Description, "describe")
    require(found.platforms, "the description names no platform")
    unknown = [each for each in found.capabilities if each not in {**SESSION_CAPABILITIES, **DRIVER_CAPABILITIES}]
    require(not unknown, f"the description names capabilities that there are not: {', '.join(unknown)}")
    twice = {each for each in found.capabilities if found.capabilities.count(each) > 1}
    require(not twice, f"the description names capabilities twice: {', '.join(sorted(twice))}")
    require(found.version.strip(), "the description has no version")


@BOOK.rule("describe.health", Level.BRONZE)
async def health(bench: Bench) -> None:
    """A driver that has started is healthy or degraded, and says why in words."""
    found = bench.description.health
    require(found.usable, f"the driver has started and says that it is {found.state}: {found.reason}")
    require(len(found.reason.split()) > 1, f"the health's reason is no sentence: {found.reason!r}")
    require(found.state in HealthState, f"{found.state!r} is no state of health")


@BOOK.rule("describe.what-is-declared", Level.BRONZE)
async def what_is_declared(bench: Bench) -> None:
    """A driver implements the driver-side capabilities that it declares, and no others."""
    declared = bench.declared()
    for name, capability in DRIVER_CAPABILITIES.items():
        has = isinstance(bench.driver, capability)
        require(has or name not in declared, f"{name!r} is declared and not implemented")
        require(not has or name in declared, f"{name!r} is implemented and not declared")


@BOOK.rule("describe.name", Level.BRONZE)
async def name(bench: Bench) -> None:
    """The name in the description is the driver's name."""
    found, own = bench.description.name, type(bench.driver).name
    require(found == own, f"the driver is called {own!r} and describes itself as {found!r}")


@BOOK.rule("recover.strange-handle", Level.SILVER)
async def strange_handle(bench: Bench) -> None:
    """`recover` says of a handle that is not the driver's own that the device is lost or has ended, and raises
    nothing."""
    for handle in ("", "no such handle", '{"a": [1, null]}', "ü" * 1000):
        found = await limited("recover", 30, partial(bench.driver.recover, handle))
        valid(found, Recovery, "recover")
        require(found.state is not RecoveryState.RUNNING, f"recover({handle[:40]!r}) said that a device runs")
        require(found.reason, "recover gave no reason")


@BOOK.rule("recover.handle", Level.GOLD)
async def recovered(bench: Bench) -> None:
    """After a restart of the driver, `recover` finds a device by the handle that the driver gave for it."""
    device = await bench.device()
    handle = device.handle
    if handle is None:
        raise NotApplicable("the device has no handle")
    await bench.restart()
    found = await limited("recover", 30, lambda: bench.driver.recover(handle))
    valid(found, Recovery, "recover")
    require(found.state is RecoveryState.RUNNING, f"the device is {found.state} after a restart: {found.reason}")
    require(
        found.device is not None and found.device.identity == device.identity,
        f"recover told of another device: {found.device}",
    )
    async with bench.session(found.device):
        pass


@BOOK.rule("watch.lets-go", Level.GOLD)
async def watch_lets_go(bench: Bench) -> None:
    """`watch` ends within a second of being cancelled, and by nothing else."""
    before = await bench.restart()
    require(before.error is None, f"the driver's life ended with {before.error!r}")
    took = before.watch_let_go
    require(
        took is not None and took <= 2 * CANCEL_SECONDS,
        f"watch did not end within {CANCEL_SECONDS:g} s of being cancelled, but after {took or 0:.1f} s",
    )
