"""The driver's watch, health, remedies and cleaning, against simulated devices."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from anvild.sdk import (
    Apps,
    CapabilityMissing,
    DeviceStatus,
    HealthState,
    NotFound,
    Remedy,
    Sighting,
    Unavailable,
    WrongState,
)
from anvild_ios.simulator import SimulatedDevice, Simulator, make_devices

Bench = Any
Drivers = Callable[..., Any]
Start = Callable[..., AbstractAsyncContextManager[Simulator]]


def offline(reason: str) -> Callable[[Sighting], bool]:
    return lambda each: each.device.status is DeviceStatus.OFFLINE and reason in (each.device.reason or "")


def lost(each: Sighting) -> bool:
    return each.kind == "lost"


async def test_a_device_is_reported_with_what_it_is(bench: Bench) -> None:
    fact = await bench.watched.ready(bench.udid)
    assert fact.identity == "00008110-00A5000000000000"
    assert (fact.platform, fact.name, fact.model) == ("ios", "Simulated iPhone 1", "iPhone12,1")
    assert fact.firmware_version == "16.7.10"
    assert fact.facts["build"] == "20H350"
    assert fact.facts["battery_percent"] == "85"
    assert set(fact.capabilities) == {"files", "logs", "crash_reports", "attachments", "power", "apps", "screen"}
    assert fact.facts["developer_services"] == "over the cable"
    assert "npm install -g go-ios" in fact.facts["tests"]


async def test_from_ios_17_on_apps_need_a_tool(start_simulator: Start, make_driver: Drivers, running: Drivers) -> None:
    device = make_devices(2)[1]
    assert device.version.startswith("17.")
    async with start_simulator([device]) as simulator:
        driver = make_driver(usbmuxd=simulator.address, tool="/nowhere/ios")
        async with running(driver) as watched:
            fact = await watched.ready(device.udid)
            assert set(fact.capabilities) == {"files", "logs", "crash_reports", "attachments", "power"}
            assert "npm install -g go-ios" in fact.facts["developer_services"]
            async with driver.open(fact, None) as session:
                with pytest.raises(CapabilityMissing, match="apps"):
                    session.require(Apps)


async def test_a_missing_developer_image_takes_the_apps_away(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.watched.ready(bench.udid)
    bench.simulator.unplug(bench.udid)
    monkeypatch.setattr(SimulatedDevice, "developer_services", False)
    bench.simulator.plug(bench.udid)
    sighting = await bench.watched.until(
        lambda each: "ios image auto" in each.device.facts.get("developer_services", "")
    )
    assert "apps" not in sighting.device.capabilities


async def test_the_battery_is_told_in_steps(bench: Bench) -> None:
    await bench.watched.ready(bench.udid)
    bench.device.battery = 43
    bench.driver._roster.look_again(bench.udid)
    await bench.watched.until(lambda each: each.device.facts.get("battery_percent") == "45")


async def test_an_operator_is_told_to_trust_the_host(
    start_simulator: Start, make_driver: Drivers, running: Drivers
) -> None:
    (device,) = make_devices(1)
    device.trusted = False
    async with (
        start_simulator([device]) as simulator,
        running(make_driver(usbmuxd=simulator.address)) as watched,
    ):
        await watched.until(offline("tap Trust"))
        simulator.trust(device.udid)
        await watched.ready(device.udid)


async def test_a_locked_device_waits_for_its_person(bench: Bench) -> None:
    fact = await bench.watched.ready(bench.udid)
    bench.device.locked = True
    bench.driver._roster.look_again(bench.udid)
    await bench.watched.until(offline("unlock it"))
    with pytest.raises(Unavailable, match="unlock it"):
        async with bench.driver.open(fact, None):  # type: ignore[arg-type]
            pass


async def test_unplugging_and_plugging_are_heard(bench: Bench) -> None:
    first = await bench.watched.ready(bench.udid)
    bench.simulator.unplug(bench.udid)
    await bench.watched.until(lost)
    seen = len(bench.watched.sightings)
    bench.simulator.plug(bench.udid)
    assert await bench.watched.ready(bench.udid, seen=seen) == first


async def test_usbmuxd_may_come_later_and_restart(
    start_simulator: Start, tmp_path: Path, make_driver: Drivers, running: Drivers
) -> None:
    path = str(tmp_path / "mux")
    driver = make_driver(usbmuxd=path)
    async with running(driver) as watched:
        health = (await driver.describe()).health
        assert health.state is HealthState.ABSENT
        assert "apt-get install usbmuxd" in health.reason
        for _ in range(2):
            seen = len(watched.sightings)
            async with start_simulator(listen=path) as simulator:
                await watched.ready(next(iter(simulator.devices)), seen=seen)
                assert (await driver.describe()).health.usable
            await watched.until(lost, seen=seen)
        assert (await driver.describe()).health.state is HealthState.ABSENT


async def test_an_address_of_the_wrong_form_is_refused(make_driver: Drivers) -> None:
    driver = make_driver(usbmuxd="nonsense")
    with pytest.raises(Unavailable, match="HOST:PORT"):
        await driver.start()
    assert (await driver.describe()).health.state is HealthState.ABSENT
    await driver.stop()


async def test_what_is_missing_is_said_in_the_health(bench: Bench) -> None:
    told = await bench.driver.describe()
    assert told.health.state is HealthState.DEGRADED
    assert "npm install -g go-ios" in told.health.reason
    assert told.facts["tool"] == "none"
    assert "app_tests" not in told.capabilities
    assert "rehearsal" not in told.capabilities


class TestSimulating:
    """``simulate = N``: the driver brings its own devices."""

    async def test_anybody_can_try_it(self, make_driver: Drivers, running: Drivers) -> None:
        driver = make_driver(simulate=2)
        async with running(driver) as watched:
            for device in make_devices(2):
                fact = await watched.ready(device.udid)
                assert "app_tests" not in fact.capabilities
            told = await driver.describe()
            assert told.health.state is HealthState.HEALTHY
            assert "not simulated" in told.health.reason
            assert "rehearsal" in told.capabilities

    async def test_devices_can_be_taken_away_and_brought_back(self, make_driver: Drivers, running: Drivers) -> None:
        driver = make_driver(simulate=1)
        async with running(driver) as watched:
            udid = make_devices(1)[0].udid
            await watched.ready(udid)
            await driver.unplug(udid)
            await driver.unplug(udid)
            await watched.until(lost)
            seen = len(watched.sightings)
            await driver.plug(udid)
            await watched.ready(udid, seen=seen)
            with pytest.raises(NotFound):
                await driver.unplug("stranger")

    async def test_real_devices_are_left_alone(self, bench: Bench) -> None:
        await bench.watched.ready(bench.udid)
        with pytest.raises(WrongState, match="real device"):
            await bench.driver.unplug(bench.udid)


class TestMend:
    """The rungs of the health ladder that the driver can climb."""

    async def test_reconnects(self, bench: Bench) -> None:
        await bench.watched.ready(bench.udid)
        assert list(await bench.driver.remedies(bench.udid)) == [Remedy.RECONNECT, Remedy.REBOOT]
        assert "answers" in await bench.driver.mend(bench.udid, Remedy.RECONNECT)

    async def test_reboots(self, bench: Bench) -> None:
        await bench.watched.ready(bench.udid)
        assert "restarted" in await bench.driver.mend(bench.udid, Remedy.REBOOT)
        assert bench.device.boots == 2
        assert not any(lost(each) for each in bench.watched.sightings)

    async def test_switches_the_power_of_the_port(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        await bench.watched.ready(bench.udid)
        switched: list[str] = []

        async def switch(port: str) -> None:
            switched.append(port)
            bench.simulator.unplug(bench.udid)
            bench.simulator.plug(bench.udid)

        monkeypatch.setattr("anvild_ios.driver.can_power_cycle", lambda port: True)
        monkeypatch.setattr("anvild_ios.power.power_cycle", switch)
        known = bench.driver._roster.facts[bench.udid]
        at_a_port = msgspec.structs.replace(known, facts={**known.facts, "usb_path": "1-4.2"})
        monkeypatch.setitem(bench.driver._roster.facts, bench.udid, at_a_port)
        assert Remedy.POWER_CYCLE in await bench.driver.remedies(bench.udid)
        assert "answers" in await bench.driver.mend(bench.udid, Remedy.POWER_CYCLE)
        assert switched == ["1-4.2"]
        assert not any(lost(each) for each in bench.watched.sightings)

    async def test_says_when_it_did_not_help(self, bench: Bench) -> None:
        await bench.watched.ready(bench.udid)
        bench.device.trusted = False
        with pytest.raises(Unavailable, match="Trust"):
            await bench.driver.mend(bench.udid, Remedy.RECONNECT)

    async def test_refuses_what_it_cannot(self, bench: Bench) -> None:
        await bench.watched.ready(bench.udid)
        with pytest.raises(CapabilityMissing):
            await bench.driver.mend(bench.udid, Remedy.POWER_CYCLE)
        with pytest.raises(NotFound):
            await bench.driver.remedies("stranger")


class TestClean:
    """What a lease left is undone before the next one."""

    async def test_apps_and_files_of_a_lease_go(self, bench: Bench, make_ipa: Callable[..., bytes]) -> None:
        fact = await bench.watched.ready(bench.udid)
        bench.device.media.put("/Downloads/kept.txt", b"kept")
        async with bench.session() as session:
            package = make_ipa()
            await session.install_app(_once(package), size=len(package))
            await session.write("/Downloads/new/deep/file.txt", _once(b"left"))
            await session.write("/Downloads/kept.txt", _once(b"changed"))
            await session.mkdir("/Made")
        await bench.driver.clean(fact)
        assert "com.example.demo" not in bench.device.apps
        assert "com.example.notes" in bench.device.apps
        assert set(bench.device.media.directory("/Downloads").entries) == {"kept.txt"}
        assert "Made" not in bench.device.media.root.entries
        assert bench.device.media.directory("/PublicStaging").entries == {}

    async def test_it_is_remembered_over_a_restart_of_the_daemon(
        self,
        start_simulator: Start,
        make_ipa: Callable[..., bytes],
        make_driver: Drivers,
        running: Drivers,
        make_bench: Drivers,
    ) -> None:
        async with start_simulator() as simulator:
            for round_ in range(2):
                driver = make_driver(usbmuxd=simulator.address, tool="/nowhere/ios")
                async with running(driver) as watched:
                    bench = make_bench(simulator, driver, watched)
                    fact = await watched.ready(bench.udid)
                    if round_:
                        await driver.clean(fact)
                        continue
                    async with bench.session() as session:
                        package = make_ipa()
                        await session.install_app(_once(package), size=len(package))
            assert "com.example.demo" not in bench.device.apps

    async def test_a_device_with_nothing_left_is_not_touched(self, bench: Bench) -> None:
        fact = await bench.watched.ready(bench.udid)
        lines = len(bench.device.backlog)
        await bench.driver.clean(fact)
        assert len(bench.device.backlog) == lines


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def cycle(bench: Bench, count: int) -> None:
    await bench.watched.ready(bench.udid)
    gc.collect()
    before = descriptors()
    tasks = trio.lowlevel.current_statistics().tasks_living
    for _ in range(count):
        async with bench.session() as session:
            await session.log_mark()
            seen = len(bench.watched.sightings)
            bench.simulator.unplug(bench.udid)
            await bench.watched.until(lost, seen=seen)
        seen = len(bench.watched.sightings)
        bench.simulator.plug(bench.udid)
        await bench.watched.ready(bench.udid, seen=seen)
        del bench.watched.sightings[: seen - 1]
    await trio.testing.wait_all_tasks_blocked(0.05)
    gc.collect()
    assert descriptors() <= before + 2
    assert trio.lowlevel.current_statistics().tasks_living <= tasks + 2
    assert not list((bench.driver.context.cache_dir).glob("*"))


async def test_fifty_pluggings_leave_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anvild_ios.logs.QUIET_SECONDS", 0.01)
    await cycle(bench, 50)


@pytest.mark.soak
async def test_five_hundred_pluggings_leave_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anvild_ios.logs.QUIET_SECONDS", 0.01)
    await cycle(bench, 500)


async def _once(data: bytes):  # type: ignore[no-untyped-def]
    yield data
