"""The driver on simulated devices, through the real adb server: the oldest and the newest that can be installed."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import trio

from anvild.sdk import DeviceFact, DriverContext, Lease, Sighting
from anvild_android.driver import AndroidDriver
from anvild_android.session.session import AndroidSession
from anvild_android.settings import AndroidSettings
from anvild_android.simulator import DeviceSpec, SimulatedDevice

SERIAL = "SIM0001"
LEASE = Lease(lease_id="lease", fence=1, holder="test")
DEADLINE = 10.0


def programs() -> dict[str, str | None]:
    """The adb programs that are installed: Debian's, and the one inside the wheel of adbutils."""
    found = importlib.util.find_spec("adbutils")
    wheel = Path(found.origin or "").with_name("binaries") / "adb" if found else None
    return {"debian": shutil.which("adb"), "wheel": str(wheel) if wheel and wheel.exists() else None}


REASONS = {"debian": "needs adb: apt install adb", "wheel": "needs the adb inside a wheel: pip install adbutils"}


def program_or_skip(name: str) -> str:
    """Return an adb program, or skip the test with what would install it."""
    found = programs()[name]
    if found is None:
        pytest.skip(REASONS[name])
    return found


@contextlib.contextmanager
def adb_server(name: str, home: Path) -> Iterator[str]:
    """Run an adb server of somebody else, and give its address."""
    program = program_or_skip(name)
    known = {**os.environ, "HOME": str(home), "ADB_MDNS": "0", "ADB_USB": "0", "ADB_LOCAL_TRANSPORT_MAX_PORT": "5554"}
    with socket.create_server(("127.0.0.1", 0)) as listener, (home / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [program, "-L", f"acceptfd:{listener.fileno()}", "nodaemon", "server"],
            pass_fds=[listener.fileno()],
            env=known,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.kill()
            server.wait()


@pytest.fixture(scope="session")
def debian_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with adb_server("debian", tmp_path_factory.mktemp("adb")) as address:
        yield address


@pytest.fixture(scope="session")
def wheel_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with adb_server("wheel", tmp_path_factory.mktemp("adb")) as address:
        yield address


@pytest.fixture(params=["debian", "wheel"])
def both_servers(request: pytest.FixtureRequest) -> str:
    """The address of a server, once for each version of adb."""
    address: str = request.getfixturevalue(f"{request.param}_server")
    return address


@pytest.fixture
def server(wheel_server: str) -> str:
    """The server of tests that need not run twice; a module overrides it."""
    return wheel_server


class Phone:
    """A simulated device, the driver that sees it, and what the driver has reported."""

    def __init__(self, device: SimulatedDevice, driver: AndroidDriver) -> None:
        self.device = device
        self.driver = driver
        self.reports: list[Sighting] = []
        self._changed = trio.Event()

    async def report(self, sighting: Sighting) -> None:
        self.reports.append(sighting)
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def reported(self, wanted: Callable[[Sighting], bool]) -> Sighting:
        """Wait until the last report is as ``wanted``, and return it."""
        with trio.fail_after(DEADLINE):
            while not self.reports or not wanted(self.reports[-1]):
                await self._changed.wait()
        return self.reports[-1]

    async def ready(self) -> DeviceFact:
        return (await self.reported(lambda each: each.kind == "seen" and each.device.status == "ready")).device

    async def gone(self) -> DeviceFact:
        return (await self.reported(lambda each: each.kind == "lost")).device

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[AndroidSession]:
        device = await self.ready()
        with trio.fail_after(DEADLINE):
            async with self.driver.open(device, LEASE) as session:
                assert isinstance(session, AndroidSession)
                yield session


def ignore(*_words: object, **_values: object) -> None:
    """A log that nobody reads."""


def make_driver(root: Path, **settings: Any) -> AndroidDriver:
    (root / "state").mkdir(exist_ok=True)
    return AndroidDriver(
        DriverContext(
            settings=AndroidSettings(**settings),
            host="test",
            state_dir=root / "state",
            cache_dir=root / "cache",
            data_path=(),
            log=ignore,
        )
    )


MakePhone = Callable[..., AbstractAsyncContextManager[Phone]]


@pytest.fixture
def make_phone(tmp_path: Path, server: str) -> MakePhone:
    """Start a simulated device and a driver that knows its address: ``async with make_phone(quota=…) as phone``."""
    if not (shutil.which("bwrap") and shutil.which("busybox")):
        pytest.skip("needs bubblewrap and busybox: apt install bubblewrap busybox-static")

    @contextlib.asynccontextmanager
    async def make(**values: Any) -> AsyncIterator[Phone]:
        spec = DeviceSpec(**{"serial": SERIAL, "off_seconds": 0.05, "boot_seconds": 0.2, **values})
        device = SimulatedDevice(spec, tmp_path / "device")
        async with trio.open_nursery() as nursery:
            await nursery.start(device.run)
            address = f"127.0.0.1:{device.port}"
            driver = make_driver(tmp_path, server=server, network={spec.serial: address})
            await driver.start()
            phone = Phone(device, driver)
            try:
                nursery.start_soon(driver.watch, phone.report)
                yield phone
            finally:
                with trio.CancelScope(shield=True):
                    await _forget(driver, address)
                    await driver.stop()
            nursery.cancel_scope.cancel()

    return make


async def _forget(driver: AndroidDriver, address: str) -> None:
    """Let the server, which is shared by tests, not look for a device that has ended."""
    with contextlib.suppress(Exception):
        await driver.fleet.server.detach(address)


@pytest.fixture
async def phone(make_phone: MakePhone) -> AsyncIterator[Phone]:
    async with make_phone() as phone:
        yield phone


@pytest.fixture
async def session(phone: Phone) -> AsyncIterator[AndroidSession]:
    async with phone.session() as session:
        yield session


Collect = Callable[[trio.abc.ReceiveStream], Awaitable[bytes]]


@pytest.fixture
def collect() -> Collect:
    """Read a stream to its end, and close it."""

    async def read(stream: trio.abc.ReceiveStream) -> bytes:
        async with stream:
            return b"".join([bytes(chunk) async for chunk in stream])

    return read
