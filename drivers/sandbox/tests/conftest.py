"""A driver on its own state directory; every test ends with nothing left behind."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from anvild.sdk import DriverContext
from anvild_sandbox.driver import SandboxDriver
from anvild_sandbox.settings import SandboxSettings

DriverMaker = Callable[[], AbstractAsyncContextManager[SandboxDriver]]


def make_driver(root: Path, settings: SandboxSettings) -> SandboxDriver:
    return SandboxDriver(
        DriverContext(
            settings=settings,
            host="test",
            state_dir=root / "state",
            cache_dir=root / "cache",
            data_path=(),
            log=lambda *_words, **_values: None,
        )
    )


@contextlib.asynccontextmanager
async def started(root: Path) -> AsyncIterator[SandboxDriver]:
    driver = make_driver(root, SandboxSettings(slots=3, memory=256 * 2**20, vcpus=1, processes=64))
    await driver.start()
    try:
        yield driver
    finally:
        await driver.stop()


@pytest.fixture
def start_driver(tmp_path: Path) -> DriverMaker:
    """Start a driver as a daemon would, again and again on the same state."""
    return lambda: started(tmp_path)


@pytest.fixture
async def driver(start_driver: DriverMaker, tmp_path: Path) -> AsyncIterator[SandboxDriver]:
    async with start_driver() as running:
        yield running
        for folder in (tmp_path / "state/devices").iterdir():
            await running.destroy(folder.name)
        for template in await running.templates():
            if template.name != "host":
                await running.remove_template(template.name)
        for place in ("devices", "layers", "templates"):
            assert list((tmp_path / "state" / place).iterdir()) == []
