"""Where a driver stands while it is checked or driven by hand: in this process, or behind the driver protocol."""

from __future__ import annotations

import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio

from ..driver import Driver, DriverContext
from ..errors import InvalidArgument

__all__ = ["InProcess", "Place", "Setup", "temporary_setup"]


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What a driver is made with, wherever it stands: its settings as plain values, and its directories."""

    state_dir: Path
    cache_dir: Path
    settings: dict[str, Any] = {}
    host: str = "conformance"
    data_path: tuple[Path, ...] = ()


@asynccontextmanager
async def temporary_setup(settings: dict[str, Any], data_path: tuple[Path, ...] = ()) -> AsyncIterator[Setup]:
    """Have directories for a driver that are removed at the end, with all that it left in them."""
    root = Path(await trio.to_thread.run_sync(tempfile.mkdtemp, "", "anvil-driver-"))
    try:
        setup = Setup(state_dir=root / "state", cache_dir=root / "cache", settings=settings, data_path=data_path)
        for folder in (setup.state_dir, setup.cache_dir):
            await trio.Path(folder).mkdir(mode=0o700)
        yield setup
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(lambda: shutil.rmtree(root, ignore_errors=True))


class Place(ABC):
    """A way to have a driver. ``name`` is what reports call it."""

    name: str

    @abstractmethod
    def driver(self, setup: Setup) -> AbstractAsyncContextManager[Driver]:
        """Have a driver that is made and not started; leaving ends what entering began, not what ``start`` did.

        Raises InvalidArgument for settings that the driver refuses, and Unavailable when it cannot be had.
        """


class InProcess(Place):
    """The driver is an object of this process."""

    name = "inprocess"

    def __init__(self, kind: type[Driver]) -> None:
        self.kind = kind

    @asynccontextmanager
    async def driver(self, setup: Setup) -> AsyncIterator[Driver]:
        yield self.kind(context_of(self.kind, setup))


def context_of(kind: type[Driver], setup: Setup) -> DriverContext[Any]:
    """Check the settings and make the context. Raises InvalidArgument with the key and what was expected."""
    try:
        settings = msgspec.convert(setup.settings, kind.settings_type)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"the settings of {kind.name} are wrong: {error}") from None
    return DriverContext(
        settings=settings,
        host=setup.host,
        state_dir=setup.state_dir,
        cache_dir=setup.cache_dir,
        data_path=setup.data_path,
        log=_unheard,
    )


def _unheard(*_words: object, **_values: object) -> None:
    """Results tell what went wrong; a driver's log is the daemon's affair."""
