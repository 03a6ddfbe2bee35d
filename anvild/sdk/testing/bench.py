"""The bench on which the rules try a driver: one driver that lives, one device, sessions, and bounded waits."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, TypeVar

import msgspec
import trio

from ..capabilities import DRIVER_CAPABILITIES, Exec, Files, Provision, run
from ..driver import Driver, Session
from ..errors import NotFound
from ..values import (
    Command,
    Completed,
    Description,
    DeviceFact,
    DeviceRequest,
    DeviceStatus,
    Lease,
    NetworkPolicy,
    Sighting,
)
from ..verbs import Capability
from .leaks import children
from .places import Place, Setup
from .profile import Profile
from .rules import Broken, NotApplicable, require
from .trying import DESCRIBE_SECONDS, STOP_SECONDS, VERB_SECONDS, described, leaf, limited

__all__ = ["Bench", "Life"]

T = TypeVar("T")
C = TypeVar("C", bound=Capability)

START_SECONDS = 60.0
OPEN_SECONDS = 60.0
LETTING_GO_SECONDS = 30.0


class Life:
    """One life of a driver: made, started, watched, stopped. It is a task of its own, so that no rule's deadline
    reaches into it."""

    def __init__(self, place: Place, setup: Setup) -> None:
        self._place = place
        self._setup = setup
        self._end = trio.Event()
        self._ended = trio.Event()
        self._changed = trio.Event()
        self.driver: Driver
        self.description: Description
        self.sightings: list[Sighting] = []
        self.present: dict[str, DeviceFact] = {}
        self.held = trio.Event()
        self.held.set()
        self.error: BaseException | None = None
        self.watching_ended = False
        self.watch_let_go: float | None = None

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Live until :meth:`end`. What goes wrong after the start is kept in ``error``."""
        started = False
        try:
            async with self._place.driver(self._setup) as driver:
                self.driver = driver
                try:
                    await limited("start", START_SECONDS, driver.start)
                    self.description = await limited("describe", DESCRIBE_SECONDS, driver.describe)
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._watch)
                        started = True
                        task_status.started()
                        await self._end.wait()
                        began = trio.current_time()
                        nursery.cancel_scope.cancel()
                    self.watch_let_go = trio.current_time() - began
                finally:
                    with trio.CancelScope(shield=True):
                        await limited("stop", STOP_SECONDS, driver.stop)
        except Exception as error:
            self.error = leaf(error)
            if not started:
                raise self.error from None
        finally:
            self._ended.set()

    async def end(self) -> None:
        """Stop the driver and wait until it has let go."""
        self._end.set()
        await self._ended.wait()

    @property
    def over(self) -> bool:
        """Whether the driver has stopped, or has gone by itself."""
        return self._ended.is_set()

    async def _watch(self) -> None:
        try:
            await self.driver.watch(self._report)
        except Exception as error:
            self.error = leaf(error)
        self.watching_ended = True

    async def _report(self, sighting: Sighting) -> None:
        await self.held.wait()
        self.sightings.append(sighting)
        if sighting.kind == "seen":
            self.present[sighting.device.identity] = sighting.device
        else:
            self.present.pop(sighting.device.identity, None)
        self._changed.set()
        self._changed = trio.Event()

    async def until(self, condition: Callable[[], T | None], seconds: float, reason: str) -> T:
        """Wait until a condition on what was sighted holds, and return it. Raises Broken with the reason."""
        if found := condition():
            return found
        with trio.move_on_after(seconds):
            while not (found := condition()):
                await self._changed.wait()
            return found
        raise Broken(f"{reason} within {seconds:g} s")


