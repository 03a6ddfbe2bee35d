"""A driver in a process of its own is used as any other, and its end is told in words before anything fails for it."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from anvild.core.isolation import OwnProcess
from anvild.sdk import AnvilError, DriverFault, InvalidArgument, Unavailable
from anvild.sdk.protocol import Initialize, RemoteDriver

LAMP = """
import sys
from pathlib import Path
import trio
from anvild.sdk import Description, Driver, DriverSettings, Health, HealthState, hookimpl

class Watts(DriverSettings):
    watts: int = 40

class Lamp(Driver):
    name = "lamp"
    settings_type = Watts

    async def start(self):
        await trio.to_thread.run_sync((self.context.state_dir / "started").touch)

    async def stop(self):
        await trio.sleep(0)
        await trio.to_thread.run_sync((self.context.state_dir / "stopped").touch)

    async def describe(self):
        health = Health(state=HealthState.HEALTHY, reason=f"{self.context.settings.watts} W")
        return Description(name="lamp", version="1", platforms=("lamp",), capabilities=(), health=health)

    async def watch(self, report):
        sys.stderr.write("watching\\n")
        await trio.sleep_forever()

    def open(self, device, lease):
        raise NotImplementedError

@hookimpl
def anvil_drivers():
    return [Lamp]
"""

SMALL = """
import json, struct, sys
while head := sys.stdin.buffer.read(5):
    message = json.loads(sys.stdin.buffer.read(struct.unpack(">IB", head)[0]))
    answer = {"jsonrpc": "2.0", "id": message["id"], "result": {"protocol": "1.0", "name": "lamp"}}
    text = json.dumps(answer).encode()
    sys.stdout.buffer.write(struct.pack(">IB", len(text), 0) + text)
    sys.stdout.buffer.flush()
"""
"""A driver that is quick to start and can do nothing."""


class Heard:
    """What the host of a driver is told."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.over = trio.Event()
        self.faults: list[str] = []

    def gone(self, reason: str) -> None:
        assert self.reason is None
        self.reason = reason
        self.over.set()

    def fault(self, what: str, error: BaseException) -> DriverFault:
        self.faults.append(f"{what}: {error}")
        return DriverFault(str(error))


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def factory(tmp_path: Path) -> Any:
    """Make the factory of a lamp, with these settings or another command."""
    (tmp_path / "lamp.py").write_text(LAMP)

    def make(*command: str, name: str = "lamp", **settings: Any) -> OwnProcess:
        python = (sys.executable, "-P", "-m", "anvild.sdk.protocol", str(tmp_path / "lamp.py"))
        places = {"state_dir": str(tmp_path), "cache_dir": str(tmp_path)}
        start = Initialize(host="here", settings=settings, **places)
        return OwnProcess(name, command or python, start, memory=2**30, directory=tmp_path)

    return make


