"""The driver: sandboxes made to order on a Linux host, by bubblewrap."""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import math
import os
import platform
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import msgspec
import trio

from anvild.sdk import (
    AlreadyExists,
    AnvilError,
    Description,
    DeviceFact,
    DeviceLost,
    DeviceRequest,
    DeviceStatus,
    Driver,
    DriverContext,
    DriverFault,
    Health,
    HealthState,
    InvalidArgument,
    Lease,
    Network,
    NetworkUse,
    NotFound,
    PermissionDenied,
    Provision,
    Recovery,
    RecoveryState,
    Report,
    ResourceExhausted,
    Session,
    Sighting,
    Snapshot,
    Template,
    Unavailable,
)
from anvild.sdk.agent import KEPT_OUTPUT, AgentClient, connect_agent, listen_for_connections
from anvild.sdk.background import Background
from anvild.sdk.cgroups import Group, Layout, find_layout
from anvild.sdk.network.outlet import PROXY_PORT, Outlet, proxy_environment
from anvild.sdk.network.rules import Rules
from anvild.sdk.processes import ProcessIdentity
from anvild.sdk.sockets import connect_unix

from .launch import LOG, PYTHON, SOCKET, Started, child_of, compile_agent, launch, probe
from .record import Sandbox, Size, descendants
from .session import MeasuredSession, SandboxSession
from .settings import SandboxSettings
from .storage import ACCOUNTS, BUILT_IN, Layered, Storage, copy_tree_command, remove_tree, tree_size

READY_SECONDS = 30.0
END_SECONDS = 10.0
OPEN_SECONDS = 20.0
CLEAN_UP_SECONDS = 30.0
GROUPS = "anvil-sandbox"
_EXHAUSTED = (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN)


