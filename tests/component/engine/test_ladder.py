"""The health ladder: devices in trouble are mended, within budgets, before they are quarantined."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from trio.testing import MockClock

from anvild.core.engine.ladder import BUDGET_SECONDS, BUDGETS, QUIET_SECONDS
from anvild.sdk import DeviceLost, Driver, Mend, Remedy, Unavailable
from tests.support.lab import ALICE, FakeDriver, Lab, StartEngine, asks


class Mender(FakeDriver, Mend):
    """The lab's driver with remedies; ``cure`` is the one that helps."""

    name = "fake"
    offered: Sequence[Remedy] = tuple(Remedy)
    cure: Remedy | None = None
    fails: frozenset[Remedy] = frozenset()

    async def remedies(self, identity: str) -> Sequence[Remedy]:
        return self.offered

    async def mend(self, identity: str, remedy: Remedy) -> str:
        self.lab.lives[remedy] += 1
        if remedy in self.fails:
            raise Unavailable("it stays away")
        if remedy is self.cure:
            self.lab.devices[identity].clean_error = None
            self.lab.devices[identity].open_error = None
        return f"{remedy} done"


@pytest.fixture
def mender(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> type[Mender]:
    """Drivers of the lab mend."""

    class Mending(Mender):
        """One for this test alone."""

    made = lab.driver

    def driver(name: str = "fake") -> Driver:
        return Mending(made(name).context, lab)

    monkeypatch.setattr(lab, "driver", driver)
    return Mending


def applied(lab: Lab) -> list[int]:
    return [lab.lives[remedy] for remedy in Remedy]


async def test_a_failed_clean_climbs_until_something_helps(
    lab: Lab, start_engine: StartEngine, mender: type[Mender], mock_clock: MockClock
) -> None:
    mender.cure = Remedy.POWER_CYCLE
    mender.offered = (Remedy.REBOOT, Remedy.POWER_CYCLE, Remedy.RECONNECT)
    lab.plug("d1")
    lab.devices["d1"].clean_error = ZeroDivisionError("worn out")
    running = await start_engine()
    first = await running.engine.runs.submit(asks())
    assert (await running.until(first)).state == "passed"
    second = await running.engine.runs.submit(asks())
    assert (await running.until(second)).state == "passed"
    (device,) = await running.engine.devices.list()
    assert (device.quarantine, device.unclean) == (None, False)
    assert applied(lab) == [1, 0, 1, 0], "a rung that is not offered is stepped over"
    told = [event for event in await running.events.read() if event.kind in ("device.mending", "device.mended")]
    assert [(event.kind, event.data["remedy"]) for event in told] == [
        ("device.mending", "reconnect"),
        ("device.mended", "reconnect"),
        ("device.mending", "power_cycle"),
        ("device.mended", "power_cycle"),
    ]
    assert "worn out" in told[0].data["reason"]


async def test_above_the_last_rung_is_quarantine(
    lab: Lab, start_engine: StartEngine, mender: type[Mender], mock_clock: MockClock
) -> None:
    mender.fails = frozenset({Remedy.RESTART_HELPER})
    lab.plug("d1")
    lab.devices["d1"].clean_error = ZeroDivisionError("worn out")
    running = await start_engine()
    run = await running.engine.runs.submit(asks())
    assert (await running.until(run)).state == "passed", "the run has nothing to do with what its device does after it"
    await running.heard("device.quarantined")
    (device,) = await running.engine.devices.list()
    assert device.quarantine is not None
    assert "worn out" in device.quarantine
    assert "tried: reconnect, restart helper, power cycle, reboot" in device.quarantine
    assert applied(lab) == [1, 1, 1, 1]


async def test_attempts_that_cannot_begin_are_trouble_too(
    lab: Lab, start_engine: StartEngine, mender: type[Mender], mock_clock: MockClock
) -> None:
    mender.cure = Remedy.RECONNECT
    lab.plug("d1")
    lab.devices["d1"].open_error = DeviceLost("no answer")
    running = await start_engine()
    run = await running.engine.runs.submit(asks())
    await running.after(30)
    ended = await running.engine.runs.get(run.id)
    assert ended.state == "passed"
    assert ended.attempt == 4, "three false starts, then the remedy"
    assert applied(lab) == [1, 0, 0, 0]


async def test_trouble_after_a_quiet_time_begins_at_the_bottom_and_budgets_end_it(
    lab: Lab, start_engine: StartEngine, mender: type[Mender], mock_clock: MockClock
) -> None:
    mender.offered = (Remedy.REBOOT,)
    mender.cure = Remedy.REBOOT
    lab.plug("d1")
    running = await start_engine()

    async def trouble() -> None:
        lab.devices["d1"].clean_error = ZeroDivisionError("worn out")
        run = await running.engine.runs.submit(asks())
        await running.until(run)
        await running.after(QUIET_SECONDS + 1)

    for _ in range(BUDGETS[Remedy.REBOOT]):
        await trouble()
        assert (await running.engine.devices.list())[0].quarantine is None
    await trouble()
    (device,) = await running.engine.devices.list()
    assert device.quarantine is not None, "its budget is used up"
    assert lab.lives[Remedy.REBOOT] == BUDGETS[Remedy.REBOOT]
    await running.after(BUDGET_SECONDS)
    await running.engine.devices.rearm(device.id, ALICE)
    await running.after(1)
    await trouble()
    assert lab.lives[Remedy.REBOOT] == BUDGETS[Remedy.REBOOT] + 1
