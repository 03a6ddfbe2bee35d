"""Fixtures of the simulator's tests: both adb servers, simulated devices, and a client that speaks to one of them."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from anvild_android.simulator import DeviceSpec, SimulatedDevice

DEADLINE = 20.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a device where none can be simulated."""
    if shutil.which("bwrap") and shutil.which("busybox"):
        return
    mark = pytest.mark.skip(reason="needs bubblewrap and busybox: apt install bubblewrap busybox-static")
    for item in items:
        if "simulate" in getattr(item, "fixturenames", ()):
            item.add_marker(mark)


class Server(msgspec.Struct, frozen=True):
    """A running adb server with its own program, port and home."""

    program: str
    port: int
    environment: dict[str, str]


class Done(msgspec.Struct, frozen=True):
    """What a finished adb left."""

    code: int
    out: str
    err: str
    raw: bytes

    @property
    def said(self) -> str:
        """Both outputs: which of them carries an error differs between versions of adb."""
        return self.out + self.err


class Adb:
    """Runs the real adb against one device."""

    def __init__(self, server: Server, device: SimulatedDevice) -> None:
        self.server = server
        self.device = device
        self.serial = f"127.0.0.1:{device.port}"

    async def bare(self, *arguments: str, stdin: bytes = b"") -> Done:
        """Run a command that names no device."""
        command = [self.server.program, *arguments]
        with trio.fail_after(DEADLINE):
            done = await trio.run_process(
                command, stdin=stdin, capture_stdout=True, capture_stderr=True, check=False, env=self.server.environment
            )
        text = done.stdout.decode(errors="replace")
        return Done(done.returncode, text, done.stderr.decode(errors="replace"), done.stdout)

    async def __call__(self, *arguments: str, stdin: bytes = b"") -> Done:
        """Run a command for the device."""
        return await self.bare("-s", self.serial, *arguments, stdin=stdin)

    async def shell(self, command: str, *, stdin: bytes = b"") -> str:
        """Run a command of the device that must succeed, and return its output."""
        done = await self("shell", command, stdin=stdin)
        assert done.code == 0, done.err
        return done.out

    async def connect(self) -> None:
        """Connect, and wait until the server says that the device is there."""
        await self.bare("disconnect", self.serial)
        await self.bare("connect", self.serial)
        await self("wait-for-device")

    async def state(self) -> str:
        """What the server says of the device; nothing when it does not know it."""
        lines = (await self.bare("devices")).out.splitlines()
        return next((line.split("\t")[1] for line in lines if line.startswith(self.serial)), "")

    async def reaches(self, state: str) -> None:
        """Wait until the server says so of the device."""
        await self(f"wait-for-{state}")


def _programs() -> dict[str, str | None]:
    found = importlib.util.find_spec("adbutils")
    wheel = Path(found.origin or "").with_name("binaries") / "adb" if found else None
    return {"debian": shutil.which("adb"), "wheel": str(wheel) if wheel and wheel.exists() else None}


REASONS = {"debian": "needs adb: apt install adb", "wheel": "needs the adb inside a wheel: pip install adbutils"}


@contextlib.contextmanager
def _serve(name: str, home: Path, **environment: str) -> Iterator[Server]:
    program = _programs()[name]
    if program is None:
        pytest.skip(REASONS[name])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        known = {
            **os.environ,
            "HOME": str(home),
            "ADB_MDNS": "0",
            "ADB_USB": "0",
            "ADB_LOCAL_TRANSPORT_MAX_PORT": "5554",
            "ANDROID_ADB_SERVER_PORT": str(port),
            **environment,
        }
        # The server is given a socket that listens already: the first client waits for it, and nobody polls.
        with (home / "server.log").open("wb") as log:
            server = subprocess.Popen(
                [program, "-L", f"acceptfd:{listener.fileno()}", "nodaemon", "server"],
                pass_fds=[listener.fileno()],
                env=known,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
    try:
        yield Server(program, port, known)
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="session", params=["debian", "wheel"])
def adb_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with _serve(request.param, tmp_path_factory.mktemp("adb")) as server:
        yield server


@pytest.fixture(scope="session")
def new_adb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The newest adb, with delayed acknowledgement."""
    with _serve("wheel", tmp_path_factory.mktemp("adb"), ADB_BURST_MODE="1") as server:
        yield server


MakeDevice = Callable[..., AbstractAsyncContextManager[SimulatedDevice]]


@pytest.fixture
def simulate(tmp_path: Path) -> MakeDevice:
    """Make a running device: ``async with simulate(serial=...) as device``."""

    @contextlib.asynccontextmanager
    async def make(folder: str = "device", **values: Any) -> AsyncIterator[SimulatedDevice]:
        spec = DeviceSpec(**{"serial": "SIM0001", "off_seconds": 0.05, "boot_seconds": 0.2, **values})
        device = SimulatedDevice(spec, tmp_path / folder)
        async with trio.open_nursery() as nursery:
            await nursery.start(device.run)
            yield device
            nursery.cancel_scope.cancel()

    return make


@pytest.fixture
async def device(simulate: MakeDevice) -> AsyncIterator[SimulatedDevice]:
    async with simulate() as device:
        yield device


Connect = Callable[[SimulatedDevice], AbstractAsyncContextManager[Adb]]


@pytest.fixture
def client(adb_server: Server) -> Connect:
    """Connect the real adb to a device: ``async with client(device) as adb``."""
    return functools.partial(_connected, adb_server)


@pytest.fixture
def stranger(adb_server: Server) -> Callable[[SimulatedDevice], Adb]:
    """An adb that has not connected yet."""
    return functools.partial(Adb, adb_server)


@pytest.fixture
def burst_client(new_adb_server: Server) -> Connect:
    """The same with the newest adb and delayed acknowledgement."""
    return functools.partial(_connected, new_adb_server)


@contextlib.asynccontextmanager
async def _connected(server: Server, device: SimulatedDevice) -> AsyncIterator[Adb]:
    adb = Adb(server, device)
    await adb.connect()
    try:
        yield adb
    finally:
        with trio.CancelScope(shield=True):
            await adb.bare("disconnect", adb.serial)


@pytest.fixture
async def adb(device: SimulatedDevice, adb_server: Server) -> AsyncIterator[Adb]:
    async with _connected(adb_server, device) as adb:
        yield adb
