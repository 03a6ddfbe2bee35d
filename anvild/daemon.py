"""The composition root: reads the settings and starts everything in one nursery, top to bottom."""

from __future__ import annotations

import gc
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import partial

import msgspec
import trio

from anvild.core.artifacts import Artifacts, open_artifacts
from anvild.core.data_dir import announced, claimed, raise_file_limit
from anvild.core.driver_context import driver_context, host_name
from anvild.core.driver_factories import driver_factories
from anvild.core.engine import DriverFactory, Engine, InProcess
from anvild.core.events import EventLog
from anvild.core.helpers import HelperDriver, Helpers
from anvild.core.hosts import Hosts, Links, Pulse
from anvild.core.identity import Identity, Limits
from anvild.core.identity.idempotency import Idempotency
from anvild.core.logging import configure, get_logger
from anvild.core.plugins import Plugins
from anvild.core.settings import Settings, SettingsError
from anvild.core.store import Store, open_store
from anvild.core.systemd import Systemd, inherited_sockets
from anvild.sdk import Event, Mount, Services
from anvild.web.app import root_app
from anvild.web.metrics import Metrics, Readiness
from anvild.web.server import ConnectionLimits, bind, url_of
from anvild.web.server import serve as serve_port

__all__ = ["Reload", "serve"]

Reload = Callable[[], Settings]
"""Reads the settings again, from where they came from the first time."""

log = get_logger("daemon")


