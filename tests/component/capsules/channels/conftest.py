"""The wing, whose channels may reach this machine; and a receiver on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from anvild.core.settings import NotifySettings, Settings
from tests.support.capsules import Caller, Lab, served_lab
from tests.support.receiver import Receiver, receiver


@pytest.fixture
async def receiving() -> AsyncIterator[Receiver]:
    """A receiver of webhooks."""
    async with receiver() as found:
        yield found


@pytest.fixture
async def notifying(tmp_path: Path) -> AsyncIterator[Lab]:
    """The wing without devices."""
    settings = Settings(
        data_dir=tmp_path / "data",
        config_dir=tmp_path / "etc",
        notify=NotifySettings(allow=("127.0.0.0/8",)),
    )
    async with served_lab(tmp_path / "data", settings=settings) as found:
        yield found


@pytest.fixture
async def owner(notifying: Lab) -> Caller:
    """The owner of the first team."""
    return await notifying.signed_in()
