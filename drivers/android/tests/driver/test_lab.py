"""Devices that come and go, through the real adb server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from anvild.sdk import (
    CapabilityMissing,
    Command,
    DeviceLost,
    DeviceStatus,
    HealthState,
    Lease,
    NotFound,
    RecoveryState,
    Remedy,
    Unavailable,
    WrongState,
    run,
)

SERIAL = "SIM0001"
LEASE = Lease(lease_id="lease", fence=1, holder="test")


@pytest.fixture
def server(both_servers: str) -> str:
    return both_servers


async def test_a_device_is_found_by_its_serial_number(phone: Any) -> None:
    device = await phone.ready()
    assert (device.identity, device.platform, device.model, device.firmware_version) == (
        SERIAL,
        "android",
        "Simulated Phone",
        "14",
    )
    fact = (await phone.reported(lambda each: "battery_percent" in each.device.facts)).device
    assert fact.facts == {
        "abi": "x86_64",
        "build": "SIM1.240101.001",
        "manufacturer": "Anvil",
        "sdk": "34",
        "transport": "network",
        "battery_percent": "85",
        "temperature_celsius": "28.0",
    }
    assert "127.0.0.1" not in repr(fact)
    described = await phone.driver.describe()
    assert described.health.state is HealthState.HEALTHY
    assert described.platforms == ("android",)
    assert set(device.capabilities) <= set(described.capabilities)


async def test_a_device_that_is_pulled_off_and_comes_back(phone: Any) -> None:
    async with phone.session() as session:
        process = await session.start(Command(argv=("sleep", "1000")))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(phone.device.unplug)
            with trio.fail_after(60), pytest.raises(DeviceLost):
                await process.wait()
        gone = await phone.gone()
        assert (gone.identity, gone.status) == (SERIAL, DeviceStatus.OFFLINE)
        with pytest.raises(DeviceLost):
            await run(session, Command(argv=("true",)))
        await phone.device.plug()
        phone.driver.fleet.kick()
        back = await phone.ready()
        assert back.identity == SERIAL
        assert (await run(session, Command(argv=("true",)))).exit.ok
        await process.aclose()


async def test_a_device_that_does_not_know_the_lab_yet(make_phone: Any) -> None:
    async with make_phone(authorised=False) as phone:
        shown = (await phone.reported(lambda each: each.device.status is DeviceStatus.OFFLINE)).device
        assert shown.identity == SERIAL
        assert "unlock it and accept the key of this lab" in (shown.reason or "")
        with pytest.raises(Unavailable, match="accept the key"):
            async with phone.driver.open(shown, LEASE):
                pass
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_approve_whoever_asks, phone.device)
            await phone.ready()
            nursery.cancel_scope.cancel()


async def _approve_whoever_asks(device: Any) -> None:
    """The adb server calls a device unauthorised before it has shown it the key that is to be approved."""
    while True:
        device.approve()
        await trio.sleep(0.02)


async def test_a_restart_on_request_is_no_loss(phone: Any) -> None:
    async with phone.session() as session:
        await session.write("/data/local/tmp/kept", _bytes(b"kept"))
        mark = await session.log_mark()
        assert mark.startswith(f"{SERIAL}/")
        count = len(phone.reports)
        await session.reboot()
        assert [each.kind for each in phone.reports[count:]] == ["seen"] * len(phone.reports[count:])
        assert "provisioning" in [each.device.status for each in phone.reports[count:]]
        assert (await session.stat("/data/local/tmp/kept")).size == 4


async def _bytes(data: bytes) -> Any:
    yield data


async def test_a_device_that_boots_is_not_ready(make_phone: Any) -> None:
    async with make_phone(boot_seconds=0.4) as phone:
        await phone.ready()
        count = len(phone.reports)
        phone.device.reboot()
        await phone.gone()
        await phone.ready()
        between = [each.device for each in phone.reports[count:] if each.device.status == "provisioning"]
        assert [each.reason for each in between] == ["it starts up"]


async def test_remedies(phone: Any) -> None:
    await phone.ready()
    assert await phone.driver.remedies(SERIAL) == (Remedy.RECONNECT, Remedy.REBOOT)
    for remedy in (Remedy.RECONNECT, Remedy.REBOOT):
        with trio.fail_after(60):
            assert await phone.driver.mend(SERIAL, remedy)
        async with phone.session() as session:
            assert (await run(session, Command(argv=("true",)))).exit.ok
    with pytest.raises(CapabilityMissing):
        await phone.driver.mend(SERIAL, Remedy.RESTART_HELPER)
    with pytest.raises(NotFound):
        await phone.driver.mend("unknown", Remedy.REBOOT)


async def test_a_device_is_recovered_by_its_handle(phone: Any) -> None:
    device = await phone.ready()
    found = await phone.driver.recover(device.handle)
    assert (found.state, found.device and found.device.identity) == (RecoveryState.RUNNING, SERIAL)
    assert (await phone.driver.recover("nonsense")).state is RecoveryState.LOST


async def test_nobody_plays_with_a_real_device(phone: Any) -> None:
    await phone.ready()
    for call in (phone.driver.unplug, phone.driver.plug):
        with pytest.raises(WrongState):
            await call(SERIAL)
        with pytest.raises(NotFound):
            await call("unknown")


async def test_a_device_that_hangs_can_be_left(phone: Any) -> None:
    async with phone.session() as session:
        process = await session.start(Command(argv=("sleep", "1000")))
        phone.device.hang()
        with trio.fail_after(60), trio.move_on_after(0.2) as scope:
            await run(session, Command(argv=("true",)))
        assert scope.cancelled_caught
        with trio.fail_after(60):
            await process.aclose()
        phone.device.resume()
        assert (await run(session, Command(argv=("true",)))).exit.ok


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def held() -> tuple[int, int]:
    """The tasks and open files of this process."""
    return trio.lowlevel.current_statistics().tasks_living, open_files()


async def plug_and_unplug(phone: Any, times: int) -> None:
    await phone.reported(lambda each: "battery_percent" in each.device.facts)
    tasks, files = held()
    for _ in range(times):
        await phone.device.unplug()
        await phone.gone()
        await phone.device.plug()
        phone.driver.fleet.kick()
        async with phone.session() as session:
            assert (await run(session, Command(argv=("echo", "x")))).stdout == b"x\n"
    await phone.reported(lambda each: "battery_percent" in each.device.facts)
    now = held()
    with trio.move_on_after(10):  # what the last round began may still be ending
        while now[0] > tasks + 1 or now[1] > files + 2:
            await trio.sleep(0.05)
            now = held()
    assert now[0] <= tasks + 1
    assert now[1] <= files + 2


async def test_50_times_off_and_on_leak_nothing(phone: Any) -> None:
    with trio.fail_after(60):
        await plug_and_unplug(phone, 50)


@pytest.mark.soak
async def test_500_times_off_and_on_leak_nothing(phone: Any) -> None:
    with trio.fail_after(900):
        await plug_and_unplug(phone, 500)
