"""The driver: what the daemon sees of it. The work is done in the rooms beside it."""

from __future__ import annotations

import errno
import hashlib
import math
import os
import platform
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import msgspec
import trio

from anvild.sdk import (
    Description,
    DeviceFact,
    DeviceLost,
    DeviceRequest,
    Driver,
    DriverContext,
    DriverFault,
    Health,
    HealthState,
    ImageBuild,
    Lease,
    Network,
    NetworkUse,
    NotFound,
    Provision,
    Recovery,
    RecoveryState,
    Report,
    ResourceExhausted,
    Session,
    Sighting,
    Snapshot,
    Suspend,
    Template,
    Unavailable,
)
from anvild.sdk.background import Background
from anvild.sdk.cgroups import Layout, find_layout

from .accelerator import Accelerator, choose_accelerator
from .capsules import Capsules
from .children import check_tools
from .files import hold
from .host import QEMU_TOOLS, Host, Qemu
from .image.builder import Images
from .image.recipe import read_recipe
from .process import guest_account
from .record import SESSION_CAPABILITIES, Handle
from .session import open_session
from .settings import MicrovmSettings

__all__ = ["MicrovmDriver"]

FULL = (errno.ENOSPC, errno.EDQUOT)
LOCK = "lock"
GROUPS = "anvil-microvm"
DRIVER_CAPABILITIES = ("provision", "suspend", "snapshot", "network", "image_build")