def lives(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


async def test_it_is_used_as_any_other_driver(factory: Any, heard: Heard, tmp_path: Path) -> None:
    place = factory(watts=60)
    assert place.facts() == {"process_starts": "0"}
    async with place.live(heard.gone, heard.fault) as driver:
        await driver.start()
        assert (await driver.describe()).health.reason == "60 W"
        pid = int(place.facts()["process_id"])
        assert lives(pid)
        await driver.stop()
    assert not lives(pid)
    assert place.facts() == {"process_starts": "1"}
    assert (heard.reason, heard.faults) == (None, [])
    assert (tmp_path / "stopped").exists()


async def test_it_can_be_stopped_after_its_host_was_cancelled(factory: Any, heard: Heard, tmp_path: Path) -> None:
    with trio.CancelScope() as scope:
        async with factory().live(heard.gone, heard.fault) as driver:
            await driver.start()
            try:
                scope.cancel()
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await driver.stop()
                    assert (tmp_path / "stopped").exists()
    assert heard.reason is None


async def test_its_end_is_told_before_anything_fails(factory: Any, heard: Heard) -> None:
    place = factory()
    async with place.live(heard.gone, heard.fault) as driver:
        await driver.start()
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                with pytest.raises(Unavailable, match=r"signal 9 \(killed\)"):
                    await driver.watch(heard.gone)
                assert heard.reason == "its process ended with signal 9 (killed); last words: watching"

            nursery.start_soon(watch)
            await driver.describe()
            while not place._sayings.last_words:  # noqa: ASYNC110
                await trio.sleep(0.001)  # its words and its answers come by different pipes
            os.kill(int(place.facts()["process_id"]), signal.SIGKILL)
        with pytest.raises(Unavailable, match=r"signal 9 \(killed\)"):
            await driver.describe()


async def test_one_that_gives_no_sign_of_life_is_killed(factory: Any, heard: Heard, mock_clock: MockClock) -> None:
    place = factory()
    async with place.live(heard.gone, heard.fault) as driver:
        pid = int(place.facts()["process_id"])
        os.kill(pid, signal.SIGSTOP)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(5)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(9.9)
        await trio.testing.wait_all_tasks_blocked()
        assert heard.reason is None
        mock_clock.jump(0.2)
        await heard.over.wait()
        assert heard.reason == "it gave no sign of life for 10 s and was killed"
        with pytest.raises(Unavailable, match="no sign of life"):
            await driver.stop()
    assert not lives(pid)


async def test_one_that_answers_is_left_alone(factory: Any, heard: Heard, mock_clock: MockClock) -> None:
    async with factory().live(heard.gone, heard.fault) as driver:
        assert isinstance(driver, RemoteDriver)
        for _ in range(10):
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(5)
            await trio.testing.wait_all_tasks_blocked()
            await driver.ping()  # the one that the clock has set off was sent before this, and is answered before it
    assert heard.reason is None


async def refusal(place: OwnProcess, heard: Heard) -> AnvilError:
    with pytest.raises(AnvilError) as caught:
        async with place.live(heard.gone, heard.fault):
            raise AssertionError("it should not have come up")
    return caught.value


async def test_wrong_settings_are_the_drivers_to_refuse(factory: Any, heard: Heard) -> None:
    error = await refusal(factory(watts="many"), heard)
    assert isinstance(error, InvalidArgument)
    assert "watts" in error.message


async def test_a_name_is_not_taken_from_another(factory: Any, heard: Heard) -> None:
    error = await refusal(factory(name="bulb"), heard)
    assert error.message == "it calls itself 'lamp', and the settings call it 'bulb'"


async def test_one_that_does_not_come_up_is_told_in_words(factory: Any, heard: Heard) -> None:
    error = await refusal(factory("sh", "-c", "echo no bus >&2; exit 4"), heard)
    assert isinstance(error, DriverFault)
    assert error.message == "its process ended with exit code 4; last words: no bus"
    assert heard.reason == error.message


async def test_one_of_another_major_version_is_refused(factory: Any, heard: Heard) -> None:
    code = SMALL.replace('"protocol": "1.0"', '"protocol": "2.0"')
    error = await refusal(factory(sys.executable, "-I", "-S", "-c", code), heard)
    assert isinstance(error, Unavailable)
    assert error.message == "the driver speaks protocol 2.0 and the host speaks 1.0: upgrade the host"


async def test_a_hundred_lives_leave_nothing_behind(factory: Any, heard: Heard) -> None:
    place = factory(sys.executable, "-I", "-S", "-c", SMALL)
    pids = []
    before = len(list(Path("/proc/self/fd").iterdir()))  # noqa: ASYNC240  # no disk is behind it
    tasks = trio.lowlevel.current_statistics().tasks_living
    for _ in range(100):
        async with place.live(heard.gone, heard.fault):
            pids.append(int(place.facts()["process_id"]))
    assert not any(lives(pid) for pid in pids)
    assert len(list(Path("/proc/self/fd").iterdir())) == before  # noqa: ASYNC240
    assert trio.lowlevel.current_statistics().tasks_living == tasks
    assert heard.reason is None
