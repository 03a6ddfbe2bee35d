"""A session on a device: the verbs that the driver does itself, and those that a tool serves."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import trio

from anvild.sdk import AppTests, DeviceFact, Session

from .background import Background
from .crashes import LinkedCrashReports
from .files import LinkedFiles
from .helper import Helper
from .ledger import Ledger
from .link import Link
from .logs import LinkedLogs, LogKeeper
from .power import LinkedPower
from .roster import Roster
from .testing import ToolVerbs

__all__ = ["IosSession", "ToolSession", "open_session"]


class IosSession(LinkedFiles, LinkedLogs, LinkedCrashReports, LinkedPower, Session):
    """What the driver does itself, over the cable, on every device."""

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
        self.left: dict[str, Path] = {}


class ToolSession(ToolVerbs, IosSession):
    """With a tool, also tests of apps and pictures of the screen."""


@contextlib.asynccontextmanager
async def open_session(
    device: DeviceFact, link: Link, *, ledger: Ledger, helper: Helper, roster: Roster, cache: Path, log_bytes: int
) -> AsyncIterator[IosSession]:
    """Open a session with a folder of its own on the host, and leave neither folder nor task behind."""
    async with link.verb(), link.lockdown():
        pass  # the device answers, and trusts this host
    folder = await trio.to_thread.run_sync(_make_folder, cache)
    background = Background(_unexpected)
    keeper = LogKeeper(link, background, folder, log_bytes)
    try:
        await background.open()
        kind = ToolSession if AppTests.capability in device.capabilities else IosSession
        session = kind(device, link, ledger=ledger, helper=helper, roster=roster, folder=folder)
        session.keeper = keeper
        yield session
    finally:
        await keeper.aclose()
        await background.close()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(lambda: shutil.rmtree(folder, ignore_errors=True))


def _unexpected(error: Exception) -> None:
    """The only task is the log's, which handles the errors of the interface itself: any other is a defect."""
    raise error


def _make_folder(cache: Path) -> Path:
    cache.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="session-", dir=cache))
