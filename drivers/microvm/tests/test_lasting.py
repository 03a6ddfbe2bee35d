"""What lasts: guests put aside and brought back, copied, and found again after the daemon was killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio

from anvild.sdk import (
    AlreadyExists,
    Command,
    DeviceFact,
    DeviceRequest,
    DeviceStatus,
    Lease,
    NotFound,
    PermissionDenied,
    RecoveryState,
    Unavailable,
    WrongState,
    run,
)
from anvild.sdk.processes import ProcessIdentity
from anvild_microvm import saving
from anvild_microvm.driver import MicrovmDriver
from anvild_microvm.process import end_processes, processes_in
from anvild_microvm.session import MicrovmSession
from anvild_microvm.template import read_manifest, write_manifest

Ask = Callable[..., DeviceRequest]
Shell = Callable[[DeviceFact, str], Awaitable[str]]

TICKING = "i=0; while :; do i=$((i+1)); echo $i; echo $i > /root/ticks; sleep 0.05; done"
HASHES = "cd /root; sync; echo 3 > /proc/sys/vm/drop_caches; sha256sum f* 2>/dev/null || true"
CLOCK_SECONDS = 0.5
GENERATION = "/run/anvil-agent/generation"


async def ignore(line: str) -> None:
    """Nobody reads this progress."""


async def test_suspended_and_resumed_with_its_processes(driver: MicrovmDriver, ask: Ask, lease: Lease) -> None:
    fact = await driver.create(ask("aside"))
    async with driver.open(fact, lease) as session:
        assert isinstance(session, MicrovmSession)
        process = await session.start(Command(argv=("/bin/sh", "-c", TICKING), tag="ticks"))
        async for output in process:
            if b"3" in output.data:
                break
        await process.aclose()
    folder = driver.context.state_dir / "capsules" / "aside"
    aside = await driver.suspend("aside")
    assert (await driver.suspend("aside")) == aside
    assert (aside.status, aside.reason) == (DeviceStatus.OFFLINE, "suspended to disk")
    assert processes_in(folder.resolve()) == []
    with pytest.raises(WrongState, match="resume it first"):
        async with driver.open(fact, lease):
            pass

    back = await driver.resume("aside")
    assert back.status is DeviceStatus.READY
    assert (await driver.resume("aside")).status is DeviceStatus.READY
    async with driver.open(back, lease) as session:
        assert isinstance(session, MicrovmSession)
        before = time.time()
        clock = await run(session, Command(argv=("date", "+%s.%N")))
        assert before - CLOCK_SECONDS < float(clock.stdout) < time.time() + CLOCK_SECONDS
        process = await session.attach("ticks")
        seen = 0
        async for output in process:
            for number in output.data.split():
                assert int(number) == seen + 1 or seen == 0, "it went on where it stood, nothing is lost"
                seen = int(number)
            if seen > 12:
                break
        await process.aclose()


async def test_saving_in_full_where_memory_may_not_be_looked_into(
    driver: MicrovmDriver,
    shell: Shell,
    ask: Ask,
    monkeypatch: pytest.MonkeyPatch,
    logged: list[tuple[str, str, object]],
) -> None:
    def forbidden(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    fact = await driver.create(ask("full"))
    await shell(fact, "echo before > /root/fold; echo memory > /dev/shm/note")
    monkeypatch.setattr(saving, "save_delta", forbidden)
    for _ in range(4):
        await driver.suspend("full")
        await driver.resume("full")
    assert await shell(fact, "cat /root/fold /dev/shm/note") == "before\nmemory\n"
    await driver.snapshot("full", "full-template")
    fork = await driver.create(ask("full-fork", template="full-template"))
    assert await shell(fork, "cat /root/fold /dev/shm/note") == "before\nmemory\n"
    assert await shell(fact, "cat /dev/shm/note") == "memory\n", "the source goes on"
    monkeypatch.undo()
    await driver.suspend("full-fork")
    await driver.resume("full-fork")
    assert await shell(fork, "cat /dev/shm/note") == "memory\n"
    assert [entry for entry in logged if entry[1] == "guest.saved_in_full"]


async def test_two_processes_do_not_mind_the_same_guests(
    make_driver: Callable[..., object], driver: MicrovmDriver, shell: Shell, ask: Ask
) -> None:
    fact = await driver.create(ask("mine"))
    async with make_driver() as other:  # type: ignore[attr-defined]
        assert (await other.build_image("minimal", ignore)).warm, "building needs no guests"
        assert [template.name for template in await other.templates()] == ["minimal"]
        with pytest.raises(Unavailable, match="minded by another process"):
            await other.destroy("mine")
    assert await shell(fact, "echo untouched") == "untouched\n"


async def test_forks_of_forks(driver: MicrovmDriver, shell: Shell, ask: Ask) -> None:
    parent = await driver.create(ask("parent"))
    for number in range(3):
        await shell(parent, f"head -c 500000 /dev/urandom > /root/f{number}; echo {number} > /dev/shm/memory")
    hashes = await shell(parent, HASHES)
    template = await driver.snapshot("parent", "one")
    assert (template.warm, template.memory) == (True, 512 * 2**20)
    with pytest.raises(AlreadyExists):
        await driver.snapshot("parent", "one")
    with pytest.raises(AlreadyExists):
        await driver.snapshot("parent", "minimal")
    await shell(parent, "rm /root/f0; echo parent > /dev/shm/memory")

    child = await driver.create(ask("child", template="one"))
    assert await shell(child, HASHES) == hashes
    assert await shell(child, "cat /dev/shm/memory; hostname") == "2\ntest-child\n"
    await shell(child, "head -c 500000 /dev/urandom > /root/f3; echo child > /dev/shm/memory")
    await driver.suspend("child")
    await driver.snapshot("child", "two")  # of a suspended one
    await driver.remove_template("one")
    with pytest.raises(NotFound):
        await driver.create(ask("late", template="one"))
    await driver.resume("child")
    grandchild = await driver.create(ask("grandchild", template="two"))
    for fact in (child, grandchild):
        assert await shell(fact, "cat /dev/shm/memory") == "child\n"
    assert await shell(child, HASHES) == await shell(grandchild, HASHES) != hashes
    assert grandchild.facts["generation"] == "3"
    for fact in (parent, child, grandchild):
        assert await shell(fact, f"cat {GENERATION}") == fact.facts["generation"] + "\n"
    assert (await shell(parent, "cat /dev/shm/memory; ls /root/f0 2>&1 || true")).startswith("parent\nls: cannot")
    ids = {(await shell(fact, "cat /etc/machine-id")).strip() for fact in (parent, child, grandchild)}
    assert len(ids) == 3

    assert {t.name for t in await driver.templates()} == {"minimal", "two"}
    await driver.destroy("grandchild")
    await driver.remove_template("two")
    with pytest.raises(NotFound):
        await driver.remove_template("two")
    with pytest.raises(PermissionDenied):
        await driver.remove_template("minimal")


async def test_a_template_of_the_disk_alone(driver: MicrovmDriver, shell: Shell, ask: Ask) -> None:
    fact = await driver.create(ask("first", environment={"WORD": "said"}, user="user"))
    await shell(fact, "cd; pwd > where; head -c 5000000 /dev/urandom > noise; echo gone > /dev/shm/memory")
    hashes = await shell(fact, "cd; sha256sum where noise")
    made = await driver.snapshot("first", "disk", memory=False)
    assert (made.warm, made.fixed) == (False, False)
    await shell(fact, "cd; rm noise; cat /dev/shm/memory")
    await driver.suspend("first")
    with pytest.raises(WrongState, match="resume it first"):
        await driver.snapshot("first", "none", memory=False)
    await driver.destroy("first")
    other = await driver.create(ask("other", "disk", memory=384 * 2**20))
    look = "cd; sha256sum where noise; cat where; echo $USER $WORD; test ! -e /dev/shm/memory"
    assert await shell(other, look) == f"{hashes}/home/user\nuser said\n"
    with pytest.raises(NotFound):
        await driver.remove_template("none")


async def test_a_template_of_another_machine_is_refused_in_words(
    driver: MicrovmDriver, shell: Shell, ask: Ask, logged: list[tuple[str, str, object]]
) -> None:
    await driver.create(ask("origin"))
    await driver.snapshot("origin", "other")
    templates = driver.context.state_dir / "templates"
    for name in ("other", "minimal"):
        manifest = await trio.to_thread.run_sync(read_manifest, templates / name)
        assert manifest is not None
        assert manifest.machine is not None
        old = msgspec.structs.replace(manifest.machine, qemu="6.0.0", memory=2**30)
        changed = msgspec.structs.replace(manifest, machine=old)
        await trio.to_thread.run_sync(write_manifest, templates / name, changed)
    with pytest.raises(WrongState, match=r"'other' was taken on another machine.*QEMU 6\.0\.0, here .*memory 1024 MiB"):
        await driver.create(ask("refused", template="other"))
    # an image's own template is made anew, or taken from the cache, instead
    fact = await driver.create(ask("fine"))
    assert await shell(fact, "echo fine") == "fine\n"

    await driver.suspend("origin")
    capsule = driver._all()._known["origin"]
    capsule.record = msgspec.structs.replace(
        capsule.record, machine=msgspec.structs.replace(capsule.record.machine, cpu="qemu64")
    )
    with pytest.raises(WrongState, match="processor qemu64, here max"):
        await driver.resume("origin")


CHILD = """
import sys, trio
from pathlib import Path
from anvild.sdk import Command, DeviceRequest, DriverContext, Lease
from anvild_microvm.driver import MicrovmDriver
from anvild_microvm.settings import MicrovmSettings

