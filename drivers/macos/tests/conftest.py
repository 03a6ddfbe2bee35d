"""A real sshd on loopback as the Mac's, whose sessions find the stubs of Apple's tools first in PATH."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import select
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from anvild.sdk import DeviceFact, DriverContext, Lease, Sighting
from anvild_macos.driver import MacosDriver
from anvild_macos.settings import HostSettings, MacosSettings
from anvild_macos.ssh import SshPlace

SSHD = "/usr/sbin/sshd"
STUBS = Path(__file__).with_name("stubs")
RUN_FOLDER = Path("/run/sshd")


class Sshd:
    """A running sshd with keys of its own, and the settings that reach it."""

    def __init__(self, folder: Path, home: Path, process: subprocess.Popen[str], port: int) -> None:
        self.folder = folder
        self.home = home
        self.process = process
        self.port = port

    @property
    def environment(self) -> dict[str, str]:
        return environment(self.home)

    def settings(self, **changes: Any) -> HostSettings:
        given = {
            "name": "mini",
            "address": "127.0.0.1",
            "user": pwd.getpwuid(os.getuid()).pw_name,
            "port": self.port,
            "identity_file": str(self.folder / "client"),
            "ssh_config": str(self.folder / "ssh_config"),
        }
        return msgspec.convert({**given, **changes}, HostSettings)

    def cut(self) -> None:
        """End every connection at once."""
        for pid in servers(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)


def servers(parent: int) -> list[int]:
    """The processes of sshd below another, which serve one connection each, and not the commands below them."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = stat.read_text().rpartition(")")
            if int(rest.split()[1]) == parent and name.endswith("(sshd"):
                pid = int(stat.parent.name)
                found += [pid, *servers(pid)]
    return found


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def keygen(path: Path) -> str:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)], check=True)
    return path.with_suffix(".pub").read_text()


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """Start a real sshd as a child, and end it."""
    if not Path(SSHD).exists() or shutil.which("ssh") is None:
        pytest.skip("there is no sshd to stand for a Mac's: apt install openssh-server openssh-client")
    folder = tmp_path_factory.mktemp("sshd")
    home = tmp_path_factory.mktemp("mac")
    host_key = keygen(folder / "host")
    (folder / "authorized_keys").write_text(keygen(folder / "client"))
    keygen(folder / "stranger")
    made = os.getuid() == 0 and not RUN_FOLDER.exists()
    if made:
        RUN_FOLDER.mkdir(mode=0o755)
    process, port = start_sshd(folder, home)
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")
    (folder / "ssh_config").write_text(
        f"Host *\n  IdentitiesOnly yes\n  UserKnownHostsFile {folder}/known_hosts\n  GlobalKnownHostsFile /dev/null\n"
    )
    running = Sshd(folder, home, process, port)
    try:
        yield running
    finally:
        running.cut()
        process.terminate()
        process.wait(10)
        assert process.stderr is not None
        process.stderr.close()
        if made:
            RUN_FOLDER.rmdir()


def environment(home: Path) -> dict[str, str]:
    """What finds the stubs before all other programs."""
    return {"PATH": f"{STUBS}:/usr/bin:/bin", "STUB_PYTHON": sys.executable, "STUB_HOME": str(home)}