class Bench:
    """What a check of a rule may use.

    ``driver`` lives while its rules run. A rule that needs drivers of its own makes them by :meth:`fresh` or
    :meth:`restart`.
    """

    def __init__(self, place: Place, profile: Profile, setup: Setup, nursery: trio.Nursery) -> None:
        self.place = place
        self.profile = profile
        self._setup = setup
        self._nursery = nursery
        self._life: Life | None = None
        self._broken: BaseException | None = None
        self._fence = 0
        self.made: set[str] = set()
        """Identities of the devices that were made and must be destroyed."""
        self._identity = f"conformance-{secrets.token_hex(4)}"
        self._scratch: str | None = None
        self._absent = False
        self._numbers = 0
        self.cleared = False
        self.strangers = frozenset(children())
        """Processes below this one that were there before the driver."""

    # the driver

    async def ready(self) -> None:
        """See to it that the driver lives. Raises what its start raised."""
        if self._life is not None and not self._life.over:
            return
        if self._broken is not None:
            raise Broken(f"the driver does not start: {described(self._broken)}")
        life = Life(self.place, self._setup)
        try:
            await self._nursery.start(life.run)
        except Exception as error:
            self._broken = leaf(error)
            raise Broken(f"the driver does not start: {described(self._broken)}") from error
        self._life = life

    async def stop(self) -> None:
        """Stop the driver, if it lives."""
        if self._life is not None:
            await self._life.end()
            self._life = None

    async def restart(self) -> Life:
        """Stop the driver and start it again on the same directories; return the life that has ended."""
        before = self.life
        await self.stop()
        await self.ready()
        return before

    @property
    def life(self) -> Life:
        """The driver's present life."""
        if self._life is None:
            raise Broken("the driver does not live")
        return self._life

    @property
    def driver(self) -> Driver:
        """The driver, started and watched."""
        return self.life.driver

    @property
    def description(self) -> Description:
        """What the driver said of itself after its start."""
        return self.life.description

    def driver_as(self, capability: type[C]) -> C:
        """Return the driver as one of the driver-side capabilities. Raises Broken when it declares but lacks it."""
        offered: object = self.driver
        if isinstance(offered, capability):
            return offered
        raise Broken(f"the driver declares {capability.capability!r} and does not implement it")

    @asynccontextmanager
    async def fresh(self) -> AsyncIterator[Driver]:
        """Have another driver, not started, on directories of its own. ``stop`` is the rule's affair."""
        self._numbers += 1
        root = self._setup.scratch / f"fresh-{self._numbers}"
        setup = msgspec.structs.replace(self._setup, state_dir=root / "state", cache_dir=root / "cache")
        for folder in (setup.state_dir, setup.cache_dir):
            await trio.Path(folder).mkdir(parents=True)
        async with self.place.driver(setup) as driver:
            yield driver

    # devices

    @property
    def makes(self) -> bool:
        """Whether the device under test is made to order."""
        return Provision.capability in self.description.capabilities and self.profile.device is None

    def declared(self, device: DeviceFact | None = None) -> frozenset[str]:
        """The names of the capabilities that the driver, or a device of it, declares."""
        if device is None:
            return frozenset(self.description.capabilities) & DRIVER_CAPABILITIES.keys()
        return frozenset(device.capabilities)

    async def device(self) -> DeviceFact:
        """Return the device under test: made to order, or the one that the profile names, or the first ready one."""
        if self.makes:
            return await self.make(self._identity)
        wanted = self.profile.device
        seconds = 0 if self._absent else self.profile.appear_seconds

        def there() -> DeviceFact | None:
            return next(
                (
                    each
                    for identity, each in self.life.present.items()
                    if each.status is DeviceStatus.READY and wanted in (None, identity)
                ),
                None,
            )

        what = f"the device {wanted!r}" if wanted else "a ready device (attach one, or turn a simulator on)"
        self._absent = True
        found = await self.life.until(there, seconds, f"the driver did not report {what}")
        self._absent = False
        return found

    async def other_device(self) -> DeviceFact:
        """Return a second device. Raises NotApplicable when there is none."""
        first = await self.device()
        if self.makes:
            if self.description.slots == 1:
                raise NotApplicable("the driver has one slot")
            return await self.make(self.name())
        for each in self.life.present.values():
            if each.identity != first.identity and each.status is DeviceStatus.READY:
                return each
        raise NotApplicable("there is one device only")

    async def make(
        self, identity: str, template: str | None = None, *, network: NetworkPolicy | None = None
    ) -> DeviceFact:
        """Make a device; it is destroyed at the end of the check at the latest."""
        provision = self.driver_as(Provision)
        self.made.add(identity)
        request = msgspec.structs.replace(await self.request(identity, template), network=network)
        return await limited("provision.create", 120, lambda: provision.create(request))

    async def request(self, identity: str, template: str | None = None) -> DeviceRequest:
        """Return the request for a device of the profile's template."""
        wanted = self.profile.provision
        template = template or wanted.template
        if template is None:
            known = await limited("provision.templates", 60, self.driver_as(Provision).templates)
            require(known, "the driver lists no template to make a device from: prepare one, or name it in the profile")
            template = known[0].name
        return DeviceRequest(
            template=template, name=identity, identity=identity, vcpus=wanted.vcpus, memory=wanted.memory
        )

    async def destroy(self, identity: str) -> None:
        """Destroy a device that was made."""
        provision = self.driver_as(Provision)
        await limited("provision.destroy", 60, lambda: provision.destroy(identity))
        self.made.discard(identity)

    @asynccontextmanager
    async def session(self, device: DeviceFact | None = None) -> AsyncIterator[Session]:
        """Open a session, on the device under test by default, within the time that opening and closing may take."""
        device = device or await self.device()
        with trio.CancelScope() as scope:
            async with AsyncExitStack() as stack:
                scope.deadline = trio.current_time() + OPEN_SECONDS
                session = await stack.enter_async_context(self.driver.open(device, self.lease()))
                scope.deadline = float("inf")
                try:
                    yield session
                finally:
                    scope.deadline = trio.current_time() + OPEN_SECONDS
        if scope.cancelled_caught:
            raise Broken(f"opening or closing a session took more than {OPEN_SECONDS:g} s")

    def lease(self) -> Lease:
        """Return the next lease."""
        self._fence += 1
        return Lease(lease_id=f"conformance-{self._fence}", fence=self._fence, holder="conformance")

    # what rules do

    async def shell(self, session: Exec, script: str, *, stdin: bytes = b"", **command: Any) -> Completed:
        """Run a script to its end with the profile's shell."""
        return await run(session, self.script(script, **command), stdin=stdin, deadline=VERB_SECONDS)

    def script(self, script: str, *arguments: str, **command: Any) -> Command:
        """Return the command that runs a script."""
        return Command(argv=(*self.profile.exec.shell, script, *arguments), **command)

    def name(self) -> str:
        """Return a word that no other device, template, tag or program has."""
        self._numbers += 1
        return f"{self._identity}-{self._numbers}"

    async def folder(self, files: Files) -> str:
        """Make a directory of this rule's own on the device."""
        if self._scratch is None:
            root = f"{self.profile.files.scratch.rstrip('/')}/anvil-{self._identity}"
            await files.mkdir(root)
            self._scratch = root
        self._numbers += 1
        return (await files.mkdir(f"{self._scratch}/{self._numbers}")).path

    async def clear_away(self) -> None:
        """Leave the device as it was found, and destroy the devices that were made."""
        self.cleared = True
        if self._scratch is None and not self.made:
            return
        await self.ready()
        with trio.move_on_after(LETTING_GO_SECONDS):
            if self._scratch is not None:
                async with self.session() as session:
                    with suppress(NotFound):  # a device that was cleaned has it no more
                        await session.require(Files).remove(self._scratch)
                self._scratch = None
        for identity in sorted(self.made):
            await self.destroy(identity)
