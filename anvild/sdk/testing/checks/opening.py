"""Rules about sessions: opened, offered, counted, cancelled, closed a hundred times."""

from __future__ import annotations

import trio

from ...capabilities import SESSION_CAPABILITIES
from ...driver import Session
from ...errors import AnvilError, CapabilityMissing, DeviceLost, InvalidArgument, NotFound, Unavailable, WrongState
from ...values import DeviceFact, DeviceStatus
from ..bench import Bench
from ..leaks import no_growth
from ..rules import Level, require
from ..trying import CLEAN_SECONDS, cancelled, limited, refused, valid
from .book import BOOK

CYCLES = 100
WARM_UP = 5


@BOOK.rule("open.session", Level.BRONZE)
async def opens(bench: Bench) -> None:
    """A session opens and closes, twice in a row, and is on the device that it was opened on."""
    device = await bench.device()
    for _ in range(2):
        async with bench.session() as session:
            require(isinstance(session, Session), f"open yields {session!r}, which is no Session")
            valid(session.device, DeviceFact, "the session's device")
            require(
                session.device.identity == device.identity,
                f"the session on {device.identity!r} is on {session.device.identity!r}",
            )


@BOOK.rule("open.what-is-declared", Level.BRONZE)
async def what_is_declared(bench: Bench) -> None:
    """A session offers every capability that its device declares."""
    async with bench.session() as session:
        for name in sorted(session.device.capabilities):
            capability = SESSION_CAPABILITIES.get(name)
            require(capability is not None, f"{name!r} is no capability of a session")
            require(
                isinstance(session, capability or ()), f"the device declares {name!r} and its session does not offer it"
            )


@BOOK.rule("open.what-is-not-declared", Level.SILVER)
async def what_is_not_declared(bench: Bench) -> None:
    """What a device does not declare, its session refuses with CapabilityMissing."""
    async with bench.session() as session:
        for name, capability in SESSION_CAPABILITIES.items():
            if name in session.device.capabilities:
                continue
            try:
                session.require(capability)
            except CapabilityMissing:
                continue
            require(False, f"the session offers {name!r}, which its device does not declare")


@BOOK.rule("open.unknown-device", Level.SILVER)
async def unknown_device(bench: Bench) -> None:
    """Opening a device that there is not raises DeviceLost, NotFound, Unavailable or WrongState."""
    device = await bench.device()
    stranger = DeviceFact(
        identity="conformance-no-such-device",
        platform=device.platform,
        name="no such device",
        status=DeviceStatus.READY,
        capabilities=device.capabilities,
    )

    async def call() -> None:
        async with bench.driver.open(stranger, bench.lease()):
            pass

    await refused("open of an unknown device", (DeviceLost, NotFound, Unavailable, WrongState), call)


@BOOK.rule("open.own-errors-pass", Level.SILVER)
async def own_errors_pass(bench: Bench) -> None:
    """An error of the session's user comes out of the session as it is, and the session is closed."""
    error = InvalidArgument("an error of the user's own")
    try:
        async with bench.session():
            raise error
    except AnvilError as found:
        require(found is error, f"the session's user raised {error!r}, and {found!r} came out")
    async with bench.session():
        pass


@BOOK.rule("open.clean", Level.BRONZE)
async def cleans(bench: Bench) -> None:
    """`clean` works between two sessions, twice in a row."""
    async with bench.session() as session:
        device = session.device
    for _ in range(2):
        await limited("clean", CLEAN_SECONDS, lambda: bench.driver.clean(device))
    async with bench.session():
        pass


@BOOK.rule("open.cancelled", Level.GOLD)
async def open_cancelled(bench: Bench) -> None:
    """Opening ends within a second of being cancelled, at whatever moment, and the device can be opened after it."""
    for moment in (0.0, 0.001, 0.005, 0.02, 0.1):

        async def stay() -> None:
            async with bench.session():
                await trio.sleep_forever()

        await cancelled("a session", stay, after=moment)
    async with bench.session():
        pass


@BOOK.rule("open.two-devices", Level.GOLD)
async def two_devices(bench: Bench) -> None:
    """Sessions on two devices are open at the same time, and the end of one does not touch the other."""
    first, second = await bench.device(), await bench.other_device()
    try:
        async with bench.session(first) as one:
            async with bench.session(second) as other:
                require(one.device.identity == first.identity, f"the first session is on {one.device.identity!r}")
                require(other.device.identity == second.identity, f"the second one is on {other.device.identity!r}")
            async with bench.session(second):
                pass
    finally:
        if bench.makes:
            with trio.CancelScope(shield=True):
                await bench.destroy(second.identity)


@BOOK.rule("open.hundred-times", Level.GOLD, seconds=900)
async def hundred_times(bench: Bench) -> None:
    """A hundred sessions, opened and closed, leave no descriptor, process or task behind."""
    for _ in range(WARM_UP):  # what is loaded once and kept is no leak
        async with bench.session():
            pass
    async with no_growth(f"{CYCLES} sessions", bench.strangers):
        for _ in range(CYCLES):
            async with bench.session():
                pass