async def serve(
    settings: Settings,
    *,
    reload: Reload | None = None,
    pulse: Pulse = Pulse(),  # noqa: B008  # frozen
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run the daemon until SIGTERM or SIGINT, or until it is cancelled. SIGHUP reloads.

    When it can serve, it prints one JSON line on standard output, writes the same to ``ready.json`` in the data
    directory, and tells systemd; ``task_status`` gets the URL. At the end, requests in flight may finish, work that
    can outlive the daemon is left to be adopted by the next one, and everything else is ended.

    :param reload: for SIGHUP; without it the signal only says that nothing can be reloaded.
    :param pulse: how links to other machines are looked after.
    :raises DaemonError, SettingsError, BindError, StoreError: when it cannot start.
    """
    systemd = Systemd.from_environ(os.environ)
    raise_file_limit()
    async with AsyncExitStack() as stack:
        stack.enter_context(claimed(settings.data_dir))
        inherited = [trio.socket.from_stdlib_socket(sock) for sock in inherited_sockets(os.environ)]
        listeners = [trio.SocketListener(sock) for sock in inherited] or bind(settings.listen)
        # From here on the port is ours, but nobody is answered before everything stands.
        for listener in listeners:
            stack.push_async_callback(listener.aclose)
        plugins = Plugins.of(settings)
        store = await stack.enter_async_context(open_store(settings.store_url))
        services = await _services(settings, plugins, store, pulse)
        mounts = plugins.mounts(services)
        engine = services.get(Engine)
        engine.workloads.update(plugins.workloads(services))
        app = root_app(mounts, services)
        stop = trio.Event()
        async with _running(services, plugins, mounts), trio.open_nursery() as nursery:
            limits = ConnectionLimits(
                connections=settings.web.max_connections, grace_seconds=settings.web.graceful_seconds
            )
            await nursery.start(partial(serve_port, app, listeners, limits, shutdown=stop))
            await nursery.start(_heed_signals, stop, systemd, settings, reload)
            nursery.start_soon(systemd.keep_alive)
            url = settings.web.public_url or url_of(listeners[0])
            with announced(settings.data_dir, url):
                # What stands now stays for good: the collector need not look through it again and again.
                gc.collect()
                gc.freeze()
                await systemd.ready(f"serving at {url}")
                log.info("ready", url=url, host=host_name(settings))
                task_status.started(url)
                await stop.wait()
                await systemd.stopping()
                log.info("stopping")
            # The port lets requests in flight finish; then its task ends and the rest of this nursery is done.
            nursery.cancel_scope.deadline = trio.current_time() + settings.web.graceful_seconds + 1
    log.info("stopped")


async def _services(settings: Settings, plugins: Plugins, store: Store, pulse: Pulse) -> Services:
    """Build the floors, each on those before it."""
    services = Services()
    services.add(Settings, settings)
    services.add(Plugins, plugins)
    services.add(Store, store)
    events = EventLog(
        store,
        keep=timedelta(days=settings.store.events_days),
        keep_audit=timedelta(days=settings.store.audit_days),
    )
    services.add(EventLog, events)
    artifacts = await open_artifacts(
        store,
        settings.data_dir,
        keep=timedelta(days=settings.store.artifacts_days),
        lab_quota=settings.store.artifacts_quota,
    )
    services.add(Artifacts, artifacts)
    identity = await Identity.open(
        store,
        events,
        data_dir=settings.data_dir,
        settings=settings.identity,
        limits=Limits({"default": f"{settings.web.requests_per_minute}/minute"}),
    )
    services.add(Identity, identity)
    services.add(Limits, identity.limits)
    services.add(Idempotency, identity.idempotency)
    hosts = Hosts(store, identity.host_tokens)
    services.add(Hosts, hosts)
    helpers = Helpers()
    services.add(Helpers, helpers)
    engine = Engine(
        store=store,
        events=events,
        artifacts=artifacts,
        drivers=await trio.to_thread.run_sync(_driver_factories, settings, plugins, helpers),
        host=host_name(settings),
        settings=settings.engine,
        keep=timedelta(days=settings.store.runs_days),
    )
    services.add(Engine, engine)
    links = Links(hosts, engine, pulse)
    await links.open()
    services.add(Links, links)
    metrics = Metrics()
    metrics.watch("store", store.statistics)
    metrics.watch("engine", engine.statistics)
    services.add(Metrics, metrics)
    readiness = Readiness()
    readiness.add("store", lambda: None if store.statistics().connected else "the database cannot be reached")
    readiness.add("scheduler", lambda: engine.scheduler.trouble)
    services.add(Readiness, readiness)
    return services


def _driver_factories(settings: Settings, plugins: Plugins, helpers: Helpers) -> Mapping[str, DriverFactory]:
    """Say how to make each driver that is on, and the one of the devices that connect by themselves."""
    found = driver_factories(settings, plugins)
    own = HelperDriver.name
    if own in found:
        raise SettingsError(
            f"drivers.{own}: this is the driver of the devices that connect by themselves, so no other one can have "
            "its name: give it another, or leave its plugin out with plugins.allow"
        )
    context = driver_context(settings, HelperDriver)
    return {**found, own: InProcess(partial(HelperDriver, context, helpers))}


@asynccontextmanager
async def _running(services: Services, plugins: Plugins, mounts: Sequence[Mount]) -> AsyncIterator[None]:
    """Run the services while the block runs; they end in the reverse order of their start."""
    events = services.get(EventLog)

    def observe(fresh: Sequence[Event]) -> None:
        for event in fresh:
            plugins.event(event)

    async with AsyncExitStack() as stack:
        for start in (events.run, services.get(Identity).run, services.get(Engine).run):
            nursery = await stack.enter_async_context(trio.open_nursery())
            stack.callback(nursery.cancel_scope.cancel)
            await nursery.start(start)
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        stack.callback(events.on_commit(observe))
        nursery.start_soon(services.get(Artifacts).run)
        nursery.start_soon(services.get(Hosts).run)
        nursery.start_soon(services.get(Metrics).run)
        for mount in mounts:
            if mount.run is not None:
                nursery.start_soon(mount.run)
        yield


async def _heed_signals(
    stop: trio.Event,
    systemd: Systemd,
    settings: Settings,
    reload: Reload | None,
    task_status: trio.TaskStatus[None],
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        task_status.started()
        async for number in signals:
            if number != signal.SIGHUP:
                stop.set()
                return
            await systemd.reloading()
            settings = await _reload(settings, reload)
            await systemd.ready("serving")


async def _reload(present: Settings, reload: Reload | None) -> Settings:
    """Take what can change in the running daemon from the settings as they are now; name what needs a restart.

    Settings that are wrong leave everything as it is.
    """
    if reload is None:
        log.warning("reload_impossible", reason="the settings did not come from a file")
        return present
    try:
        fresh = await trio.to_thread.run_sync(reload)
    except SettingsError as error:
        log.error("reload_refused", reason=str(error))  # noqa: TRY400  # it is the operator's mistake, in one sentence
        return present
    changed = [
        field.name
        for field in msgspec.structs.fields(Settings)
        if getattr(fresh, field.name) != getattr(present, field.name)
    ]
    if "log_level" in changed:
        configure(level=logging.getLevelNamesMapping()[fresh.log_level.upper()])
    log.info(
        "reloaded",
        applied=[name for name in changed if name == "log_level"],
        need_restart=[name for name in changed if name != "log_level"],
    )
    return msgspec.structs.replace(present, log_level=fresh.log_level)
