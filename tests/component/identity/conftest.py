"""An identity room on either store, with cheap passwords."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import argon2
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key

from anvild.core.events import EventLog
from anvild.core.identity import Bootstrapped, Credentials, Identity, Passwords, Principal, bootstrap, signing_keys
from anvild.core.settings import IdentitySettings
from anvild.core.store import Store

EMAIL = "ada@lab.example"
PASSWORD = "correct horse"
AUTOMATION = "automation-token-of-the-tests"

Who = Callable[..., Awaitable[Principal]]


@pytest.fixture(scope="session")
def rsa_key() -> RSAPrivateKey:
    return generate_private_key(65537, 2048)


@pytest.fixture
def real_keys() -> None:
    """Ask for it to have each RSA key made anew."""


@pytest.fixture(autouse=True)
def ready_made_rsa_key(rsa_key: RSAPrivateKey, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Making an RSA key takes longer than a whole test, so all but those of the keys themselves share one."""
    if "real_keys" not in request.fixturenames:
        monkeypatch.setattr(signing_keys, "generate_private_key", lambda exponent, bits: rsa_key)


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


@pytest.fixture
def who(identity: Identity) -> Who:
    """Authenticate with these fields of Credentials, and fail when there is nobody."""

    async def authenticate(**fields: str) -> Principal:
        found = await identity.authenticate(Credentials(**fields))
        assert found is not None
        return found

    return authenticate


@pytest.fixture
async def admin(who: Who, lab: Bootstrapped) -> Principal:
    """The first user, by their API key."""
    return await who(api_key=lab.api_key)
