"""Simulated devices, drivers on them, app packages, and the third parties' programs that check the simulator."""

from __future__ import annotations

import contextlib
import io
import os
import platform
import plistlib
import shutil
import subprocess
import zipfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from anvild.sdk import DeviceFact, DeviceStatus, DriverContext, Lease, Sighting
from anvild_ios.driver import IosDriver
from anvild_ios.session import IosSession
from anvild_ios.settings import IosSettings
from anvild_ios.simulator import SimulatedDevice, Simulator, make_devices
from anvild_ios.simulator.pairing import Pairing

LEASE = Lease(lease_id="lease", fence=1, holder="test")


class Watched:
    """What a driver has reported, as it comes."""

    def __init__(self) -> None:
        self.sightings: list[Sighting] = []
        self._changed = trio.Event()

    async def report(self, sighting: Sighting) -> None:
        self.sightings.append(sighting)
        changed, self._changed = self._changed, trio.Event()
        changed.set()
        await trio.lowlevel.checkpoint()

    async def until(self, wanted: Callable[[Sighting], bool], *, seen: int = 0) -> Sighting:
        """Return the first sighting from number ``seen`` on that fits."""
        with trio.fail_after(60):
            while True:
                for each in self.sightings[seen:]:
                    if wanted(each):
                        return each
                await self._changed.wait()

    async def ready(self, udid: str, *, seen: int = 0) -> DeviceFact:
        def fits(each: Sighting) -> bool:
            return each.device.identity == udid and each.device.status is DeviceStatus.READY and each.kind == "seen"

        return (await self.until(fits, seen=seen)).device


class Bench:
    """A simulator, a driver on it, and what the driver has reported."""

    def __init__(self, simulator: Simulator, driver: IosDriver, watched: Watched) -> None:
        self.simulator = simulator
        self.driver = driver
        self.watched = watched

    @property
    def device(self) -> SimulatedDevice:
        return next(iter(self.simulator.devices.values()))

    @property
    def udid(self) -> str:
        return self.device.udid

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[IosSession]:
        fact = await self.watched.ready(self.udid)
        async with self.driver.open(fact, LEASE) as session:
            assert isinstance(session, IosSession)
            yield session


def driver_at(root: Path, **settings: Any) -> IosDriver:
    return IosDriver(
        DriverContext(
            settings=IosSettings(**settings),
            host="test",
            state_dir=root / "state",
            cache_dir=root / "cache",
            data_path=(),
            log=lambda *_words, **_values: None,
        )
    )


@pytest.fixture
def make_driver(tmp_path: Path) -> Callable[..., IosDriver]:
    """Make a driver with these settings, again and again on the same state."""
    return partial(driver_at, tmp_path)


@pytest.fixture
def running() -> Callable[[IosDriver], AbstractAsyncContextManager[Watched]]:
    """Run a driver as the daemon does, and note what it reports."""
    return watching


@pytest.fixture
def make_bench() -> type[Bench]:
    return Bench


@contextlib.asynccontextmanager
async def watching(driver: IosDriver) -> AsyncIterator[Watched]:
    """A driver as the daemon runs it."""
    watched = Watched()
    try:
        await driver.start()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(driver.watch, watched.report)
            yield watched
            nursery.cancel_scope.cancel()
    finally:
        await driver.stop()


@pytest.fixture(scope="session")
def pairing() -> Pairing:
    return Pairing()


@pytest.fixture
def start_simulator(pairing: Pairing) -> Callable[..., AbstractAsyncContextManager[Simulator]]:
    """Start simulated devices at a port of their own, or at a path."""

    @contextlib.asynccontextmanager
    async def start(
        devices: Sequence[SimulatedDevice] | None = None, listen: str = "127.0.0.1:0"
    ) -> AsyncIterator[Simulator]:
        simulator = Simulator(make_devices(1) if devices is None else devices, restart_seconds=0.05)
        simulator.pairing = pairing
        simulator.context = pairing.device_context()
        async with trio.open_nursery() as nursery:
            await nursery.start(simulator.run, listen)
            yield simulator
            nursery.cancel_scope.cancel()

    return start


@pytest.fixture
async def simulator(
    start_simulator: Callable[..., AbstractAsyncContextManager[Simulator]],
) -> AsyncIterator[Simulator]:
    async with start_simulator(make_devices(2)) as running_simulator:
        yield running_simulator


@pytest.fixture
async def bench(
    start_simulator: Callable[..., AbstractAsyncContextManager[Simulator]], tmp_path: Path
) -> AsyncIterator[Bench]:
    """One simulated device of iOS 16, and a driver on it that has no tool."""
    async with start_simulator() as simulator:
        driver = driver_at(tmp_path, usbmuxd=simulator.address, tool="/nowhere/ios")
        async with watching(driver) as watched:
            yield Bench(simulator, driver, watched)


@pytest.fixture
def make_ipa() -> Callable[..., bytes]:
    """Make an app package; ``without`` leaves a file out, ``info`` changes its property list."""

    def make(
        bundle: str = "com.example.demo", *, info: Mapping[str, Any] | None = None, without: str = "", padding: int = 0
    ) -> bytes:
        listed = {
            "CFBundleIdentifier": bundle,
            "CFBundleName": "Demo",
            "CFBundleExecutable": "Demo",
            "CFBundleShortVersionString": "1.2",
            "MinimumOSVersion": "14.0",
            **(info or {}),
        }
        files = {
            "Payload/Demo.app/Info.plist": plistlib.dumps(listed),
            "Payload/Demo.app/Demo": b"\xcf\xfa\xed\xfe" + os.urandom(padding),
            "Payload/Demo.app/_CodeSignature/CodeResources": b"<plist/>",
        }
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as archive:
            for name, data in files.items():
                if name != without:
                    archive.writestr(name, data)
        return made.getvalue()

    return make


@pytest.fixture
def tool() -> Callable[[str], str]:
    """Find a program of Debian's, or skip."""
    packages = {"ideviceinstaller": "ideviceinstaller"}

    def find(name: str) -> str:
        path = shutil.which(name)
        if path is None:
            pytest.skip(f"{name} is not installed: apt-get install {packages.get(name, 'libimobiledevice-utils')}")
        return path

    return find


@pytest.fixture(scope="session")
def go_ios() -> str:
    """The real go-ios, fetched once by npm into the user's cache."""
    if (found := shutil.which("ios")) is not None:
        return found
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anvild" / "go-ios"
    path = cache / f"node_modules/go-ios/dist/go-ios-linux-{machine}_linux_{machine}/ios"
    if not path.exists():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("go-ios is not installed, nor npm to fetch it: apt-get install npm")
        cache.mkdir(parents=True, exist_ok=True)
        argv = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(cache), "go-ios"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
        if not path.exists():
            pytest.skip(f"npm install go-ios brought no program for this machine: {done.stderr[-300:]}")
    return str(path)


@pytest.fixture
def run_program() -> Callable[..., Any]:
    """Run a third party's program against a simulator and return how it ended."""

    async def run(simulator: Simulator, *argv: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        address = simulator.address
        if address.startswith("/") and "go-ios" not in argv[0]:
            address = f"UNIX:{address}"
        with trio.fail_after(60):
            return await trio.run_process(
                list(argv),
                env={**os.environ, "USBMUXD_SOCKET_ADDRESS": address},
                capture_stdout=True,
                capture_stderr=True,
                check=check,
            )

    return run
