"""A session on a device: the verbs that the driver does itself, and those that a tool serves."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import trio

from anvild.sdk import Apps, AppTests, DeviceFact, Session
from anvild.sdk.background import Background

from .apps import LinkedApps
from .crashes import LinkedCrashReports
from .files import LinkedFiles
from .helper import Helper
from .inspection import needs_tunnel
from .ledger import Ledger
from .link import Link
from .logs import LinkedLogs, LogKeeper
from .power import LinkedPower
from .roster import Roster
from .screen import LinkedScreen, Recording
from .testing import LinkedTests

__all__ = ["AppSession", "IosSession", "TestingSession", "open_session"]


class IosSession(LinkedFiles, LinkedLogs, LinkedCrashReports, LinkedPower, Session):
    """What the driver does itself, over the cable, on every device."""

    background: Background

    def __init__(
        self, device: DeviceFact, link: Link, *, ledger: Ledger, helper: Helper, roster: Roster, folder: Path
    ) -> None:
        self.device = device
        self.udid = device.identity
        self.link = link
        self.ledger = ledger
        self.helper = helper
        self.roster = roster
        self.folder = folder
        self.cache = folder
        self.native = not needs_tunnel(device.firmware_version)
        self.left: dict[str, Path] = {}
        self.recording: Recording | None = None


class AppSession(LinkedApps, LinkedScreen, IosSession):
    """Where the developer services can be reached, also apps and pictures of the screen."""


class TestingSession(LinkedTests, AppSession):
    """With a tool, also tests of apps."""

    __test__ = False  # no test class, whatever a collector of tests thinks of its name


@contextlib.asynccontextmanager
async def open_session(
    device: DeviceFact,
    link: Link,
    *,
    ledger: Ledger,
    helper: Helper,
    roster: Roster,
    cache: Path,
    log_bytes: int,
    on_error: Callable[[Exception], None],
) -> AsyncIterator[IosSession]:
    """Open a session with a folder of its own on the host, and leave neither folder nor task behind.

    ``on_error`` hears of what the session's tasks fail with, beside the errors of the interface.
    """
    async with link.verb(), link.lockdown():
        pass  # the device answers, and trusts this host
    folder = await trio.to_thread.run_sync(_make_folder, cache)
    background = Background(on_error)
    keeper = LogKeeper(link, background, folder, log_bytes)
    try:
        await background.open()
        session = _kind(device)(device, link, ledger=ledger, helper=helper, roster=roster, folder=folder)
        session.keeper = keeper
        session.background = background
        yield session
    finally:
        await keeper.aclose()
        await background.close()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(lambda: shutil.rmtree(folder, ignore_errors=True))


def _kind(device: DeviceFact) -> type[IosSession]:
    if AppTests.capability in device.capabilities:
        return TestingSession
    return AppSession if Apps.capability in device.capabilities else IosSession


def _make_folder(cache: Path) -> Path:
    cache.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="session-", dir=cache))
