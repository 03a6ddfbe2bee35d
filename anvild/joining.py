"""A lab machine without a database: it joins another machine's daemon, and lends it its drivers."""

from __future__ import annotations

import base64
import binascii
import os
import platform
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import msgspec
import trio

from anvild.core.data_dir import DaemonError, announced, claimed, raise_file_limit
from anvild.core.driver_context import host_name
from anvild.core.driver_factories import driver_factories
from anvild.core.engine import DriverFactory
from anvild.core.hosts import Pulse
from anvild.core.logging import get_logger
from anvild.core.plugins import Plugins
from anvild.core.settings import Settings
from anvild.core.systemd import Systemd
from anvild.sdk import AnvilError, Driver, DriverFault, Unavailable
from anvild.sdk.protocol import (
    Host,
    Transport,
    TransportClosed,
    WebSocketRefused,
    connect_websocket,
    serve_driver,
)
from anvild.sdk.protocol.wire_errors import only_leaf

__all__ = ["Forgotten", "join"]

HEARTBEAT_SECONDS = 30.0
STEADY_SECONDS = 60.0
CALL_SECONDS = 30.0
FAREWELL_SECONDS = 3.0

RENEW_BEFORE = 86_400.0
"""How many seconds before the end of a token the next one is asked for."""

CREDENTIALS = "joined.json"

log = get_logger("joining")


class Forgotten(DaemonError):
    """The lab does not know this machine, or not any more."""


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """What proves which machine this is. It lies in the data directory, for its owner alone."""

    url: str
    host_id: str
    token: str
    refresh_token: str


class _Registered(msgspec.Struct):
    """The part of an answer to a registration, or to a renewal, that matters here."""

    class HostPart(msgspec.Struct):
        id: str

    host: HostPart
    token: str
    refresh_token: str