async def main(state, cache, recipes, restless):
    driver = MicrovmDriver(DriverContext(settings=MicrovmSettings(), host="test", state_dir=Path(state),
        cache_dir=Path(cache), data_path=(Path(recipes),), log=lambda *a, **k: None))
    await driver.start()
    fact = await driver.create(DeviceRequest(template="minimal", name="Kept", identity="kept"))
    async with driver.open(fact, Lease(lease_id="l", fence=1, holder="t")) as session:
        argv = ("/bin/sh", "-c", sys.argv[5])
        process = await session.start(Command(argv=argv, tag="ticks"))
        print(fact.handle, flush=True)
        number = 0
        while restless == "yes":
            number += 1
            await driver.snapshot("kept", f"kept-{number}")
            await driver.suspend("kept")
            await driver.resume("kept")
        await trio.sleep_forever()

trio.run(main, *sys.argv[1:5])
"""


@pytest.fixture
def leave_behind(tmp_path: Path, image_cache: Path) -> Callable[[float | None], str]:
    """Have another daemon make a guest ``kept`` with a tagged process, and kill it; with ``restless``, after so many
    seconds of snapshots, suspensions and resumptions. Return its handle."""

    def leave(restless: float | None = None) -> str:
        recipes = Path(__file__).parents[3] / "config"
        words = [str(tmp_path / "state"), str(image_cache), str(recipes), "yes" if restless else "no", TICKING]
        with subprocess.Popen([sys.executable, "-c", CHILD, *words], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            handle = child.stdout.readline().strip()
            time.sleep(restless or 0)
            child.kill()
        return handle

    return leave


async def test_a_killed_daemon_s_guest_is_adopted(
    make_driver: Callable[..., object], leave_behind: Callable[..., str], ask: Ask, lease: Lease
) -> None:
    handle = await trio.to_thread.run_sync(leave_behind)
    async with make_driver() as driver:  # type: ignore[attr-defined]
        recovery = await driver.recover(handle)
        assert recovery.state is RecoveryState.RUNNING
        assert recovery.device is not None
        assert recovery.device.handle == handle
        assert (await driver.recover(handle)).state is RecoveryState.RUNNING
        assert (await driver.create(ask("kept"))).handle == handle, "the same identity is the same guest"
        async with driver.open(recovery.device, lease) as session:
            process = await session.attach("ticks")
            seen: list[int] = []
            async for output in process:
                seen += [int(number) for number in output.data.split()]
                if len(seen) > 20:
                    break
            await process.aclose()
        assert seen == list(range(seen[0], seen[0] + len(seen))), "no output of a background process is lost"
        (process_identity,) = processes_in(driver._all()._folder / "kept")
    # this daemon has been stopped in good order: the guest runs on; then it ends while nobody looks
    assert ProcessIdentity.of(process_identity.pid) == process_identity
    os.kill(process_identity.pid, signal.SIGKILL)
    await end_processes(Path(msgspec.json.decode(handle)["folder"]))
    async with make_driver() as driver:  # type: ignore[attr-defined]
        ended = await driver.recover(handle)
        assert (ended.state, ended.device) == (RecoveryState.ENDED, None)
        lost = await driver.recover(handle)
        assert lost.state is RecoveryState.LOST


@pytest.mark.parametrize("seconds", [0.05, 0.3, 0.55])
async def test_a_daemon_killed_in_the_middle_of_something(
    make_driver: Callable[..., object], leave_behind: Callable[..., str], lease: Lease, seconds: float
) -> None:
    handle = await trio.to_thread.run_sync(partial(leave_behind, seconds))
    async with make_driver() as driver:  # type: ignore[attr-defined]
        recovery = await driver.recover(handle)
        assert recovery.state is RecoveryState.RUNNING, recovery
        fact = await driver.resume("kept")
        async with driver.open(fact, lease) as session:
            first = int((await run(session, Command(argv=("cat", "/root/ticks")))).stdout or 0)
            process = await session.attach("ticks")
            async for _ in process:
                break
            await process.aclose()
            last = await run(session, Command(argv=("/bin/sh", "-c", "sleep 0.2; cat /root/ticks")))
            assert int(last.stdout) > first, "its process goes on"
        made = await driver.snapshot("kept", "after")
        assert made.warm
        await driver.destroy("kept")


async def test_a_walk_loses_no_file(driver: MicrovmDriver, shell: Shell, ask: Ask, tmp_path: Path) -> None:
    """Pause, resume, snapshot and fork at random; every guest must have exactly the files that were written to it."""
    dice = random.Random(20)
    guests: dict[str, tuple[DeviceFact, str]] = {}
    fact = await driver.create(ask("walk-0"))
    await shell(fact, "head -c 200000 /dev/urandom > /root/f0")
    guests["walk-0"] = (fact, await shell(fact, HASHES))
    for step in range(1, 16):
        name = dice.choice(sorted(guests))
        fact, hashes = guests[name]
        deed = dice.choice(("write", "suspend", "freeze", "fork", "fork suspended"))
        if deed == "write":
            await shell(fact, f"head -c 200000 /dev/urandom > /root/f{step}")
        elif deed == "suspend":
            await driver.suspend(name)
            await driver.resume(name)
        elif deed == "freeze":
            capsule = driver._all()._known[name]
            await capsule.freeze()
            await capsule.thaw()
        else:
            if deed == "fork suspended":
                await driver.suspend(name)
            await driver.snapshot(name, f"walk-{step}")
            await driver.resume(name)
            fork = await driver.create(ask(f"walk-{step}", template=f"walk-{step}"))
            assert await shell(fork, HASHES) == hashes, f"step {step}: {deed} of {name}"
            guests[f"walk-{step}"] = (fork, hashes)
        now = await shell(fact, HASHES)
        assert deed == "write" or now == hashes, f"step {step}: {deed} of {name}"
        guests[name] = (fact, now)
    for name, (fact, hashes) in guests.items():
        assert await shell(fact, HASHES) == hashes, name
