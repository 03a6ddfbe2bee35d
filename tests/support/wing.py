"""A wing, served whole on loopback: the real store, identity, engine and web, and a real driver.

``wing`` is the device-testing one, in a lab with one team, its first user and their key; devices are namespace
sandboxes, made to order. The conftest of a folder that needs these fixtures imports them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import argon2
import httpx2
import pytest
import trio

from anvild.core.artifacts import Artifacts, open_artifacts
from anvild.core.driver_context import driver_context
from anvild.core.engine import DriverFactory, Engine, InProcess
from anvild.core.errors import Conflict
from anvild.core.events import EventLog
from anvild.core.helpers import HelperDriver, Helpers
from anvild.core.hosts import Hosts, Links
from anvild.core.identity import Bootstrapped, Identity, Limits, Passwords, bootstrap
from anvild.core.identity.idempotency import Idempotency
from anvild.core.plugins import Plugins
from anvild.core.settings import Settings
from anvild.core.store import Store, open_store
from anvild.devicetests import plugin
from anvild.sdk import Driver, Mount, NotFound, Services, Workload
from anvild.web.app import root_app
from anvild.web.metrics import Metrics, Readiness
from anvild.web.server import ConnectionLimits, bind, serve, url_of
from anvild_sandbox.driver import SandboxDriver

EMAIL = "first@example.org"
PASSWORD = "correct horse battery"
GENEROUS = {"default": "100000/minute", "handshake": "1000/minute", "password_ip": "1000/minute"}


@dataclass
class Wing:
    """A served wing and the ways to it."""

    url: str
    settings: Settings
    services: Services
    mount: Mount
    first: Bootstrapped
    clients: list[httpx2.AsyncClient] = field(default_factory=list)

    @property
    def identity(self) -> Identity:
        return self.services.get(Identity)

    @property
    def engine(self) -> Engine:
        return self.services.get(Engine)

    @property
    def store(self) -> Store:
        return self.services.get(Store)

    def client(self, key: str | None = None, **headers: str) -> httpx2.AsyncClient:
        """A client with this key, or with none."""
        given = {"Authorization": f"Bearer {key}"} if key else {}
        client = httpx2.AsyncClient(
            base_url=f"{self.url}{self.mount.prefix}", headers={**given, **headers}, timeout=30, trust_env=False
        )
        self.clients.append(client)
        return client

    @property
    def owner(self) -> httpx2.AsyncClient:
        """The first user's client, by key."""
        return self.client(self.first.live_key)

    async def stranger(self) -> httpx2.AsyncClient:
        """A client of another team."""
        other = await bootstrap(
            self.store, email=f"u{len(self.clients)}@example.org", password=PASSWORD, passwords=quick_passwords()
        )
        return self.client(other.live_key)


def quick_passwords() -> Passwords:
    """Passwords that cost nothing."""
    return Passwords(argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))


async def build(
    settings: Settings,
    drivers: Mapping[str, type[Driver]],
    store: Store,
    limits: Mapping[str, str],
    plugins: Sequence[str] = ("none",),
) -> Services:
    """Put the services together as the daemon does."""
    services = Services()
    services.add(Settings, settings)
    services.add(Plugins, Plugins(allow=plugins))
    services.add(Store, store)
    events = EventLog(store)
    services.add(EventLog, events)
    artifacts = await open_artifacts(store, settings.data_dir)
    services.add(Artifacts, artifacts)
    identity = await Identity.open(
        store, events, data_dir=settings.data_dir, passwords=quick_passwords(), limits=Limits(limits)
    )
    services.add(Identity, identity)
    services.add(Limits, identity.limits)
    services.add(Idempotency, identity.idempotency)
    hosts = Hosts(store, identity.host_tokens)
    services.add(Hosts, hosts)
    helpers = Helpers()
    services.add(Helpers, helpers)
    made: dict[str, DriverFactory] = {
        name: InProcess(partial(kind, driver_context(settings, kind))) for name, kind in drivers.items()
    }
    made[HelperDriver.name] = InProcess(partial(HelperDriver, driver_context(settings, HelperDriver), helpers))
    engine = Engine(
        store=store,
        events=events,
        artifacts=artifacts,
        drivers=made,
        host="here",
        settings=settings.engine,
    )
    services.add(Engine, engine)
    links = Links(hosts, engine)
    await links.open()
    services.add(Links, links)
    services.add(Metrics, Metrics())
    services.add(Readiness, Readiness())
    return services


async def leave_nothing(engine: Engine) -> None:
    """End all leases: devices outlive the daemon, and shall not outlive a test."""
    with trio.fail_after(60):
        while held := await engine.leases.list():
            for lease in held:
                with suppress(Conflict, NotFound):  # it is ending already
                    if lease.run_id is None:
                        await engine.leases.release(lease.id)
                    else:
                        await engine.runs.cancel(lease.run_id)
            await trio.sleep(0.02)


@asynccontextmanager
async def served(
    directory: Path,
    *,
    drivers: Mapping[str, type[Driver]],
    limits: Mapping[str, str] = GENEROUS,
    settings: Settings | None = None,
    tidy: bool = True,
    plugins: Sequence[str] = ("none",),
    make_mounts: Callable[[Services], Iterable[Mount]] = plugin.anvil_routes,
    make_workloads: Callable[[Services], Iterable[Workload]] = lambda _: plugin.anvil_workloads(),
) -> AsyncIterator[Wing]:
    """Serve a wing on a free port while the block runs; unless ``tidy`` is off, what it holds then is ended.

    ``plugins`` are the names of the installed ones that are loaded.
    """
    settings = settings or Settings(data_dir=directory, config_dir=directory / "etc")
    await trio.Path(directory).mkdir(exist_ok=True)
    async with open_store(settings.store_url) as store:
        first = await bootstrap(store, email=EMAIL, password=PASSWORD, team="Lab", passwords=quick_passwords())
        services = await build(settings, drivers, store, limits, plugins)
        mounts = list(make_mounts(services))
        services.get(Engine).workloads.update({each.kind: each for each in make_workloads(services)})
        listeners = bind("127.0.0.1:0")
        wing = Wing(url_of(listeners[0]), settings, services, mounts[0], first)
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            await nursery.start(services.get(EventLog).run)
            await nursery.start(services.get(Identity).run)
            await nursery.start(services.get(Engine).run)
            nursery.start_soon(services.get(Hosts).run)
            for mount in mounts:
                if mount.run is not None:
                    nursery.start_soon(mount.run)
            async with trio.open_nursery() as port:
                await port.start(
                    partial(serve, root_app(mounts, services), listeners, ConnectionLimits(), shutdown=stop)
                )
                try:
                    yield wing
                finally:
                    with trio.CancelScope(shield=True):
                        for client in wing.clients:
                            await client.aclose()
                        if tidy:
                            await leave_nothing(wing.engine)
                    stop.set()
            nursery.cancel_scope.cancel()


@pytest.fixture
def served_wing() -> Callable[..., Any]:
    """Serve wings of one's own."""
    return served


@pytest.fixture
async def wing(tmp_path: Path) -> AsyncIterator[Wing]:
    """The wing with sandboxes as devices."""
    async with served(tmp_path / "data", drivers={"sandbox": SandboxDriver}) as found:
        yield found


@pytest.fixture
async def ready_wing(wing: Wing) -> Wing:
    """The same, when its driver takes work."""
    await wing.engine.driver("sandbox").wait_ready()
    return wing
