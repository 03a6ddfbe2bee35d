"""Fixtures: a started driver over the machine's cached image, and what a test needs to look into its guests."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import trio

from anvild.sdk import Command, DeviceFact, DeviceRequest, DriverContext, Lease, run
from anvild_microvm.driver import MicrovmDriver
from anvild_microvm.process import end_processes
from anvild_microvm.session import MicrovmSession
from anvild_microvm.settings import MicrovmSettings


async def ignore(line: str) -> None:
    """Nobody reads this progress."""


RECIPES = Path(__file__).parents[3] / "config"
LEASE = Lease(lease_id="lease", fence=1, holder="test")
TOOLS = ("qemu-system-x86_64", "qemu-img", "mmdebstrap", "busybox", "mke2fs")

Shell = Callable[[DeviceFact, str], Awaitable[str]]
MakeDriver = Callable[..., AbstractAsyncContextManager[MicrovmDriver]]


def context(
    state: Path, cache: Path, settings: MicrovmSettings, log: Callable[..., None]
) -> DriverContext[MicrovmSettings]:
    return DriverContext(
        settings=settings, host="test", state_dir=state, cache_dir=cache, data_path=(RECIPES,), log=log
    )


@pytest.fixture(scope="session")
def image_cache() -> Path:
    """The cache with the built image `minimal`. It is built once a machine, from the host's package sources."""
    if sys.platform != "linux" or any(shutil.which(tool) is None for tool in TOOLS):
        pytest.skip("guests need Linux and: apt-get install qemu-system-x86 qemu-utils mmdebstrap busybox-static lz4")
    cache = Path(os.environ.get("ANVIL_TEST_CACHE") or Path.home() / ".cache" / "anvild")

    async def build(state: Path) -> None:
        driver = MicrovmDriver(context(state, cache, MicrovmSettings(), lambda *_, **__: None))
        await driver.start()
        try:
            await driver.build_image("minimal", ignore)
        finally:
            await driver.stop()

    with tempfile.TemporaryDirectory() as state:
        trio.run(build, Path(state))
    return cache


@pytest.fixture
def logged() -> list[tuple[str, str, dict[str, object]]]:
    """What the driver has logged: level, event, values."""
    return []


@pytest.fixture
def make_driver(
    image_cache: Path, tmp_path: Path, logged: list[tuple[str, str, dict[str, object]]]
) -> Iterator[MakeDriver]:
    """Start drivers over one state folder; each is stopped on leaving, its guests run on until the test ends. One may
    have a ``cache`` of its own below the one that all share."""

    def log(level: str, event: str, **values: object) -> None:
        logged.append((level, event, values))

    @asynccontextmanager
    async def make(cache: str = "", **settings: object) -> AsyncIterator[MicrovmDriver]:
        chosen = MicrovmSettings(**settings)  # type: ignore[arg-type]
        driver = MicrovmDriver(context(tmp_path / "state", image_cache / cache, chosen, log))
        try:
            await driver.start()
            yield driver
        finally:
            with trio.CancelScope(shield=True):
                await driver.stop()

    yield make
    trio.run(end_all, list((tmp_path / "state" / "capsules").glob("*")))


async def end_all(folders: list[Path]) -> None:
    """Whatever a test did: no QEMU stays behind."""
    for folder in folders:
        await end_processes(folder)


@pytest.fixture
async def driver(make_driver: MakeDriver) -> AsyncIterator[MicrovmDriver]:
    """A started driver. Its guests are destroyed at the end."""
    async with make_driver() as started:
        yield started
        with trio.CancelScope(shield=True):
            for fact in await started._all().adopt_all():
                await started.destroy(fact.identity)


@pytest.fixture
async def shell(driver: MicrovmDriver) -> Shell:
    """Run a line of shell in a guest and return its output; it must succeed."""

    async def in_guest(fact: DeviceFact, line: str) -> str:
        async with driver.open(fact, LEASE) as session:
            return await said(session, line)

    return in_guest


async def said(session: object, line: str) -> str:
    assert isinstance(session, MicrovmSession)
    done = await run(session, Command(argv=("/bin/sh", "-c", line)), deadline=60)
    assert done.exit.ok, done
    return done.stdout.decode()


def request(identity: str, template: str = "minimal", **more: object) -> DeviceRequest:
    return DeviceRequest(template=template, name=f"Test {identity}", identity=identity, **more)  # type: ignore[arg-type]


@pytest.fixture
def ask() -> Callable[..., DeviceRequest]:
    """Make a request: ``ask(identity, template="minimal", **more)``."""
    return request


@pytest.fixture
def lease() -> Lease:
    return LEASE
