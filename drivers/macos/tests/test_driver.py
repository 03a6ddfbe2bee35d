"""The driver as the daemon sees it: what it reports, how it leaves devices, how it mends and recovers them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from anvild.sdk import (
    CapabilityMissing,
    DeviceLost,
    DeviceStatus,
    HealthState,
    NotFound,
    RecoveryState,
    Remedy,
    Unavailable,
)
from anvild_macos import watcher
from anvild_macos.machine import examine
from anvild_macos.place import LocalPlace
from anvild_macos.settings import HostSettings

UDID = "11111111-0000-4000-8000-000000000001"
MAC = "0A1B2C3D-0000-4000-8000-0000000000FF"


async def test_a_mac_its_simulators_and_its_devices(lab: Any) -> None:
    facts = {sighting.device.name: sighting.device for sighting in lab.sightings}
    assert len({fact.identity for fact in facts.values()}) == len(facts) == 10
    assert {name: fact.platform for name, fact in facts.items() if "iPhone" not in name} == {
        "mini": "macos",
        "Apple Watch Series 9 (45mm)": "watchos",
        "Apple TV": "tvos",
        "Apple Vision Pro": "visionos",
        "Lab Phone": "ios",
        "Lab Vision": "visionos",
        "Lab Watch": "watchos",
    }
    assert facts["mini"].identity == MAC
    assert facts["mini"].firmware_version == "14.5"
    assert "power" not in facts["mini"].capabilities, "the account may not restart it"
    assert facts["Lab Phone"].identity == "00008110-001A2B3C4D5E6F70", "the UDID, not CoreDevice's identifier"
    away = {name: fact.reason for name, fact in facts.items() if fact.status is DeviceStatus.OFFLINE}
    assert sorted(away) == ["Lab Vision", "Lab Watch", "iPhone 8"]
    assert "Developer Mode" in away["Lab Watch"]
    assert facts["iPhone 15"].facts["state"] == "shutdown"
    assert facts["iPhone 15"].status is DeviceStatus.READY, "opening it boots it"


async def test_describe(lab: Any) -> None:
    told = await lab.driver.describe()
    assert told.health.state is HealthState.HEALTHY
    assert "mend" in told.capabilities
    session = {"exec", "files", "apps", "app_tests", "screen", "logs", "power", "attachments"}
    for sighting in lab.sightings:
        assert set(sighting.device.capabilities) <= session


async def test_changes_are_told_and_nothing_else(lab: Any, stub: Any) -> None:
    before = len(lab.sightings)
    site = lab.driver.watcher.sites[0]
    extra = {"udid": "11111111-0000-4000-8000-00000000000F", "name": "New one", "state": "Shutdown"}
    stub.set(phone="away", extra_simulator=extra)
    site.look_again()
    await lab.until(lambda seen: len(seen) == before + 2)
    assert {each.device.name for each in lab.sightings[before:]} == {"New one", "Lab Phone"}
    assert lab.device("Lab Phone").status is DeviceStatus.OFFLINE
    stub.set(phone="near", extra_simulator=None)
    site.look_again()
    await lab.until(lambda seen: len(seen) == before + 4)
    assert [each.kind for each in lab.sightings if each.device.name == "New one"] == ["seen", "lost"]
    assert lab.device("Lab Phone").status is DeviceStatus.READY


async def test_a_look_is_repeated(running: Any, stub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "LOOK_SECONDS", 0.05)
    async with running() as lab:
        stub.set(phone="away")
        await lab.until(lambda seen: seen[-1].device.name == "Lab Phone" and seen[-1].device.status == "offline")


async def test_a_mac_that_says_nothing(lab: Any, stub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "LOOK_LIMIT", 0.1)
    site = lab.driver.watcher.sites[0]
    before = dict(site.devices)
    with stub.locked():  # the stubs wait for it
        site.look_again()
        while site.trouble is None:
            await site.place.run(["true"])
    assert "did not say within" in site.trouble
    assert site.devices == before


async def test_the_daemons_own_mac(stub: Any, sshd: Any, make_driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    heard, plugged = trio.open_memory_channel[None](0)

    async def watch_usb(on_change: Any, *, vendors: Any) -> None:
        assert vendors == {0x05AC}
        async for _ in plugged:
            await on_change([])

    async def report(sighting: Any) -> None:
        told.append(sighting)
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(watcher, "watch_usb", watch_usb)
    for name, value in sshd.environment.items():
        monkeypatch.setenv(name, value)
    driver = make_driver(hosts=(), local=True)
    await driver.start()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(driver.watch, report)
        site = driver.watcher.sites[0]
        await site.looked.wait()
        site.looked = trio.Event()
        await heard.send(None)
        await site.looked.wait()
        assert await driver.remedies("00008110-001A2B3C4D5E6F70") == [Remedy.REBOOT]
        assert "power" not in site.devices[MAC].capabilities, "nobody restarts the host under the daemon"
        nursery.cancel_scope.cancel()
    assert [each.device.platform for each in told[:2]] == ["macos", "ios"]


async def test_a_tool_that_fails_hides_nothing(lab: Any, stub: Any, sshd: Any) -> None:
    site = lab.driver.watcher.sites[0]
    before = dict(site.devices)
    stub.set(devicectl="broken")
    site.looked = trio.Event()
    site.look_again()
    await site.looked.wait()
    assert set(site.devices) == set(before)
    assert "devicectl" in site.trouble
    health = (await lab.driver.describe()).health
    assert health.state is HealthState.UNHEALTHY
    assert "devicectl" in health.reason


# sessions and cleaning


async def test_what_was_booted_is_shut_again(lab: Any, stub: Any) -> None:
    async with lab.open("iPhone 15"):
        assert stub.state["booted"] == [UDID]
    assert stub.state["booted"] == [UDID], "the next session of the lease finds it as it is"
    await lab.driver.clean(lab.device("iPhone 15"))
    assert stub.state["booted"] == []
    await lab.driver.clean(lab.device("iPhone 15"))


async def test_what_others_have_booted_stays(lab: Any, stub: Any) -> None:
    stub.change(booted=[UDID])
    async with lab.open("iPhone 15"):
        pass
    await lab.driver.clean(lab.device("iPhone 15"))
    assert stub.state["booted"] == [UDID]
    assert not stub.calls("xcrun", "simctl", "erase")


async def test_erasing_is_a_setting(running: Any, stub: Any) -> None:
    async with running(erase_simulators=True) as lab:
        async with lab.open("iPhone 15"):
            pass
        await lab.driver.clean(lab.device("iPhone 15"))
    assert len(stub.calls("xcrun", "simctl", "erase", UDID)) == 1
    assert stub.state["booted"] == []


@pytest.mark.parametrize("name", ["iPhone 15", "Lab Phone"])
async def test_cleaning_takes_back_what_was_installed(running: Any, stub: Any, name: str) -> None:
    async with running() as lab, lab.open(name) as session:
        identity = session.device.identity
        known = stub.state
        app = {"id": "there.before", "name": "Before", "version": "1"}
        known["apps"] = {identity: {"there.before": app, "demo.app": {**app, "id": "demo.app", "name": "Demo"}}}
        known["running"] = {identity: {"demo.app": {}}}
        (stub.home / "state.json").write_bytes(msgspec.json.encode(known))
        await session.note(session.touched.apps, "demo.app")
        await session.note(session.touched.launched, "demo.app")
    async with running() as lab:  # another daemon does what the first one came not to
        await lab.driver.clean(lab.device(name))
        assert list(stub.state["apps"][identity]) == ["there.before"]
        assert not stub.state["running"].get(identity)


async def test_a_device_that_nobody_knows(lab: Any) -> None:
    stranger = msgspec.structs.replace(lab.device("iPhone 15"), identity="stranger")
    with pytest.raises(DeviceLost):
        async with lab.driver.open(stranger, None):
            pass
    with pytest.raises(DeviceLost):
        await lab.driver.clean(stranger)
    with pytest.raises(NotFound):
        await lab.driver.remedies("stranger")


# remedies


async def test_remedies(lab: Any, stub: Any) -> None:
    driver = lab.driver
    assert await driver.remedies(UDID) == [Remedy.RECONNECT, Remedy.RESTART_HELPER, Remedy.REBOOT]
    assert await driver.remedies(MAC) == [Remedy.RECONNECT]
    assert await driver.remedies("00008110-001A2B3C4D5E6F70") == [Remedy.RECONNECT, Remedy.REBOOT]
    with pytest.raises(CapabilityMissing):
        await driver.mend(UDID, Remedy.POWER_CYCLE)
    assert "made anew" in await driver.mend(UDID, Remedy.RECONNECT)
    assert "service of the simulators" in await driver.mend(UDID, Remedy.RESTART_HELPER)
    assert stub.state["booted"] == [UDID]
    assert "'iPhone 15' was restarted" in await driver.mend(UDID, Remedy.REBOOT)
    async with lab.open("Second iPhone"):
        assert Remedy.RESTART_HELPER not in await driver.remedies(UDID), "it would take the other one down"


async def test_a_mac_that_may_be_restarted(running: Any, stub: Any, sshd: Any) -> None:
    stub.set(sudo=True)
    async with running() as lab:
        assert Remedy.REBOOT in await lab.driver.remedies(MAC)
        async with trio.open_nursery() as nursery, lab.open("mini") as mac:
            nursery.start_soon(mac.reboot)
            site = lab.driver.watcher.sites[0]
            while not (stub.home / "restart").exists():
                await site.place.run(["true"])
            (stub.home / "restart").unlink()
            before = len(lab.sightings)
            sshd.cut()
            await lab.until(lambda seen: len(seen) > before + 1 and seen[-1].device.status == "ready")
        told = [each.device.status for each in lab.sightings[before:] if each.device.name == "mini"]
        assert told == [DeviceStatus.PROVISIONING, DeviceStatus.READY], "never offline, which would end its run"
    assert stub.state["restarts"] == 1


async def test_a_mac_whose_link_breaks_first_was_not_restarted(running: Any, stub: Any, sshd: Any) -> None:
    stub.set(sudo="slow")
    async with running() as lab, lab.open("mini") as mac, trio.open_nursery() as nursery:
        site = lab.driver.watcher.sites[0]

        async def reboot() -> None:
            with pytest.raises(Unavailable, match="before it was told to restart"):
                await mac.reboot()

        nursery.start_soon(reboot)
        while not (stub.home / "restart").exists():
            await site.place.run(["true"])
        (stub.home / "restart").unlink()
        sshd.cut()
    assert stub.state["restarts"] == 0


# recovery and health


async def test_recovery(lab: Any, make_driver: Any) -> None:
    driver = lab.driver
    handle = lab.device("iPhone 15").handle
    found = await driver.recover(handle)
    assert (found.state, found.device.identity) == (RecoveryState.RUNNING, UDID)
    assert (await driver.recover("nonsense")).state is RecoveryState.LOST
    assert (await driver.recover('["studio","x"]')).state is RecoveryState.ENDED
    missing = await driver.recover('["mini","x"]')
    assert (missing.state, missing.reason) == (RecoveryState.LOST, "the Mac 'mini' has no such device any more")


async def test_no_mac_is_a_sentence(make_driver: Any) -> None:
    driver = make_driver(hosts=(), local=False)
    with pytest.raises(Unavailable, match=r"\[\[drivers.macos.hosts\]\]"):
        await driver.start()
    assert (await driver.describe()).health.state is HealthState.ABSENT


async def test_a_mac_that_cannot_be_reached_hides_no_other(running: Any, sshd: Any) -> None:
    hosts = (sshd.settings(), HostSettings(name="studio", address="127.0.0.1", port=1))
    async with running(hosts=hosts) as lab:
        while lab.driver.watcher.sites[1].place.reason.endswith("yet"):
            await lab.driver.watcher.sites[1].place.changed.wait()
        health = (await lab.driver.describe()).health
        assert health.state is HealthState.DEGRADED
        assert "'studio' refuses connections" in health.reason


async def test_no_ssh_is_a_sentence(make_driver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Unavailable, match="install openssh-client"):
        await make_driver().start()


async def test_a_host_that_is_no_mac(running: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    place = LocalPlace()
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(place.serve)
        with pytest.raises(Unavailable, match="is no Mac that the driver can use: `system_profiler"):
            await examine(place)
        nursery.cancel_scope.cancel()
