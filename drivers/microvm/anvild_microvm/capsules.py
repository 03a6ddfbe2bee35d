"""All capsules of one driver: making, finding again, ending, and making templates of them."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from weakref import WeakValueDictionary

import msgspec
import trio

from anvild.sdk import (
    AlreadyExists,
    AnvilError,
    Command,
    DeviceFact,
    DeviceLost,
    DeviceRequest,
    DeviceStatus,
    DriverFault,
    InvalidArgument,
    NotFound,
    Recovery,
    RecoveryState,
    ResourceExhausted,
    Template,
    run,
)
from anvild.sdk.agent import AgentSession
from anvild.sdk.network.outlet import proxy_environment
from anvild.sdk.network.rules import Rules
from anvild.sdk.recipes import Cook, Step, StepFailed, parse_health_check, parse_recipe

from .capsule import ZERO, Capsule, prepare_folder
from .disks import new_layer_name
from .files import remove_tree, scratch
from .guest import GuestIdentity
from .host import Host
from .image.builder import Images
from .machine import MIB
from .process import end_processes
from .record import Record, host_name, read_record
from .snapshots import complete
from .template import RAM, Manifest
from .templates import Templates

__all__ = ["Capsules"]

WARM_UP_SECONDS = 120.0


def first_record(host: Host, request: DeviceRequest, manifest: Manifest) -> Record:
    """Return the record of a guest that is to be made. Raises InvalidArgument for a size or a network that cannot be
    had."""
    vcpus = request.vcpus or manifest.vcpus
    memory = -(-(request.memory or manifest.memory) // MIB) * MIB
    machine = host.machine(vcpus, memory)
    if manifest.fixed and (vcpus, memory) != (manifest.vcpus, manifest.memory):
        raise InvalidArgument(
            f"the template {manifest.name!r} holds a running guest of {manifest.vcpus} vCPUs and "
            f"{manifest.memory // MIB} MiB and starts with no other: leave vcpus and memory out"
        )
    if request.disk is not None and request.disk < manifest.disk:
        raise InvalidArgument(
            f"the template {manifest.name!r} has a disk of {manifest.disk // MIB} MiB; a smaller one cannot be had"
        )
    environment = {**manifest.environment, **request.environment}
    if request.network is not None:
        Rules(request.network)
        environment = {**proxy_environment(), **environment}
    return Record(
        identity=request.identity,
        name=request.name,
        template=request.template,
        labels=request.labels,
        origin=manifest,
        machine=machine,
        disk=manifest.disk,
        layers=manifest.layers,
        active=new_layer_name(),
        ram=RAM if machine == manifest.machine else ZERO,
        itself=GuestIdentity(
            hostname=host_name(request.name, request.identity),
            generation=manifest.generation + 1,
            environment=environment,
            user=request.user or manifest.user,
        ),
        network=request.network,
        bare_state=manifest.bare_state,
    )


class Capsules:
    """The capsules in one folder, by identity. ``on_lost`` is told of one whose QEMU has ended unasked."""

    def __init__(
        self,
        host: Host,
        state: Path,
        images: Images,
        recipes: Callable[[], dict[str, Path]],
        on_lost: Callable[[DeviceFact], None],
    ) -> None:
        self.templates = Templates(host, state / "templates", images, self._warm, recipes)
        self._host = host
        self._folder = state / "capsules"
        self._templates_folder = state / "templates"
        self._on_lost = on_lost
        self._known: dict[str, Capsule] = {}
        self._turns: WeakValueDictionary[str, trio.Lock] = WeakValueDictionary()
        for folder in (self._folder, self._templates_folder):
            folder.mkdir(parents=True, exist_ok=True)

    def _turn(self, identity: str) -> trio.Lock:
        """Return the lock under which the making, finding and ending of one identity take turns."""
        return self._turns.setdefault(identity, trio.Lock())

    async def sweep(self) -> None:
        """Remove what an earlier daemon had begun and not ended."""
        for folder in await trio.to_thread.run_sync(self._unfinished):
            await end_processes(folder)
            await self._host.remove_group(folder.name.lstrip("."))
            await trio.to_thread.run_sync(remove_tree, folder)

    def _unfinished(self) -> list[Path]:
        found = []
        for parent in (self._folder, self._templates_folder):
            found += [folder for folder in parent.iterdir() if folder.name.startswith(".")]
        for folder in self._folder.iterdir():
            record = read_record(folder)
            if not folder.name.startswith(".") and (record is None or record.state == "making"):
                found.append(folder)
        return found

    def _lost(self, capsule: Capsule, reason: str) -> None:
        self._host.log("warning", "guest.lost", device=capsule.record.identity, reason=reason)
        self._on_lost(msgspec.structs.replace(capsule.fact, status=DeviceStatus.OFFLINE, reason=reason))

    # finding

    async def adopt_all(self) -> list[DeviceFact]:
        """Take up all guests that run or are suspended, and return them."""
        names = await trio.to_thread.run_sync(lambda: [folder.name for folder in self._folder.iterdir()])
        found = []
        for name in names:
            async with self._turn(name):
                capsule = await self._find(name)
            if capsule is not None:
                found.append(capsule.fact)
        return found

    async def recover(self, identity: str) -> Recovery:
        """Say what became of a guest while the daemon was away. What has ended is removed."""
        async with self._turn(identity):
            known = self._known.get(identity)
            if known is not None and known.alive:
                return Recovery(state=RecoveryState.RUNNING, reason="the guest runs on", device=known.fact)
            return await self._adopt(identity)

    async def _adopt(self, identity: str) -> Recovery:
        folder = self._folder / identity
        record = await trio.to_thread.run_sync(read_record, folder)
        if record is None:
            return Recovery(state=RecoveryState.LOST, reason="the guest's folder is not there any more")
        capsule = Capsule(self._host, folder, record, self._lost)
        recovery = await capsule.adopt()
        if recovery.state is RecoveryState.RUNNING:
            self._known[identity] = capsule
        else:
            self._known.pop(identity, None)
            await capsule.destroy()
        return recovery

    async def _find(self, identity: str) -> Capsule | None:
        """Return the guest when there is one that runs or is suspended. The caller holds the identity's turn."""
        known = self._known.get(identity)
        if known is None or not known.alive:
            await self._adopt(identity)
        return self._known.get(identity)

    async def get(self, identity: str) -> Capsule:
        """Return a guest. Raises NotFound."""
        async with self._turn(identity):
            capsule = await self._find(identity)
        if capsule is None:
            raise NotFound(f"there is no guest {identity!r}")
        return capsule

    # making and ending

    async def create(self, request: DeviceRequest) -> DeviceFact:
        """Make a guest, or return the one of this identity. Cancelling leaves nothing."""
        async with self._turn(request.identity):
            capsule = await self._find(request.identity)
            if capsule is not None:
                if capsule.record.template != request.template:
                    raise AlreadyExists(
                        f"the identity {request.identity!r} belongs to a guest of {capsule.record.template!r}"
                    )
                return capsule.fact
            await self._host.qemu.look()
            template, manifest = await self.templates.get(request.template)
            record = first_record(self._host, request, manifest)
            self._check_room()
            capsule = Capsule(self._host, self._folder / request.identity, record, self._lost)
            self._known[request.identity] = capsule
            try:
                await self._make(capsule, template, request.disk or 0)
            except BaseException:
                del self._known[request.identity]
                await capsule.destroy()
                raise
            return capsule.fact

    async def _make(self, capsule: Capsule, template: Path, disk: int) -> None:
        async with self._host.starting:
            await trio.to_thread.run_sync(prepare_folder, self._host, capsule.folder, capsule.record, template)
            await capsule.make(disk)

    def _check_room(self) -> None:
        slots = self._host.settings.slot_count()
        if sum(1 for capsule in self._known.values() if capsule.takes_slot) >= slots:
            raise ResourceExhausted(f"all {slots} slots for guests are taken: destroy or suspend one", slots=slots)

    async def destroy(self, identity: str) -> None:
        """End a guest and remove all of it. Idempotent."""
        async with self._turn(identity):
            capsule = self._known.pop(identity, None)
            if capsule is None:
                folder = self._folder / identity
                record = await trio.to_thread.run_sync(read_record, folder)
                if record is None:
                    await end_processes(folder)
                    await trio.to_thread.run_sync(remove_tree, folder)
                    return
                capsule = Capsule(self._host, folder, record, self._lost)
            await capsule.destroy()

    async def clean(self, identity: str) -> None:
        """Bring a guest back to what its template is."""
        capsule = await self.get(identity)
        async with self._host.starting:
            await capsule.renew()

    async def resume(self, identity: str) -> DeviceFact:
        """Bring a suspended guest back."""
        capsule = await self.get(identity)
        if capsule.record.state == "suspended":
            self._check_room()
            await self._host.qemu.look()
            async with self._host.starting:
                await capsule.resume()
        return capsule.fact

    # templates

    async def snapshot(self, identity: str, template: str, *, memory: bool) -> Template:
        """Make a template of a guest, with its memory or of its disk alone. Cancelling leaves no half template."""
        capsule = await self.get(identity)
        await self.templates.refuse_taken(template)
        async with scratch(self._templates_folder) as work:
            manifest = await capsule.snapshot(work, template, memory=memory)
            await complete(work, manifest, self._host.account)
            made = await self.templates.add(template, work)
        capsule.limit_depth()
        return made

    async def _warm(self, image: Path, manifest: Manifest, target: Path) -> Manifest:
        """Boot an image, warm it up and take the template."""
        identity = f"image-{secrets.token_hex(6)}"
        request = DeviceRequest(template=manifest.name, name=manifest.hostname, identity=identity)
        record = first_record(self._host, request, manifest)
        capsule = Capsule(self._host, self._folder / f".{identity}", record, self._lost)
        try:
            await self._make(capsule, image, 0)
            session = AgentSession(capsule.fact, await capsule.agent())
            cook = await self._prepare(session, manifest)
            for argv in manifest.warm_up:
                await self._warm_up(session, argv)
            taken = await capsule.snapshot(target, manifest.name)
            whole = msgspec.structs.replace(
                manifest,
                machine=taken.machine,
                bare_state=taken.bare_state,
                layers=taken.layers,
                environment=cook.environment,
                user=cook.user,
                created=datetime.now(UTC),
            )
            return await complete(target, whole, self._host.account)
        finally:
            await capsule.destroy()

    async def _prepare(self, session: AgentSession, manifest: Manifest) -> Cook:
        """Do what an image's recipe wants done in its guest. Raises DriverFault that names the step that failed."""

        async def report(step: Step) -> None:
            self._host.log("info", "template.step", template=manifest.name, **msgspec.structs.asdict(step))

        cook = Cook(session, report, name="service")
        try:
            await cook.follow(parse_recipe(manifest.prepare))
            if manifest.health_check is not None:
                await cook.check(parse_health_check(manifest.health_check))
            if manifest.prepare:
                await run(session, Command(argv=("sync",)), deadline=WARM_UP_SECONDS)
        except StepFailed as failure:
            raise DriverFault(f"the image {manifest.name!r} could not be prepared: {failure.message}") from None
        return cook

    async def _warm_up(self, session: AgentSession, argv: tuple[str, ...]) -> None:
        """Run one command; one that fails makes the template no worse."""
        try:
            done = await run(session, Command(argv=argv), deadline=WARM_UP_SECONDS)
            if not done.exit.ok:
                self._host.log("warning", "template.warm_up", argv=" ".join(argv), code=done.exit.code)
        except DeviceLost:
            raise
        except AnvilError as error:
            self._host.log("warning", "template.warm_up", argv=" ".join(argv), reason=error.message)