async def join(
    settings: Settings,
    url: str,
    token: str | None = None,
    *,
    pulse: Pulse = Pulse(),  # noqa: B008  # frozen
    heartbeat: float = HEARTBEAT_SECONDS,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Lend the drivers of this machine to the daemon at ``url`` until SIGTERM or SIGINT, or until cancelled.

    ``token`` is what it registers with, once; a later start needs none. When it has registered, it prints one JSON line
    on standard output, writes the same to ``ready.json`` in the data directory, and tells systemd; ``task_status`` gets
    the URL. The connections are opened anew, with growing pauses, for as long as it runs; what the drivers have made
    outlives it.

    :raises DaemonError, SettingsError: when it cannot start.
    :raises Forgotten: when the lab does not know this machine any more; its credentials are removed then.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DaemonError(f"{url!r} is no http address of a daemon to join")
    base = url.rstrip("/")
    systemd = Systemd.from_environ(os.environ)
    raise_file_limit()
    async with AsyncExitStack() as stack:
        stack.enter_context(claimed(settings.data_dir))
        plugins = Plugins.of(settings)
        factories = await trio.to_thread.run_sync(driver_factories, settings, plugins)
        http = await stack.enter_async_context(httpx2.AsyncClient(base_url=base, timeout=CALL_SECONDS, trust_env=False))
        membership = Membership(http, base, settings.data_dir / CREDENTIALS)
        stack.enter_context(_one_refusal())
        async with trio.open_nursery() as nursery:
            await nursery.start(_end_on_signal, nursery.cancel_scope)
            nursery.start_soon(systemd.keep_alive)
            await membership.enter(token, settings.data_dir, pulse)
            with announced(settings.data_dir, base):
                await systemd.ready(f"joined {base}")
                log.info("joined", url=base, host=membership.host_id)
                task_status.started(base)
                nursery.start_soon(membership.stay, heartbeat)
                async with trio.open_nursery() as lending:
                    for name, factory in factories.items():
                        lender = Lender(name, factory, membership, host_name(settings), pulse)
                        lending.start_soon(lender.run)
                await systemd.stopping()


@contextmanager
def _one_refusal() -> Iterator[None]:
    """Of several that the machine was forgotten by at the same time, let one out."""
    try:
        yield
    except BaseExceptionGroup as group:
        refusals, others = group.split(DaemonError)
        if refusals is None or others is not None:
            raise
        refusal: BaseException = refusals
        while isinstance(refusal, BaseExceptionGroup):
            refusal = refusal.exceptions[0]
        raise refusal from None


async def _end_on_signal(scope: trio.CancelScope, task_status: trio.TaskStatus[None]) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()


class Membership:
    """This machine's place in a lab: its credentials, which are renewed in time, and its heartbeats."""

    def __init__(self, http: httpx2.AsyncClient, url: str, path: Path) -> None:
        self.url = url
        self._http = http
        self._path = path
        self._credentials: Credentials | None = None
        self._renewing = trio.Lock()
        self._open: set[Host] = set()

    @property
    def host_id(self) -> str:
        """What the lab calls this machine."""
        return self._known.host_id

    @property
    def token(self) -> str:
        """The token that is good now."""
        return self._known.token

    @property
    def _known(self) -> Credentials:
        if self._credentials is None:
            raise LookupError("this machine has not entered the lab yet")
        return self._credentials

    async def enter(self, token: str | None, data_dir: Path, pulse: Pulse) -> None:
        """Take up the credentials of an earlier start, or register. Raises DaemonError, Forgotten."""
        kept = await trio.to_thread.run_sync(_read, self._path)
        if kept is not None and kept.url == self.url:
            self._credentials = kept
            return
        if token is None:
            raise DaemonError(
                f"this machine has not joined {self.url} yet: make a host there, and start with --token and the "
                "registration token that it gives"
            )
        machine = await trio.to_thread.run_sync(_machine, data_dir)
        pause = pulse.pause
        while True:
            try:
                body = {**machine, "token": token, "address": await self._address()}
                answer = await self._http.post("/v1/hosts/register", json=body)
                break
            except (httpx2.TransportError, OSError, trio.TooSlowError) as error:
                log.warning("lab_unreachable", url=self.url, reason=repr(error), again_in=pause)
            await trio.sleep(pause)
            pause = min(pause * 2, pulse.longest_pause)
        if answer.status_code != httpx2.codes.CREATED:
            raise Forgotten(
                f"{self.url} does not take this registration token: {_reason(answer)}; make a new one there"
            )
        await self._keep(msgspec.json.decode(answer.content, type=_Registered))

    async def stay(self, heartbeat: float) -> None:
        """Say for ever that this machine is there, and renew its token in time. Raises Forgotten."""
        while True:
            try:
                await self._beat()
            except Unavailable as error:
                log.warning("no_heartbeat", reason=error.message)
            await trio.sleep(heartbeat)

    async def renew(self, stale: str) -> None:
        """Get a new token in place of a stale one, unless that has been done. Raises Unavailable, Forgotten."""
        async with self._renewing:
            if self.token != stale:
                return
            answer = await self._post("/v1/hosts/auth/refresh", json={"refresh_token": self._known.refresh_token})
            if answer.status_code in (401, 404):
                await self._forget(_reason(answer))
            if answer.status_code != httpx2.codes.OK:
                raise Unavailable(f"the token was not renewed: {_reason(answer)}")
            # From now on the old one is used up: what is new must be kept whatever happens.
            with trio.CancelScope(shield=True):
                await self._keep(msgspec.json.decode(answer.content, type=_Registered))
        for host in list(self._open):
            try:
                await host.request("token.rotate", {"token": self.token})
            except AnvilError as error:
                log.info("connection_keeps_its_token", reason=error.message)  # it ends with that, and is opened anew

    def opened(self, host: Host) -> None:
        """A connection is open; it is told of new tokens."""
        self._open.add(host)

    def closed(self, host: Host) -> None:
        """A connection has ended."""
        self._open.discard(host)

    async def _beat(self) -> None:
        token = self.token
        if _ends_at(token) - time.time() < RENEW_BEFORE:
            await self.renew(token)
        answer = await self._post(f"/v1/hosts/{self.host_id}/heartbeat", headers={"X-Host-Token": self.token})
        if answer.status_code in (401, 403):
            await self.renew(self.token)
            answer = await self._post(f"/v1/hosts/{self.host_id}/heartbeat", headers={"X-Host-Token": self.token})
        if answer.status_code == httpx2.codes.NOT_FOUND:
            await self._forget(_reason(answer))
        if answer.is_error:
            raise Unavailable(f"the lab did not take the heartbeat: {_reason(answer)}")

    async def _post(self, path: str, **request: Any) -> httpx2.Response:
        try:
            return await self._http.post(path, **request)
        except httpx2.TransportError as error:
            raise Unavailable(f"{self.url} cannot be reached: {error!r}") from None

    async def _keep(self, told: _Registered) -> None:
        self._credentials = Credentials(
            url=self.url, host_id=told.host.id, token=told.token, refresh_token=told.refresh_token
        )
        await trio.to_thread.run_sync(_write, self._path, self._credentials)

    async def _forget(self, reason: str) -> None:
        await trio.to_thread.run_sync(partial(self._path.unlink, missing_ok=True))
        raise Forgotten(
            f"{self.url} does not know this machine any more ({reason}), so its credentials were removed: make a host "
            "there again, and start with --token and the registration token that it gives"
        )

    async def _address(self) -> str:
        """The address at which the lab sees this machine; nothing listens there. Raises OSError, TooSlowError."""
        parts = urlsplit(self.url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with trio.fail_after(CALL_SECONDS):
            stream = await trio.open_tcp_stream(parts.hostname or "", port)
        async with stream:
            address = stream.socket.getsockname()[0]
        return f"[{address}]:0" if ":" in address else f"{address}:0"


class Lender:
    """Lends one driver: while it can work, over one connection after the other."""

    def __init__(self, name: str, factory: DriverFactory, membership: Membership, host: str, pulse: Pulse) -> None:
        self._name = name
        self._factory = factory
        self._membership = membership
        self._host = host
        self._pulse = pulse

    async def run(self) -> None:
        """Lend the driver for ever. Raises Forgotten."""
        pause = self._pulse.pause
        said = ""
        while True:
            since = trio.current_time()
            try:
                await self._live()
                reason = "the connection ended"
            except Exception as error:
                known = only_leaf(error)
                if isinstance(known, DaemonError):
                    raise known from None
                if not isinstance(known, AnvilError | TransportClosed):
                    self._fault("its life", known)
                reason = str(known)
            if trio.current_time() - since > STEADY_SECONDS:
                pause = self._pulse.pause
            if reason != said:
                log.warning("not_lent", driver=self._name, reason=reason, again_in=pause)
                said = reason
            await trio.sleep(pause)
            pause = min(pause * 2, self._pulse.longest_pause)

    async def _live(self) -> None:
        """One instance of the driver, over one connection."""
        ended = trio.CancelScope()
        async with self._factory.live(lambda reason: ended.cancel(), self._fault) as driver:
            health = (await driver.describe()).health
            if not health.usable:
                raise Unavailable(health.reason)
            transport = await self._connect()
            try:
                with ended:
                    await self._serve(driver, transport)
            finally:
                # First of all: what the driver says while it is being stopped is not for the lab.
                with trio.move_on_after(FAREWELL_SECONDS, shield=True):
                    await transport.aclose()

    async def _connect(self) -> Transport:
        token = self._membership.token
        headers = {"X-Host-Token": token, "X-Host-Name": self._host}
        try:
            return await connect_websocket(
                f"ws{self._membership.url.removeprefix('http')}/api/v1/driver", headers=headers
            )
        except WebSocketRefused as refused:
            if refused.status in (401, 403):
                await self._membership.renew(token)
            raise

    async def _serve(self, driver: Driver, transport: Transport) -> None:
        hosts: list[Host] = []

        def meet(host: Host) -> None:
            hosts.append(host)
            self._membership.opened(host)
            nursery.start_soon(self._keep_asking, host, nursery.cancel_scope)

        try:
            async with trio.open_nursery() as nursery:
                await serve_driver(lambda _: driver, type(driver), transport, on_host=meet)
                nursery.cancel_scope.cancel()
        finally:
            for host in hosts:
                self._membership.closed(host)

    async def _keep_asking(self, host: Host, connection: trio.CancelScope) -> None:
        """Ask for ever whether the lab is there: a cut cable says nothing."""
        while True:
            await trio.sleep(self._pulse.ask)
            with trio.move_on_after(self._pulse.answer) as scope:
                try:
                    await host.request("ping")
                except AnvilError as error:
                    log.debug("ping", error=error.message)  # an error is an answer, too; an end is told of elsewhere
            if scope.cancelled_caught:
                log.warning("lab_silent", driver=self._name, seconds=self._pulse.answer)
                connection.cancel()

    def _fault(self, what: str, error: BaseException) -> DriverFault:
        log.warning("driver_fault", driver=self._name, verb=what, error=repr(error))
        return DriverFault(f"the driver {self._name!r} failed in {what}: {error}", driver=self._name)


def _read(path: Path) -> Credentials | None:
    """Read the credentials of an earlier start. Raises DaemonError for what cannot be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Credentials)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise DaemonError(f"the credentials in {path} cannot be read: {error}; remove the file to join anew") from None


def _write(path: Path, credentials: Credentials) -> None:
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(credentials))
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def _machine(data_dir: Path) -> Mapping[str, Any]:
    """Say what this machine is."""
    return {
        "arch": platform.machine(),
        "cpu_cores": os.cpu_count() or 1,
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        "disk_gb": shutil.disk_usage(data_dir).total // 10**9,
    }


def _ends_at(token: str) -> float:
    """Return when a token ends, in seconds since the epoch; infinity where it does not say."""
    try:
        part = token.split(".")[1]
        claims = msgspec.json.decode(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        return float(claims["exp"])
    except (IndexError, KeyError, TypeError, ValueError, binascii.Error, msgspec.DecodeError):
        return float("inf")


def _reason(answer: httpx2.Response) -> str:
    """Return what the lab said, or at least its status."""
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"status {answer.status_code}"