class SandboxDriver(Driver, Provision, Snapshot, Network):
    """Makes sandboxes and opens sessions on them. Destroying a sandbox is its cleaning."""

    name = "sandbox"
    settings_type = SandboxSettings
    context: DriverContext[SandboxSettings]

    def __init__(self, context: DriverContext[SandboxSettings]) -> None:
        super().__init__(context)
        owner = context.settings.user_id if os.geteuid() == 0 else os.geteuid()
        self._storage = Storage(context.state_dir, owner)
        self._slots = context.settings.slots or 2 * (os.cpu_count() or 1)
        self._layout = Layout()
        self._health: Health | None = None
        self._agent: Path | None = None
        self._sandboxes: dict[str, Sandbox] = {}
        self._outlets: dict[str, Outlet] = {}
        self._locks: dict[str, trio.Lock] = {}
        self._reserved: set[str] = set()
        self._made, self._unwatched = trio.open_memory_channel[Sandbox](math.inf)

    # life

    async def start(self) -> None:
        health = await self._examine()
        if not health.usable:
            raise Unavailable(health.reason)
        found = await trio.to_thread.run_sync(self._find_survivors)
        for sandbox in found:
            self._sandboxes[sandbox.identity] = sandbox
            self._made.send_nowait(sandbox)

    async def stop(self) -> None:
        self._made.close()
        self._unwatched.close()
        await trio.to_thread.run_sync(self._layout.tidy)

    async def describe(self) -> Description:
        health = self._health or await self._examine()
        return Description(
            name=self.name,
            version=importlib.metadata.version("anvild-driver-sandbox"),
            platforms=("linux",),
            capabilities=(*self._session_type().offered, Provision.capability, Snapshot.capability, Network.capability),
            health=health,
            slots=self._slots if health.usable else 0,
            facts={"isolation": "namespaces on the host's kernel", "network": "filtered", "users": "one"},
        )

    async def watch(self, report: Report) -> NoReturn:
        async with trio.open_nursery() as nursery:
            async for sandbox in self._unwatched:
                nursery.start_soon(self._watch_one, sandbox, report)
        raise AssertionError("the channel of new sandboxes is never closed")

    async def _watch_one(self, sandbox: Sandbox, report: Report) -> None:
        """Report one sandbox as seen, and as lost when its first process ends."""
        await report(Sighting(kind="seen", device=self._fact(sandbox)))
        with contextlib.suppress(ProcessLookupError):
            descriptor = sandbox.init.open()
            try:
                await trio.lowlevel.wait_readable(descriptor)
            finally:
                os.close(descriptor)
        if self._sandboxes.get(sandbox.identity) is sandbox:
            del self._sandboxes[sandbox.identity]
            self.context.log("warning", "sandbox ended by itself", identity=sandbox.identity)
            await report(Sighting(kind="lost", device=self._fact(sandbox)))

    async def recover(self, handle: str) -> Recovery:
        try:
            identity = msgspec.json.decode(handle, type=str)
        except msgspec.DecodeError:
            return Recovery(state=RecoveryState.LOST, reason="the handle is not one of this driver")
        sandbox = self._sandboxes.get(identity)
        if sandbox is None or not sandbox.init.alive():
            return Recovery(state=RecoveryState.ENDED, reason="the sandbox's first process has ended")
        return Recovery(state=RecoveryState.RUNNING, reason="the sandbox runs", device=self._fact(sandbox))

    @contextlib.asynccontextmanager
    async def _open(self, device: DeviceFact) -> AsyncIterator[Session]:
        sandbox = self._sandboxes.get(device.identity)
        if sandbox is None:
            raise DeviceLost(f"the sandbox {device.name!r} has ended")
        group = Group(self._layout, sandbox.identity)
        if await trio.to_thread.run_sync(group.frozen):
            await trio.to_thread.run_sync(group.thaw)
        network = Background(self._network_ended)
        async with self._connected(sandbox.identity) as agent:
            try:
                outlet = self._outlet(sandbox)
                if outlet is not None:
                    await network.open()
                    await network.start(outlet.serve, agent)
                yield self._session_type()(self._fact(sandbox), agent, group, self._storage)
            finally:
                await network.close()

    def _outlet(self, sandbox: Sandbox) -> Outlet | None:
        """Return the way out of a sandbox, the same for all its sessions; None for one without a network."""
        policy = sandbox.request.network
        if policy is not None and sandbox.identity not in self._outlets:
            self._outlets[sandbox.identity] = Outlet(policy, device=sandbox.identity, log=self.context.log)
        return self._outlets.get(sandbox.identity)

    def _network_ended(self, error: Exception) -> None:
        if not isinstance(error, AnvilError):  # such as that the sandbox has ended, of which others tell
            self.context.log("error", "driver.defect", error=repr(error))

    async def network_use(self, identity: str) -> NetworkUse:
        if identity not in self._sandboxes:
            raise NotFound(f"there is no sandbox {identity!r}")
        outlet = self._outlets.get(identity)
        return NetworkUse() if outlet is None else outlet.use()

    def open(self, device: DeviceFact, lease: Lease) -> AbstractAsyncContextManager[Session]:
        """Open a session; a paused sandbox goes on. One session at a time: a new one ends the one before."""
        return self._open(device)

    # making and ending sandboxes

    async def create(self, request: DeviceRequest) -> DeviceFact:
        async with self._lock(request.identity):
            existing = self._sandboxes.get(request.identity)
            if existing is not None and existing.init.alive():
                if existing.request.template != request.template:
                    raise AlreadyExists(
                        f"the sandbox {request.identity!r} exists and was made from {existing.request.template!r}"
                    )
                return self._fact(existing)
            if request.user not in (None, *ACCOUNTS):
                raise InvalidArgument(f"a sandbox has one account, by the names {' and '.join(ACCOUNTS)}")
            if request.disk is not None:
                raise InvalidArgument("a sandbox shares its host's file system and has no disk limit: leave disk out")
            if request.network is not None:
                Rules(request.network)
            if self._agent is None:
                raise Unavailable("the driver has not been started")
            self._sandboxes.pop(request.identity, None)
            if len(self._sandboxes) + len(self._reserved) >= self._slots:
                raise ResourceExhausted(f"all {self._slots} sandboxes of this host are in use", slots=self._slots)
            self._reserved.add(request.identity)
            try:
                sandbox = await self._make(request, self._agent)
            except BaseException:
                with trio.move_on_after(CLEAN_UP_SECONDS, shield=True):
                    await trio.to_thread.run_sync(self._clear_away, request.identity)
                raise
            finally:
                self._reserved.discard(request.identity)
            self._sandboxes[sandbox.identity] = sandbox
            self._made.send_nowait(sandbox)
            return self._fact(sandbox)

    async def _make(self, request: DeviceRequest, agent: Path) -> Sandbox:
        settings = self.context.settings
        size = Size(
            vcpus=request.vcpus or settings.vcpus,
            memory=request.memory or settings.memory,
            processes=settings.processes,
        )
        template = await trio.to_thread.run_sync(self._storage.template, request.template)
        request = msgspec.structs.replace(
            request,
            environment={**template.environment, **request.environment},
            user=request.user or template.user,
        )
        try:
            started = await trio.to_thread.run_sync(self._launch, request.identity, template, size, agent)
        except OSError as error:
            raise _from_os(error, "cannot start a sandbox") from error
        try:
            return await self._settle(request, template, size, started)
        except BaseException:
            with trio.move_on_after(CLEAN_UP_SECONDS, shield=True):
                await trio.to_thread.run_sync(lambda: _end_all(descendants(started.pid)))
            raise

    async def _settle(self, request: DeviceRequest, template: Layered, size: Size, started: Started) -> Sandbox:
        """Wait until a launched sandbox takes verbs. Raises Unavailable with what it said."""
        folder = self._storage.device(request.identity)
        try:
            sandbox = Sandbox(
                request=request,
                layers=template.layers,
                size=size,
                created=datetime.now(UTC),
                init=ProcessIdentity.of(child_of(await self._told_by(started))),
                outer=ProcessIdentity.of(started.pid),
            )
            await trio.to_thread.run_sync(sandbox.save, folder)
            async with self._connected(request.identity) as agent:
                environment = request.environment
                if request.network is not None:
                    await listen_for_connections(agent, PROXY_PORT)
                    environment = {**proxy_environment(), **environment}
                await agent.identify(environment=environment, user=request.user)
        except (ValueError, ProcessLookupError, AnvilError) as error:
            log = await trio.to_thread.run_sync(_last_line, folder / LOG)
            raise Unavailable(f"a sandbox did not start: {log or error}") from None
        return sandbox

    async def _told_by(self, started: Started) -> bytes:
        """Return what bubblewrap tells of its child; it ends with a brace, or early when the start fails."""
        told = b""
        async with trio.lowlevel.FdStream(started.info) as info:
            with trio.move_on_after(READY_SECONDS):
                while not told.rstrip().endswith(b"}") and (chunk := await info.receive_some()):
                    told += chunk
        return told

    def _launch(self, identity: str, template: Layered, size: Size, agent: Path) -> Started:
        self._clear_away(identity)
        self._storage.make_device(identity)
        group = Group(self._layout, identity)
        group.create(size.limits)
        started = launch(self._storage, identity, template.layers, agent)
        try:
            group.add(started.pid)
            os.write(started.go, b"\n")
        except OSError:
            os.close(started.info)
            raise
        finally:
            os.close(started.go)  # without its line the script ends
        return started

    async def destroy(self, identity: str) -> None:
        lock = self._lock(identity)
        async with lock:
            self._sandboxes.pop(identity, None)
            self._outlets.pop(identity, None)
            try:
                await trio.to_thread.run_sync(self._clear_away, identity)
            except OSError as error:
                raise Unavailable(f"the sandbox {identity!r} could not be removed: {error}") from error
        if not lock.statistics().tasks_waiting and not lock.locked():
            self._locks.pop(identity, None)

    def _clear_away(self, identity: str) -> None:
        """End and remove whatever there is of a sandbox, however far it had come. Raises OSError."""
        folder = self._storage.device(identity)
        group = Group(self._layout, identity)
        sandbox = Sandbox.load(folder)
        if sandbox is not None:
            if group.frozen():
                group.thaw()
            sandbox.init.end(END_SECONDS)
            sandbox.outer.end(END_SECONDS)
            sandbox.outer.reap()
        _end_all(group.processes())  # of one that was still being started
        group.remove()
        if folder.exists():
            remove_tree(folder)
            self._storage.sweep_layers()

    # templates

    async def templates(self) -> Sequence[Template]:
        made = await trio.to_thread.run_sync(self._storage.templates)
        built_in = await trio.to_thread.run_sync(self._storage.template, BUILT_IN)
        return [self._told(template) for template in (built_in, *made)]

    async def snapshot(self, identity: str, template: str, *, memory: bool = True) -> Template:
        """Make a template of a sandbox's files; it stands still meanwhile. Processes and memory are not kept, whether
        they are asked for or not."""
        async with self._lock(identity):
            sandbox = self._sandboxes.get(identity)
            if sandbox is None:
                raise NotFound(f"there is no sandbox {identity!r}")
            await trio.to_thread.run_sync(self._storage.check_new, template)
            self._storage.check_depth(sandbox.layers)
            layer, partial, whole = self._storage.new_layer()
            group = Group(self._layout, identity)
            running = not await trio.to_thread.run_sync(group.frozen)
            try:
                if running and self._layout.can_freeze:
                    await trio.to_thread.run_sync(group.freeze)
                await self._copy(self._storage.device(identity) / "upper", partial)
                made = await trio.to_thread.run_sync(self._keep, template, layer, partial, whole, sandbox)
            except TimeoutError as error:
                raise Unavailable(f"the sandbox {identity!r} could not be stopped for a snapshot: {error}") from None
            except OSError as error:
                raise _from_os(error, f"cannot make a template of the sandbox {identity!r}") from error
            finally:
                with trio.move_on_after(CLEAN_UP_SECONDS, shield=True):
                    if running and self._layout.can_freeze:
                        await trio.to_thread.run_sync(group.thaw)
                    await trio.to_thread.run_sync(remove_tree, partial)
            return self._told(made)

    async def _copy(self, source: Path, target: Path) -> None:
        done = await trio.run_process(
            copy_tree_command(source, target), capture_stderr=True, capture_stdout=True, check=False
        )
        if done.returncode:
            message = done.stderr.decode(errors="replace").strip()
            if "No space left" in message:
                raise ResourceExhausted(f"no space is left for a template: {message}")
            raise DriverFault(f"a sandbox's files could not be copied: {message}")

    def _keep(self, name: str, layer: str, partial: Path, whole: Path, sandbox: Sandbox) -> Layered:
        partial.rename(whole)
        template = Layered(
            name=name,
            layers=(layer, *sandbox.layers),
            size=tree_size(whole),
            created=datetime.now(UTC),
            environment=sandbox.request.environment,
            user=sandbox.request.user,
        )
        self._storage.add_template(template)
        return template

    async def remove_template(self, template: str) -> None:
        await trio.to_thread.run_sync(self._storage.remove_template, template)

    # parts

    async def _examine(self) -> Health:
        self._health = await trio.to_thread.run_sync(self._examine_host)
        return self._health

    def _examine_host(self) -> Health:
        if platform.system() != "Linux":
            return probe(self._storage, self._layout)
        try:
            self._storage.prepare()
            self._layout = find_layout(GROUPS)
            health = probe(self._storage, self._layout)
            if health.usable:
                self._agent = compile_agent(self.context.cache_dir)
        except subprocess.SubprocessError as error:
            return Health(state=HealthState.UNHEALTHY, reason=f"{PYTHON} cannot run the guest agent: {error}")
        except OSError as error:
            return Health(state=HealthState.UNHEALTHY, reason=f"the driver's folders cannot be used: {error}")
        return health

    def _find_survivors(self) -> list[Sandbox]:
        """Return the sandboxes that have outlived an earlier daemon; put away what is left of the others."""
        found = []
        for folder in self._storage.devices.iterdir():
            sandbox = Sandbox.load(folder)
            if sandbox is not None and sandbox.init.alive():
                found.append(sandbox)
            else:
                self._clear_away(folder.name)
        return found

    @contextlib.asynccontextmanager
    async def _connected(self, identity: str) -> AsyncIterator[AgentClient]:
        try:
            stream = await connect_unix(self._storage.device(identity) / SOCKET)
        except OSError as error:
            raise DeviceLost(f"the sandbox {identity!r} does not answer: {error}") from None
        async with connect_agent(stream, deadline=OPEN_SECONDS) as agent:
            yield agent

    def _lock(self, identity: str) -> trio.Lock:
        return self._locks.setdefault(identity, trio.Lock())

    def _session_type(self) -> type[MeasuredSession]:
        return SandboxSession if self._layout.can_freeze else MeasuredSession

    def _fact(self, sandbox: Sandbox) -> DeviceFact:
        return DeviceFact(
            identity=sandbox.identity,
            platform="linux",
            name=sandbox.request.name,
            status=DeviceStatus.READY,
            model="namespace sandbox",
            firmware_version=platform.release(),
            capabilities=self._session_type().offered,
            facts={
                "template": sandbox.request.template,
                "vcpus": str(sandbox.size.vcpus),
                "memory": str(sandbox.size.memory),
                "exec_kept_output": str(KEPT_OUTPUT),
                **{f"label.{name}": value for name, value in sandbox.request.labels.items()},
            },
            handle=msgspec.json.encode(sandbox.identity).decode(),
        )

    def _told(self, template: Layered) -> Template:
        settings = self.context.settings
        return Template(
            name=template.name,
            warm=False,
            vcpus=settings.vcpus,
            memory=settings.memory,
            disk=0,
            size=template.size,
            created=template.created,
            facts={"holds": "files"},
        )


def _from_os(error: OSError, what: str) -> AnvilError:
    """Turn a system error of the host into one of the interface's."""
    message = f"{what}: {error.strerror or error}"
    if isinstance(error, PermissionError):
        return PermissionDenied(message)
    return ResourceExhausted(message) if error.errno in _EXHAUSTED else Unavailable(message)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else ""


def _end_all(pids: Sequence[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            process = ProcessIdentity.of(pid)
            process.end(END_SECONDS)
            process.reap()
