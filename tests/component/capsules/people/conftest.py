"""The wing, with and without a mail server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from anvild.core.settings import MailSettings, Settings, WebSettings
from tests.support.capsules import Lab, lab, served_lab
from tests.support.smtp import PostOffice, post_office

__all__ = ["lab"]


@pytest.fixture
async def office() -> AsyncIterator[PostOffice]:
    """A mail server."""
    async with post_office() as found:
        yield found


@pytest.fixture
async def mailing_lab(tmp_path: Path, office: PostOffice) -> AsyncIterator[Lab]:
    """The wing, which sends mail."""
    settings = Settings(
        data_dir=tmp_path / "data",
        config_dir=tmp_path / "etc",
        web=WebSettings(frontend_url="https://lab.example.org/"),
        mail=MailSettings(server=office.address, security="none", sender="lab@example.org"),
    )
    async with served_lab(tmp_path / "data", settings=settings) as found:
        yield found
