"""Sandboxes, made by the real bubblewrap. These tests need a Linux host where the driver is healthy, or fail."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from anvild.sdk import (
    AlreadyExists,
    AnvilError,
    Command,
    Completed,
    DeviceLost,
    DeviceRequest,
    HealthState,
    InvalidArgument,
    Lease,
    NotFound,
    Pause,
    PermissionDenied,
    RecoveryState,
    ResourceExhausted,
    Sighting,
    Unavailable,
    run,
)
from anvild_sandbox.driver import SandboxDriver
from anvild_sandbox.launch import bubblewrap_options
from anvild_sandbox.record import Sandbox
from anvild_sandbox.session import SandboxSession

LEASE = Lease(lease_id="lease", fence=1, holder="test")


def request(identity: str = "box", **more: Any) -> DeviceRequest:
    return DeviceRequest(**{"template": "host", "name": identity, "identity": identity, **more})


def shell(script: str) -> Command:
    return Command(argv=("sh", "-c", script))


async def text(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


@contextlib.asynccontextmanager
async def box(driver: SandboxDriver, identity: str = "box", **more: Any) -> AsyncIterator[SandboxSession]:
    device = await driver.create(request(identity, **more))
    async with driver.open(device, LEASE) as session:
        assert isinstance(session, SandboxSession)
        yield session


async def output(session: SandboxSession, script: str) -> str:
    done = await run(session, shell(script))
    assert done.exit.ok, done
    return done.stdout.decode()


def record(tmp_path: Path, identity: str = "box") -> Sandbox:
    found = Sandbox.load(tmp_path / "state/devices" / identity)
    assert found is not None
    return found


def mounts() -> str:
    return Path("/proc/mounts").read_text()


def groups_of(identity: str) -> list[Path]:
    return [path for path in Path("/sys/fs/cgroup").rglob(f"anvil-sandbox/{identity}") if path.is_dir()]


async def test_the_driver_is_healthy_here(driver: SandboxDriver) -> None:
    described = await driver.describe()
    assert described.health.state is HealthState.HEALTHY, described.health.reason
    assert described.platforms == ("linux",)
    assert described.capabilities == ("exec", "files", "ports", "measure", "pause", "provision", "snapshot", "network")
    assert described.slots == 3


async def test_a_sandbox_is_made_once_and_for_all(driver: SandboxDriver) -> None:
    device = await driver.create(request(environment={"WORD": "hello"}, labels={"a": "b"}))
    assert await driver.create(request()) == device
    assert (device.identity, device.platform, device.facts["label.a"]) == ("box", "linux", "b")
    with pytest.raises(AlreadyExists):
        await driver.create(request(template="other"))
    async with driver.open(device, LEASE) as session:
        offered: Any = session
        assert await output(offered, "echo $WORD; pwd; hostname; tty || true") == "hello\n/root\nsandbox\nnot a tty\n"
        assert (await run(offered, Command(argv=("sh", "-c", "echo ~"), user="user"))).stdout == b"/home/user\n"
        assert await offered.write("/home/user/file", text(b"data")) == 4
        assert await output(offered, "cat /home/user/file") == "data"


async def test_what_cannot_be_made(driver: SandboxDriver) -> None:
    with pytest.raises(NotFound):
        await driver.create(request(template="no-such"))
    with pytest.raises(InvalidArgument):
        await driver.create(request(disk=2**30))
    for number in range(3):
        await driver.create(request(f"box-{number}"))
    with pytest.raises(ResourceExhausted):
        await driver.create(request())


async def test_a_sandbox_is_shut(driver: SandboxDriver, tmp_path: Path) -> None:
    async with box(driver) as session:
        assert await output(session, "ls -A /sys /home/user /root /mnt 2>/dev/null || true; id -u") == (
            "/home/user:\n\n/root:\n0\n"
        )
        status = await output(session, "cat /proc/self/status")
        assert "CapEff:\t0000000000000000" in status
        assert "CapBnd:\t0000000000000000" in status
        assert "Seccomp:\t2" in status
        assert "NoNewPrivs:\t1" in status
        assert len(await session.processes()) == 1
        links = await output(session, "cat /proc/net/dev | tail -n +3 | cut -d: -f1")
        assert links.split() == ["lo"]
        assert await output(session, "ls /proc/self/fd | wc -l") == "4\n"
        for forbidden in (
            "unshare --user true",
            "mount -t tmpfs tmpfs /tmp",
            "touch /usr/bin/new",
            "echo x > /proc/sys/kernel/core_pattern",
            "chroot / true",
            "kill -9 1 && test ! -e /proc/1",
            "cat /proc/1/mem",
        ):
            assert not (await run(session, shell(forbidden))).exit.ok, forbidden
        assert str(tmp_path) not in mounts()


async def test_what_a_sandbox_cannot_be_is_told(driver: SandboxDriver) -> None:
    async with box(driver) as session:
        failed = await session.agent.identify(hostname="other", time=1, entropy=b"x" * 32, environment={"A": "b"})
        assert set(failed) == {"hostname", "time", "entropy"}
        assert await output(session, "hostname; echo $A") == "sandbox\nb\n"


async def test_limits(driver: SandboxDriver) -> None:
    async with box(driver, memory=64 * 2**20) as session:
        hog = await run(session, shell("python3 -c 'x = bytearray(200 << 20); print(len(x))'"))
        assert not hog.exit.ok
        assert hog.stdout == b""
        forks = await run(session, shell("for i in $(seq 100); do sleep 5 & done; echo all"))
        assert b"all" not in forks.stdout
        assert await output(session, "echo alive") == "alive\n"
        quotas = [path.read_text() for group in groups_of("box") for path in group.glob("cpu.*quota*")]
        quotas += [path.read_text().split()[0] for group in groups_of("box") for path in group.glob("cpu.max")]
        assert [int(quota) for quota in quotas] == [100_000]


async def test_pause(driver: SandboxDriver) -> None:
    async with box(driver) as session:
        pause = session.require(Pause)
        loop = await session.start(shell("while :; do :; done"))
        await session.sample()
        await pause.freeze()
        await pause.freeze()
        await session.sample()
        with trio.move_on_after(0.1) as waited:
            await session.agent.ping()
        assert waited.cancelled_caught
        assert (await session.sample()).cpu == 0.0
        await pause.thaw()
        await pause.thaw()
        assert await output(session, "echo on") == "on\n"
        await loop.aclose()
        await pause.freeze()
    device = await driver.create(request())
    async with driver.open(device, LEASE) as again:
        await again.require(Pause).freeze()


async def test_measurement(driver: SandboxDriver) -> None:
    async with box(driver) as session:
        before = await session.sample()
        await output(session, "head -c 5000000 /dev/zero > /tmp/file; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done")
        after = await session.sample()
        assert after.disk - before.disk >= 5_000_000
        assert after.cpu > 0
        assert after.memory > 0
        assert after.at > before.at


async def test_snapshots_stand_on_one_another(driver: SandboxDriver) -> None:
    async with box(driver) as session:
        await output(session, "mkdir -p /srv/a; echo one > /srv/a/file; rm -rf /home/user; ln -s x /srv/link")
        made = await driver.snapshot("box", "first")
        assert (made.name, made.warm, made.size > 0) == ("first", False, True)
        await output(session, "echo later > /srv/later")
    async with box(driver, "second", template="first") as session:
        assert await output(session, "cat /srv/a/file; ls -A /srv /home; readlink /srv/link") == (
            "one\n/home:\n\n/srv:\na\nlink\nx\n"
        )
        await output(session, "rm -rf /srv/a; mkdir /srv/a; echo two > /srv/a/other; mkdir /home/user")
        await driver.snapshot("second", "next")
        await driver.remove_template("first")
        await driver.destroy("box")
        assert await output(session, "ls /srv/a") == "other\n"
    async with box(driver, "third", template="next") as session:
        assert await output(session, "ls /srv/a /home") == "/home:\nuser\n\n/srv/a:\nother\n"
        with pytest.raises(AlreadyExists):
            await driver.snapshot("third", "next")
        with pytest.raises(AlreadyExists):
            await driver.snapshot("third", "host")
        with pytest.raises(InvalidArgument):
            await driver.snapshot("third", "../up")
    assert [template.name for template in await driver.templates()] == ["host", "next"]
    with pytest.raises(NotFound):
        await driver.snapshot("none", "new")
    with pytest.raises(NotFound):
        await driver.remove_template("first")
    with pytest.raises(PermissionDenied):
        await driver.remove_template("host")


async def test_destroying_leaves_nothing(driver: SandboxDriver, tmp_path: Path) -> None:
    before = mounts()
    async with box(driver) as session:
        await session.start(Command(argv=("sleep", "1000"), tag="nap"))
        await session.freeze()
        known = record(tmp_path)
        assert groups_of("box")
        await driver.destroy("box")
        with pytest.raises((DeviceLost, AnvilError)):
            await session.agent.ping()
    assert not known.init.alive()
    assert not known.outer.alive()
    assert groups_of("box") == []
    assert mounts() == before
    assert list((tmp_path / "state/devices").iterdir()) == []
    await driver.destroy("box")
    await driver.destroy("never-was")


@pytest.mark.parametrize("checkpoints", [1, 3, 6, 10, 20, 40])
async def test_a_cancelled_create_leaves_nothing(driver: SandboxDriver, tmp_path: Path, checkpoints: int) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(driver.create, request())
        for _ in range(checkpoints):
            await trio.sleep(0.001)
        nursery.cancel_scope.cancel()
    if not (tmp_path / "state/devices/box").exists():
        assert groups_of("box") == []
    assert (await driver.create(request())).identity == "box"


async def test_a_sandbox_that_ends_by_itself_is_reported(driver: SandboxDriver, tmp_path: Path) -> None:
    send, receive = trio.open_memory_channel[Sighting](10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(driver.watch, send.send)
        device = await driver.create(request())
        assert await receive.receive() == Sighting(kind="seen", device=device)
        os.kill(record(tmp_path).init.pid, signal.SIGKILL)
        assert await receive.receive() == Sighting(kind="lost", device=device)
        nursery.cancel_scope.cancel()
    with pytest.raises(DeviceLost):
        async with driver.open(device, LEASE):
            raise AssertionError
    assert device.handle is not None
    assert (await driver.recover(device.handle)).state is RecoveryState.ENDED
    assert (await driver.recover("odd")).state is RecoveryState.LOST


DAEMON = """
import os, signal, sys
from pathlib import Path
import trio
sys.path[:0] = {path!r}
from anvil_sandbox_conftest import started
from anvild.sdk import Command, DeviceRequest, Lease

