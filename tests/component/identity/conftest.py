"""An identity room on either store, with cheap passwords."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import argon2
import pytest
import trio

from anvild.core.events import EventLog
from anvild.core.identity import Bootstrapped, Identity, Passwords, bootstrap
from anvild.core.settings import IdentitySettings
from anvild.core.store import Store

EMAIL = "ada@lab.example"
PASSWORD = "correct horse"
AUTOMATION = "automation-token-of-the-tests"


@pytest.fixture
def passwords() -> Passwords:
    return Passwords(argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))


@pytest.fixture
async def events(store: Store, nursery: trio.Nursery) -> EventLog:
    log = EventLog(store)
    await nursery.start(log.run)
    return log


@pytest.fixture
async def identity(
    store: Store, events: EventLog, nursery: trio.Nursery, tmp_path: Path, passwords: Passwords
) -> AsyncIterator[Identity]:
    settings = IdentitySettings(bearer_token=AUTOMATION)
    opened = await Identity.open(store, events, data_dir=tmp_path, settings=settings, passwords=passwords)
    await nursery.start(opened.run)
    yield opened
    nursery.cancel_scope.cancel()


@pytest.fixture
async def lab(store: Store, passwords: Passwords) -> Bootstrapped:
    return await bootstrap(store, email=EMAIL, password=PASSWORD, team="Lab", passwords=passwords)