@contextmanager
def told() -> Iterator[None]:
    """Let only errors of the stable interface out."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise ResourceExhausted(f"the host's disk is full: {error}") from error
        raise DriverFault(f"the host refused: {error}") from error


class MicrovmDriver(Driver, Provision, Suspend, Snapshot, Network, ImageBuild):
    """Guests made to order from templates, each in a QEMU of its own that outlives the daemon."""

    name = "microvm"
    settings_type = MicrovmSettings

    def __init__(self, context: DriverContext[MicrovmSettings]) -> None:
        super().__init__(context)
        self._settings = context.settings
        self._background = Background(self._report_defect)
        self._qemu = Qemu(self._settings.qemu)
        self._accelerator: Accelerator | None = None
        self._choosing = trio.Lock()
        self._layout = Layout()
        self._images: Images | None = None
        self._capsules: Capsules | None = None
        self._lock: int | None = None
        self._sightings, self._sighted = trio.open_memory_channel[Sighting](math.inf)

    # life

    async def start(self) -> None:
        with told():
            health = await self._health()
            if not health.usable:
                raise Unavailable(health.reason)
            state, cache = self.context.state_dir.resolve(), self.context.cache_dir.resolve()
            account = await trio.to_thread.run_sync(guest_account, self._settings.user)
            self._layout = await trio.to_thread.run_sync(find_layout, GROUPS)
            host = Host(
                settings=self._settings,
                account=account,
                accelerator=await self._choose(),
                qemu=self._qemu,
                background=self._background,
                starting=trio.CapacityLimiter(self._settings.starts),
                log=self.context.log,
                layout=self._layout,
                scope=hashlib.sha256(str(state).encode()).hexdigest()[:8],
            )
            await self._qemu.look()
            await self._background.open()
            images = Images(cache / "images", account)
            capsules = Capsules(host, state, images, self._recipes, self._lost)
            self._lock = await trio.to_thread.run_sync(hold, state / LOCK)
            if self._lock is not None:
                await capsules.sweep()
            self._images, self._capsules = images, capsules

    async def stop(self) -> None:
        self._capsules = None
        await self._background.close()
        await trio.to_thread.run_sync(self._layout.tidy)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _report_defect(self, error: Exception) -> None:
        self.context.log("error", "driver.defect", error=repr(error))

    def _lost(self, fact: DeviceFact) -> None:
        self._sightings.send_nowait(Sighting(kind="lost", device=fact))

    def _started(self) -> Capsules:
        """What templates and images need: another process may use the same state at the same time."""
        if self._capsules is None:
            raise Unavailable("the driver microvm has not been started")
        return self._capsules

    def _all(self) -> Capsules:
        """What guests need: that no other process minds them."""
        capsules = self._started()
        if self._lock is None:
            raise Unavailable(f"the guests in {self.context.state_dir} are minded by another process, perhaps a daemon")
        return capsules

    # what it is

    async def describe(self) -> Description:
        health = await self._health()
        facts = {}
        if health.usable:
            facts = {"qemu": await self._qemu.look(), "accelerator": (await self._choose()).name}
        return Description(
            name=self.name,
            version=version("anvild-driver-microvm"),
            platforms=("linux",),
            capabilities=(*DRIVER_CAPABILITIES, *SESSION_CAPABILITIES),
            health=health,
            slots=self._settings.slot_count() if health.usable else 0,
            facts=facts,
        )

    async def _health(self) -> Health:
        if sys.platform != "linux" or platform.machine() != "x86_64":
            where = f"{sys.platform} on {platform.machine()}"
            return Health(state=HealthState.ABSENT, reason=f"guests run on Linux on x86-64 hosts; this is {where}")
        try:
            await trio.to_thread.run_sync(check_tools, QEMU_TOOLS, "the driver microvm")
        except Unavailable as error:
            return Health(state=HealthState.ABSENT, reason=error.message)
        try:
            await trio.to_thread.run_sync(guest_account, self._settings.user)
        except Unavailable as error:
            return Health(state=HealthState.UNHEALTHY, reason=error.message)
        accelerator = await self._choose()
        if not accelerator.wanted:
            return Health(state=HealthState.UNHEALTHY, reason=accelerator.reason)
        degraded = accelerator.name == "tcg" and self._settings.accelerator == "auto"
        return Health(state=HealthState.DEGRADED if degraded else HealthState.HEALTHY, reason=accelerator.reason)

    async def _choose(self) -> Accelerator:
        """Return how guests run here; found out once."""
        async with self._choosing:
            if self._accelerator is None:
                self._accelerator = await choose_accelerator(self._settings.accelerator)
            return self._accelerator

    async def watch(self, report: Report) -> NoReturn:
        for fact in await self._all().adopt_all():
            await report(Sighting(kind="seen", device=fact))
        while True:
            await report(await self._sighted.receive())

    # devices

    @asynccontextmanager
    async def open(self, device: DeviceFact, lease: Lease) -> AsyncIterator[Session]:
        try:
            capsule = await self._all().get(device.identity)
        except NotFound as error:
            raise DeviceLost(error.message) from error
        async with open_session(capsule) as session:
            yield session

    async def clean(self, device: DeviceFact) -> None:
        with told():
            await self._all().clean(device.identity)

    async def recover(self, handle: str) -> Recovery:
        try:
            identity = msgspec.json.decode(handle, type=Handle).identity
        except msgspec.DecodeError:
            return Recovery(state=RecoveryState.LOST, reason="the handle is not one of this driver")
        with told():
            return await self._all().recover(identity)

    async def create(self, request: DeviceRequest) -> DeviceFact:
        with told():
            return await self._all().create(request)

    async def destroy(self, identity: str) -> None:
        with told():
            await self._all().destroy(identity)

    async def suspend(self, identity: str) -> DeviceFact:
        with told():
            capsule = await self._all().get(identity)
            await capsule.suspend()
            return capsule.fact

    async def resume(self, identity: str) -> DeviceFact:
        with told():
            return await self._all().resume(identity)

    async def network_use(self, identity: str) -> NetworkUse:
        return (await self._all().get(identity)).network_use()

    # templates

    async def templates(self) -> Sequence[Template]:
        with told():
            return await self._started().templates.listing()

    async def snapshot(self, identity: str, template: str, *, memory: bool = True) -> Template:
        with told():
            return await self._all().snapshot(identity, template, memory=memory)

    async def remove_template(self, template: str) -> None:
        with told():
            await self._started().templates.remove(template)

    async def build_image(
        self, name: str, report: Callable[[str], Awaitable[None]], *, rebuild: bool = False
    ) -> Template:
        capsules, images = self._started(), self._images
        assert images is not None, "a started driver has images"
        with told():
            recipes = await trio.to_thread.run_sync(self._recipes)
            if name not in recipes:
                known = ", ".join(sorted(recipes)) or "none"
                raise NotFound(f"there is no recipe {name!r} on the data path; there are: {known}")
            recipe = await trio.to_thread.run_sync(read_recipe, recipes[name])
            await images.build(name, recipe, report, rebuild=rebuild)
            await report(f"{name}: taking the warm template")
            await capsules.templates.get(name)
            return await capsules.templates.one(name)

    def _recipes(self) -> dict[str, Path]:
        """Return the recipes by name. It reads folders."""
        return self.context.data_files("images", ".toml")