def start_sshd(folder: Path, home: Path) -> tuple[subprocess.Popen[str], int]:
    for _ in range(5):  # another may take the port between the choice and the start
        port = free_port()
        (folder / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1:{port}\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized_keys\n"
            "StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\nPidFile none\n"
            "KexAlgorithms curve25519-sha256\nPrintMotd no\nMaxSessions 10\nMaxStartups 50\n"
            # A shell of level 3 does not read the start-up files of this account, which are no part of the test.
            f"SetEnv SHLVL=3 {' '.join(f'{name}={value}' for name, value in environment(home).items())}\n"
        )
        process = subprocess.Popen(
            [SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        for line in process.stderr:
            if "Server listening" in line:
                return process, port
        process.wait(10)
        process.stderr.close()
    pytest.fail("sshd did not start")


PlaceMaker = Callable[..., AbstractAsyncContextManager[SshPlace]]


@pytest.fixture
def at_place(sshd: Sshd) -> PlaceMaker:
    """Hold a connection to the Mac within a block."""

    @contextlib.asynccontextmanager
    async def at(**changes: Any) -> AsyncIterator[SshPlace]:
        place = SshPlace(sshd.settings(**changes), lambda *_words, **_values: None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(place.serve)
            yield place
            nursery.cancel_scope.cancel()

    return at


@pytest.fixture
async def place(at_place: PlaceMaker) -> AsyncIterator[SshPlace]:
    async with at_place() as connected:
        await connected.connected()
        yield connected


class Stub:
    """What the stubs of Apple's tools know and have been asked."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def reset(self) -> None:
        for name in ("state.json", "calls", "hanging", "environment", "recording"):
            (self.home / name).unlink(missing_ok=True)

    @property
    def state(self) -> dict[str, Any]:
        with self.locked():
            return self._read()

    def change(self, **state: Any) -> None:
        with self.locked():
            (self.home / "state.json").write_text(json.dumps(self._read() | state))

    def set(self, **modes: Any) -> None:
        with self.locked():
            known = self._read()
            known["modes"] = {**known.get("modes", {}), **modes}
            (self.home / "state.json").write_text(json.dumps(known))

    def calls(self, *words: str) -> list[list[str]]:
        """The calls that begin with words."""
        made = [json.loads(line) for line in (self.home / "calls").read_text().splitlines()]
        return [call for call in made if call[: len(words)] == list(words)]

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        with (self.home / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _read(self) -> dict[str, Any]:
        path = self.home / "state.json"
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return found


@pytest.fixture
def stub(sshd: Sshd) -> Iterator[Stub]:
    stub = Stub(sshd.home)
    stub.reset()
    yield stub
    refused = (stub.home / "refused").read_text() if (stub.home / "refused").exists() else ""
    (stub.home / "refused").unlink(missing_ok=True)
    assert refused == "", "the driver gave a tool arguments that it does not take"


class Running:
    """A driver at work, and what it has reported."""

    def __init__(self, driver: MacosDriver) -> None:
        self.driver = driver
        self.sightings: list[Sighting] = []
        self._heard = trio.Event()

    async def report(self, sighting: Sighting) -> None:
        self.sightings.append(sighting)
        self._heard.set()
        self._heard = trio.Event()
        await trio.lowlevel.checkpoint()

    async def until(self, wanted: Callable[[list[Sighting]], bool]) -> None:
        with trio.fail_after(60):
            while not wanted(self.sightings):
                await self._heard.wait()

    def device(self, name: str) -> DeviceFact:
        return [sighting.device for sighting in self.sightings if sighting.device.name == name][-1]

    @contextlib.asynccontextmanager
    async def open(self, name: str) -> AsyncIterator[Any]:
        async with self.driver.open(self.device(name), LEASE) as session:
            yield session


LEASE = Lease(lease_id="lease", fence=1, holder="test")


@pytest.fixture
def make_driver(sshd: Sshd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., MacosDriver]]:
    """Make drivers that have the same state, as those of one daemon after another."""
    root = tmp_path_factory.mktemp("daemon")

    def make(**settings: Any) -> MacosDriver:
        return MacosDriver(
            DriverContext(
                settings=MacosSettings(**{"hosts": (sshd.settings(),), **settings}),
                host="test",
                state_dir=root / "state",
                cache_dir=root / "cache",
                data_path=(),
                log=lambda *_words, **_values: None,
            )
        )

    yield make
    if (root / "state/token").exists():
        shutil.rmtree(f"/tmp/anvild-{(root / 'state/token').read_text()}", ignore_errors=True)


@pytest.fixture
def running(make_driver: Callable[..., MacosDriver], stub: Stub) -> Callable[..., AbstractAsyncContextManager[Running]]:
    """Run a driver within a block, from its start to its stop, as a daemon does."""

    @contextlib.asynccontextmanager
    async def run(**settings: Any) -> AsyncIterator[Running]:
        driver = make_driver(**settings)
        await driver.start()
        working = Running(driver)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(driver.watch, working.report)
            await working.until(lambda seen: any(each.device.name == "Lab Watch" for each in seen))
            yield working
            nursery.cancel_scope.cancel()
        await driver.stop()

    return run


@pytest.fixture
async def lab(running: Callable[..., AbstractAsyncContextManager[Running]]) -> AsyncIterator[Running]:
    async with running() as working:
        yield working


@pytest.fixture
def gone() -> Callable[[int], bool]:
    """Tell whether a process has ended, or ends soon."""

    def ended(pid: int) -> bool:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return True
        try:
            return bool(select.select([descriptor], [], [], 60)[0])
        finally:
            os.close(descriptor)

    return ended