async def main():
    async with started(Path({root!r})) as driver:
        device = await driver.create(DeviceRequest(template="host", name="box", identity="box"))
        async with driver.open(device, Lease(lease_id="x", fence=1, holder="x")) as session:
            await session.start(Command(argv=("sh", "-c", "echo before; read x; echo after $x"), tag="job", stdin=True))
            print(device.handle, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

trio.run(main)
"""


async def test_a_sandbox_outlives_the_daemon(start_driver: Any, tmp_path: Path) -> None:
    (tmp_path / "anvil_sandbox_conftest.py").symlink_to(Path(__file__).with_name("conftest.py"))
    script = DAEMON.format(root=str(tmp_path), path=[str(tmp_path)])
    done = await trio.run_process([sys.executable, "-c", script], capture_stdout=True, check=False)
    assert done.returncode == -signal.SIGKILL
    async with start_driver() as driver:
        recovery = await driver.recover(done.stdout.decode().strip())
        assert recovery.state is RecoveryState.RUNNING
        async with driver.open(recovery.device, LEASE) as session:
            job = await session.attach("job")
            await job.send(b"all\n")
            await job.close_stdin()
            assert b"".join([chunk.data async for chunk in job]) == b"before\nafter all\n"
            assert (await job.wait()).ok
            await job.aclose()
        await driver.destroy("box")
    assert groups_of("box") == []


async def test_what_is_left_of_dead_sandboxes_is_put_away_at_the_start(start_driver: Any, tmp_path: Path) -> None:
    async with start_driver() as driver:
        await driver.create(request())
        known = record(tmp_path)
        await trio.to_thread.run_sync(known.init.end, 10.0)
        await trio.to_thread.run_sync(known.outer.end, 10.0)
        known.outer.reap()
    (tmp_path / "state/devices/half/work/work").mkdir(parents=True)
    (tmp_path / "state/devices/half/work/work").chmod(0)
    async with start_driver():
        assert list((tmp_path / "state/devices").iterdir()) == []
        assert groups_of("box") == []


async def test_a_failed_start_says_why(driver: SandboxDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = [*bubblewrap_options(), "--bind", "/no/such/place", "/mnt"]
    monkeypatch.setattr("anvild_sandbox.launch.bubblewrap_options", lambda: wrong)
    with pytest.raises(Unavailable, match="no/such/place"):
        await driver.create(request())
    assert groups_of("box") == []


def test_it_works_without_privileges(tmp_path_factory: pytest.TempPathFactory) -> None:
    """As another user, where this test runs as root; limits depend on the host and are not asked for."""
    root = Path("/tmp") / f"anvil-sandbox-test-{os.getpid()}"
    root.mkdir(mode=0o755)
    try:
        if os.geteuid() == 0:
            os.chown(root, 65534, 65534)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside trio's idle worker threads
            child = os.fork()
        if child == 0:
            code = 1
            try:
                if os.geteuid() == 0:
                    os.setgroups([])
                    os.setgid(65534)
                    os.setuid(65534)
                os.chdir("/")
                trio.run(_make_one, root)
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        subprocess.run(["rm", "-rf", str(root)], check=True)


async def _make_one(root: Path) -> None:
    from anvild.sdk import DriverContext
    from anvild_sandbox.settings import SandboxSettings

    driver = SandboxDriver(
        DriverContext(
            settings=SandboxSettings(),
            host="test",
            state_dir=root / "state",
            cache_dir=root / "cache",
            data_path=(),
            log=lambda *_words, **_values: None,
        )
    )
    await driver.start()
    device = await driver.create(request())
    async with driver.open(device, LEASE) as session:
        assert isinstance(session, SandboxSession) or "pause" not in device.capabilities
        offered: Any = session
        done: Completed = await run(offered, shell("rm -r /home/user && echo x > /srv/x && id -u"))
        assert done.stdout == b"0\n"
    await driver.snapshot("box", "copy")
    second = await driver.create(request("second", template="copy"))
    async with driver.open(second, LEASE) as session:
        offered = session
        assert await output(offered, "cat /srv/x; ls /home") == "x\n"
    for identity in ("box", "second"):
        await driver.destroy(identity)
    await driver.remove_template("copy")
    assert list((root / "state/devices").iterdir()) == []
    assert list((root / "state/layers").iterdir()) == []
