# ruff: noqa: ASYNC240 - a test may touch small files while nothing else waits for its loop
"""Real guests in real QEMUs, from the real image: made, used, measured, ended."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trio

from anvild.sdk import (
    AlreadyExists,
    Command,
    DeviceFact,
    DeviceLost,
    DeviceRequest,
    InvalidArgument,
    Lease,
    NotFound,
    ResourceExhausted,
    Sighting,
    TerminalSize,
    WrongState,
    run,
)
from anvild_microvm import snapshots
from anvild_microvm.driver import MicrovmDriver
from anvild_microvm.process import processes_in
from anvild_microvm.session import MicrovmSession


async def ignore(line: str) -> None:
    """Nobody reads this progress."""


Ask = Callable[..., DeviceRequest]
Shell = Callable[[DeviceFact, str], Awaitable[str]]

SELF = (
    "hostname; cat /etc/machine-id /proc/sys/kernel/random/boot_id; head -c 8 /dev/urandom | od -An -tx8; date +%s.%N"
)
CLOCK_SECONDS = 0.5


def folder(driver: MicrovmDriver, identity: str) -> Path:
    return driver.context.state_dir / "capsules" / identity


def groups(driver: MicrovmDriver, identity: str) -> list[str]:
    record = driver._all()._known[identity].record
    return [group for group in record.groups if Path(group).exists()]


async def test_clones_are_machines_of_their_own(driver: MicrovmDriver, shell: Shell, ask: Ask) -> None:
    facts: list[DeviceFact] = []

    async def create(identity: str) -> None:
        facts.append(await driver.create(ask(identity, environment={"GREETING": "hello"})))

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(create, f"c{number}")
    answers = []
    for fact in facts:
        async with driver.open(fact, Lease(lease_id="l", fence=1, holder="t")) as session:
            assert isinstance(session, MicrovmSession)
            before = time.time()
            done = await run(session, Command(argv=("/bin/sh", "-c", SELF + "; echo $GREETING")))
            after = time.time()
        *own, clock, greeting = done.stdout.decode().split()
        assert before - CLOCK_SECONDS < float(clock) < after + CLOCK_SECONDS
        assert greeting == "hello"
        answers.append(own)
    for part in zip(*answers, strict=True):
        assert len(set(part)) == len(facts), f"all clones must differ: {part}"
    assert {answer[0] for answer in answers} == {"test-c0", "test-c1", "test-c2"}
    assert facts[0].facts["generation"] == "1"


async def test_a_guest_is_used_measured_and_leaves_nothing(driver: MicrovmDriver, ask: Ask, lease: Lease) -> None:
    fact = await driver.create(ask("use"))
    async with driver.open(fact, lease) as session:
        assert isinstance(session, MicrovmSession)
        first = await session.sample()
        content = os.urandom(3 * 2**20 + 7)

        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(content), 100_000):
                yield content[start : start + 100_000]

        assert await session.write("/home/user/data", pieces(), user="user", mode=0o640) == len(content)
        entry = await session.stat("/home/user/data")
        assert (entry.owner, entry.mode, entry.size) == ("user", 0o640, len(content))
        done = await run(session, Command(argv=("sha256sum", "/home/user/data"), user="user"))
        assert done.stdout.split()[0].decode() == hashlib.sha256(content).hexdigest()
        read = b"".join([chunk async for chunk in await session.read("/home/user/data")])
        assert read == content

        size = TerminalSize(columns=101, rows=33)
        shown = bytearray()
        async with await session.start(Command(argv=("stty", "size"), terminal=size)) as process:
            async for output in process:
                shown += output.data
            assert (await process.wait()).ok
        assert shown.split() == [b"33", b"101"]
        with pytest.raises(NotFound):
            await session.start(Command(argv=("/no/such/program",)))
        assert any("agent.pyz" in process.command for process in await session.processes())

        assert (await run(session, Command(argv=("sync",)))).exit.ok
        last = await session.sample()
        assert last.cpu > 0
        assert last.written > first.written
        assert last.disk > len(content) - 2**20
        assert 2**20 < last.memory < 700 * 2**20
    assert processes_in(folder(driver, "use").resolve())
    used = groups(driver, "use")
    await driver.destroy("use")
    await driver.destroy("use")
    assert not folder(driver, "use").exists()
    assert processes_in(folder(driver, "use").resolve()) == []
    assert not [group for group in used if Path(group).exists()]
    with pytest.raises(DeviceLost):
        async with driver.open(fact, lease):
            pass


async def test_qemu_is_nobody_and_limited(driver: MicrovmDriver, ask: Ask) -> None:
    await driver.create(ask("low"))
    (process,) = processes_in(folder(driver, "low").resolve())
    status = await trio.to_thread.run_sync(Path(f"/proc/{process.pid}/status").read_text)
    if os.geteuid() == 0:
        assert "Uid:\t0" not in status
    assert "Seccomp:\t2" in status
    assert os.getsid(process.pid) == process.pid, "it outlives the daemon: a session of its own"
    record = driver._all()._known["low"].record
    assert record.missing_limits or groups(driver, "low")


async def test_making_twice_is_making_once(driver: MicrovmDriver, ask: Ask) -> None:
    first = await driver.create(ask("twice"))
    assert await driver.create(ask("twice")) == first
    with pytest.raises(AlreadyExists):
        await driver.create(ask("twice", template="other"))


async def test_what_cannot_be_made_says_why(driver: MicrovmDriver, ask: Ask) -> None:
    with pytest.raises(NotFound, match="there is no template 'none'; there are minimal"):
        await driver.create(ask("no", template="none"))
    with pytest.raises(InvalidArgument, match="is no name for a template"):
        await driver.create(ask("no", template="../minimal"))
    with pytest.raises(InvalidArgument, match="a smaller one cannot be had"):
        await driver.create(ask("no", disk=2**20))
    assert not folder(driver, "no").exists()


async def test_an_image_that_was_not_built_is_named_with_its_command(
    make_driver: Callable[..., object], driver: MicrovmDriver, ask: Ask, tmp_path: Path
) -> None:
    recipes = tmp_path / "data" / "images"
    await trio.to_thread.run_sync(lambda: recipes.mkdir(parents=True))
    await trio.to_thread.run_sync((recipes / "special.toml").write_text, 'packages = ["hello"]')
    driver.context = type(driver.context)(
        **{name: getattr(driver.context, name) for name in driver.context.__struct_fields__}
        | {"data_path": (tmp_path / "data",)}
    )
    with pytest.raises(NotFound, match="anvil image build special"):
        await driver.create(ask("no", template="special"))
    with pytest.raises(NotFound, match="no recipe 'odd' on the data path; there are: special"):
        await driver.build_image("odd", ignore)


async def test_slots_are_kept(make_driver: Callable[..., AsyncIterator[MicrovmDriver]], ask: Ask) -> None:
    async with make_driver(slots=1) as driver:  # type: ignore[attr-defined]
        assert (await driver.describe()).slots == 1
        await driver.create(ask("one"))
        with pytest.raises(ResourceExhausted, match="all 1 slots"):
            await driver.create(ask("two"))
        await driver.suspend("one")
        await driver.create(ask("two"))
        with pytest.raises(ResourceExhausted):
            await driver.resume("one")
        for identity in ("one", "two"):
            await driver.destroy(identity)


async def test_a_cancelled_making_leaves_nothing(driver: MicrovmDriver, ask: Ask) -> None:
    await driver.templates()
    for patience in (0.01, 0.05, 0.1, 0.2):
        with trio.move_on_after(patience):
            await driver.create(ask("brief"))
        await driver.destroy("brief")
        assert not folder(driver, "brief").exists()
    capsules = await trio.to_thread.run_sync(lambda: list(folder(driver, "x").parent.glob("[!.]*")))
    assert capsules == []
    assert (await driver.create(ask("brief"))).identity == "brief"


async def test_twenty_at_once(driver: MicrovmDriver, shell: Shell, ask: Ask) -> None:
    made: list[DeviceFact] = []

    async def create(number: int) -> None:
        made.append(await driver.create(ask(f"many-{number}")))

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(create, number)
    assert len({fact.identity for fact in made}) == 20
    assert (await shell(made[-1], "hostname")).strip() == f"test-{made[-1].identity}"
    async with trio.open_nursery() as nursery:
        for fact in made:
            nursery.start_soon(driver.destroy, fact.identity)


async def test_a_frozen_guest_takes_no_verb_and_goes_on(driver: MicrovmDriver, ask: Ask, lease: Lease) -> None:
    fact = await driver.create(ask("cold"))
    async with driver.open(fact, lease) as session:
        assert isinstance(session, MicrovmSession)
        await session.freeze()
        await session.freeze()
        with pytest.raises(WrongState, match="frozen: thaw it first"):
            await session.start(Command(argv=("true",)))
        await session.thaw()
        await session.thaw()
        before = time.time()
        done = await run(session, Command(argv=("date", "+%s.%N")))
        assert float(done.stdout) > before - CLOCK_SECONDS


async def test_a_guest_that_ends_by_itself_is_reported(driver: MicrovmDriver, ask: Ask, lease: Lease) -> None:
    send, receive = trio.open_memory_channel[Sighting](10)
    async with trio.open_nursery() as nursery:
        fact = await driver.create(ask("gone"))
        nursery.start_soon(driver.watch, send.send)
        assert (await receive.receive()).kind == "seen"
        async with driver.open(fact, lease) as session:
            assert isinstance(session, MicrovmSession)
            (process,) = processes_in(folder(driver, "gone").resolve())
            os.kill(process.pid, signal.SIGKILL)
            with trio.fail_after(60):
                sighting = await receive.receive()
            assert (sighting.kind, sighting.device.identity) == ("lost", "gone")
            assert sighting.device.reason == "QEMU has ended"
            with pytest.raises(DeviceLost):
                await session.start(Command(argv=("true",)))
        nursery.cancel_scope.cancel()
    with pytest.raises(DeviceLost):
        async with driver.open(fact, lease):
            pass


async def test_a_guest_that_powers_off_says_so(driver: MicrovmDriver, ask: Ask, lease: Lease) -> None:
    send, receive = trio.open_memory_channel[Sighting](10)
    async with trio.open_nursery() as nursery:
        fact = await driver.create(ask("off"))
        nursery.start_soon(driver.watch, send.send)
        await receive.receive()
        async with driver.open(fact, lease) as session:
            assert isinstance(session, MicrovmSession)
            script = "import ctypes; ctypes.CDLL(None).reboot(0x4321FEDC)"
            with pytest.raises(DeviceLost):
                await run(session, Command(argv=("python3", "-c", script)), deadline=30)
        with trio.fail_after(60):
            assert (await receive.receive()).device.reason == "the guest powered itself off"
        nursery.cancel_scope.cancel()


async def test_reboot_and_clean(driver: MicrovmDriver, shell: Shell, ask: Ask, lease: Lease) -> None:
    fact = await driver.create(ask("again"))
    own = "cat /etc/machine-id; hostname"
    before = await shell(fact, f"echo kept > /root/kept; {own}")
    boot = await shell(fact, "cat /proc/sys/kernel/random/boot_id")
    async with driver.open(fact, lease) as session:
        assert isinstance(session, MicrovmSession)
        await session.start(Command(argv=("sleep", "1000"), tag="stays"))
        await session.reboot()
        done = await run(session, Command(argv=("/bin/sh", "-c", f"cat /root/kept; {own}")))
        assert done.stdout.decode() == "kept\n" + before
        assert not [process for process in await session.processes() if process.tag]
    assert await shell(fact, "cat /proc/sys/kernel/random/boot_id") != boot
    await driver.suspend("again")  # what has been booted cold can be put aside as well
    await driver.resume("again")
    assert await shell(fact, "cat /root/kept") == "kept\n"
    await driver.clean(fact)
    assert await shell(fact, f"ls /root; {own}") == before


async def test_another_size_boots_cold(driver: MicrovmDriver, shell: Shell, ask: Ask) -> None:
    fact = await driver.create(ask("big", memory=384 * 2**20, vcpus=2, disk=6 * 2**30))
    answer = await shell(fact, "nproc; grep MemTotal /proc/meminfo; df --output=size -B1M / | tail -1")
    words = answer.split()
    assert words[0] == "2"
    assert 330_000 < int(words[2]) < 384 * 1024
    assert int(words[-1]) > 5700
    assert fact.facts["disk"] == str(6 * 2**30)


async def test_a_deep_disk_is_made_flat_while_the_guest_runs(
    driver: MicrovmDriver, shell: Shell, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    fact = await driver.create(ask("deep"))
    capsule = driver._all()._known["deep"]
    for number in range(4):
        await shell(fact, f"head -c 300000 /dev/urandom > /root/f{number}")
        await driver.snapshot("deep", f"deep-{number}")
    assert len(capsule.record.layers) == 6
    hashes = await shell(fact, "sync; echo 3 > /proc/sys/vm/drop_caches; sha256sum /root/f*")
    with trio.fail_after(60):
        await capsule.flatten()
    assert len(capsule.record.layers) == 1
    names = await trio.to_thread.run_sync(lambda: {path.name for path in capsule.folder.glob("*.qcow2")})
    assert names == {*capsule.record.layers[1:], capsule.record.active, "empty.qcow2"}
    assert await shell(fact, "echo 3 > /proc/sys/vm/drop_caches; sha256sum /root/f*") == hashes
    for number in range(2):  # what the template below makes flat is in more than one layer
        await shell(fact, f"head -c 300000 /dev/urandom > /root/g{number}")
        await driver.snapshot("deep", f"deeper-{number}")
    hashes = await shell(fact, "sync; echo 3 > /proc/sys/vm/drop_caches; sha256sum /root/*")
    monkeypatch.setattr(snapshots, "DEPTH_LIMIT", 1)
    await driver.snapshot("deep", "flat")
    fork = await driver.create(ask("deep-fork", template="flat"))
    assert len(driver._all()._known["deep-fork"].record.layers) == 2
    assert await shell(fork, "echo 3 > /proc/sys/vm/drop_caches; sha256sum /root/*") == hashes
