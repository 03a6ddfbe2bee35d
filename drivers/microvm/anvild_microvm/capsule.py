"""A capsule: one guest with its folder, from its making to its end, over suspensions and restarts of the daemon.

Its folder holds everything that it needs: hard links to its template's files, its own disk layer, its record. The
record is written before each step that cannot be taken back, so that a daemon that comes after a crash finds the truth.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import trio

from anvild.sdk import (
    AnvilError,
    Command,
    DeviceFact,
    DeviceLost,
    InvalidArgument,
    NetworkUse,
    Recovery,
    RecoveryState,
    WrongState,
    run,
)
from anvild.sdk.agent import AgentClient, AgentSession
from anvild.sdk.network.outlet import Outlet, proxy_environment

from . import starting
from .disks import DEPTH_LIMIT, EMPTY, create_overlay, new_layer_name
from .files import copy_sparse, link, new_sparse, remove_tree
from .guest import Guest
from .host import Host
from .machine import DISK, Machine, differences
from .process import Hypervisor, end_processes
from .qmp import QmpError
from .record import Record, fact_of, write_record
from .saving import refuse_unsaveable, save_guest
from .snapshots import BASE, DELTA
from .starting import Started
from .template import KERNEL, RAM, STATE, Manifest, link_template

__all__ = ["Capsule", "prepare_folder"]

AGENT_SECONDS = 30.0
SYNC_SECONDS = 10.0
WRITE_OUT_SECONDS = 120.0
RESIZE_SECONDS = 120.0
ZERO = "zero"
SAVED_STATE = "saved.state"
SAVED_DELTA = "saved.delta"
COPIED_STATE = "copied.state"
COPIED_DELTA = "copied.delta"


def prepare_folder(host: Host, folder: Path, record: Record, template: Path) -> None:
    """Make a capsule's folder from a template's. What is there of an attempt before it is removed."""
    remove_tree(folder)
    folder.mkdir(parents=True)
    host.account.share(folder)
    write_record(folder, record)
    leave_out = (RAM, STATE) if record.ram == ZERO else ()
    link_template(template, record.origin, folder, leave_out=leave_out)
    lay_disk(host, folder, record)


def lay_disk(host: Host, folder: Path, record: Record) -> None:
    """Give a new guest its own top layer, and its empty memory when it boots cold."""
    copy_sparse(folder / EMPTY, folder / record.active)
    host.account.give(folder / record.active)
    lay_memory(host, folder, record)


def lay_memory(host: Host, folder: Path, record: Record) -> None:
    """Have the empty file that the memory of a cold boot begins as."""
    if record.ram == ZERO and not (folder / ZERO).exists():
        new_sparse(folder / ZERO, record.machine.memory)
        host.account.give(folder / ZERO)


class Capsule:
    """One guest. Its verbs take turns by a lock; ``on_lost`` is called when QEMU ends unasked."""

    def __init__(self, host: Host, folder: Path, record: Record, on_lost: Callable[[Capsule, str], None]) -> None:
        self.record = record
        self.folder = folder
        self._host = host
        self._on_lost = on_lost
        self._lock = trio.Lock()
        self._guest: Guest | None = None
        self._outlet: Outlet | None = None
        if record.network is not None:
            self._outlet = Outlet(record.network, device=record.identity, log=host.log)

    @property
    def fact(self) -> DeviceFact:
        return fact_of(self.record, self.folder)

    @property
    def alive(self) -> bool:
        """True when it runs, frozen or not, or is suspended, or is being made."""
        return self._guest is not None or self.record.state in ("suspended", "making")

    @property
    def takes_slot(self) -> bool:
        """True when it uses, or is about to use, the host's memory and processors."""
        return self._guest is not None or self.record.state == "making"

    @property
    def guest(self) -> Guest:
        """The running guest. Raises WrongState when it is suspended, DeviceLost when it has ended."""
        if self._guest is None:
            if self.record.state == "suspended":
                raise WrongState(f"the device {self.record.name!r} is suspended to disk: resume it first")
            raise DeviceLost(f"the device {self.record.name!r} has ended")
        return self._guest

    def network_use(self) -> NetworkUse:
        """Return what its programs have done on the network in this process."""
        return NetworkUse() if self._outlet is None else self._outlet.use()

    async def agent(self) -> AgentClient:
        """Return the connection to the agent in the guest. Raises WrongState, DeviceLost, Unavailable."""
        self.refuse_frozen()
        return await self.guest.agent(deadline=AGENT_SECONDS)

    def refuse_frozen(self) -> None:
        """Raise WrongState while the guest is frozen."""
        if self.record.state == "frozen":
            raise WrongState(f"the device {self.record.name!r} is frozen: thaw it first")

    # making and ending

    async def make(self, disk: int) -> None:
        """Start a new guest in its prepared folder and give it its identity; ``disk`` is the size that it shall see.

        When it fails or is cancelled the caller destroys the capsule.
        """
        async with self._lock:
            if self.record.ram == ZERO:
                await self._boot()
            else:
                started = await starting.restore(
                    self._host, self.folder, self.record, self.folder / STATE, delta=None, on_end=self._ended
                )
                self._took_place(started)
                await self.guest.qmp.execute("cont")
            await self.guest.identify(self.record.itself, deadline=AGENT_SECONDS)
            if disk > self.record.disk:
                await self._grow(disk)
            await self._open_network()
            await self._write(state="running")

    async def _boot(self) -> None:
        self._took_place(await starting.boot(self._host, self.folder, self.record, self._ended))

    async def _open_network(self) -> None:
        if self._outlet is not None:
            await self.guest.open_network(self._outlet, deadline=AGENT_SECONDS)

    def _keep_network(self) -> None:
        if self._outlet is not None:
            self.guest.keep_network(self._outlet)

    def _took_place(self, started: Started) -> None:
        self._guest = started.guest
        self.record = msgspec.structs.replace(
            self.record,
            process=started.guest.hypervisor.identity,
            groups=started.placement.folders,
            missing_limits=started.placement.missing,
        )

    async def _grow(self, disk: int) -> None:
        """Let the guest's root file system take a larger disk."""
        try:
            await self.guest.qmp.execute("block_resize", device=DISK, size=disk)
        except QmpError as error:
            raise InvalidArgument(f"the disk cannot have {disk} bytes: {error.message}") from None
        session = AgentSession(self.fact, await self.guest.agent(deadline=AGENT_SECONDS))
        done = await run(session, Command(argv=("resize2fs", "/dev/vda")), deadline=RESIZE_SECONDS)
        if not done.exit.ok:
            raise InvalidArgument(f"the disk could not be made larger: {done.stderr.decode(errors='replace').strip()}")
        self.record = msgspec.structs.replace(self.record, disk=disk)

    async def renew(self) -> None:
        """Begin again from the template: whatever was left in the guest is gone, its identity and names stay.

        When it fails the guest has ended.
        """
        async with self._lock:
            disk = self.record.disk
            with trio.CancelScope(shield=True):
                await self._end_guest()
                await trio.to_thread.run_sync(self._begin_again)
        await self.make(disk)

    def _begin_again(self) -> None:
        origin = self.record.origin
        self.record = msgspec.structs.replace(
            self.record,
            disk=origin.disk,
            layers=origin.layers,
            active=new_layer_name(),
            ram=RAM if self.record.machine == origin.machine else ZERO,
            state="making",
            process=None,
            groups=(),
            bare_state=origin.bare_state,
        )
        write_record(self.folder, self.record)
        for layer in self.folder.glob("*.qcow2"):
            if layer.name not in (*origin.layers, EMPTY):
                layer.unlink()
        self._forget_saved()
        lay_disk(self._host, self.folder, self.record)

    async def destroy(self) -> None:
        """End the guest and remove all that it left. Idempotent; not cancelled half-way."""
        with trio.CancelScope(shield=True):
            async with self._lock:
                await self._end_guest()
                await trio.to_thread.run_sync(remove_tree, self.folder)

    async def _end_guest(self) -> None:
        """End QEMU, known or not, and remove its groups."""
        guest, self._guest = self._guest, None
        if guest is not None:
            await guest.kill()
        await end_processes(self.folder)
        await self._host.remove_group(self.record.identity, self.record.groups)

    def _ended(self, guest: Guest) -> None:
        """QEMU has ended: unasked, unless it has been let go of before."""
        if guest is self._guest:
            self._guest = None
            self._on_lost(self, guest.reason)

    async def _write(self, **changes: object) -> None:
        record = msgspec.structs.replace(self.record, **changes)
        await trio.to_thread.run_sync(write_record, self.folder, record)
        self.record = record

    # standing still

    async def freeze(self) -> None:
        """Stop the guest in memory. Idempotent."""
        async with self._lock:
            if self.record.state != "frozen":
                await self.guest.qmp.execute("stop")
                await self._write(state="frozen")

    async def thaw(self) -> None:
        """Let a frozen guest go on, with the clock set right. Idempotent."""
        async with self._lock:
            if self.record.state == "frozen":
                await self.guest.qmp.execute("cont")
                await self._write(state="running")
                await self.guest.set_clock(deadline=AGENT_SECONDS)
                self._keep_network()

    async def suspend(self) -> None:
        """Save the guest to disk and end QEMU. Idempotent. When it fails the guest goes on."""
        async with self._lock:
            if self.record.state == "suspended":
                return
            refuse_unsaveable(self.record.machine)
            await self._settle_layers(self.guest)
            async with self._stopped():
                bare = await self._save(SAVED_STATE, SAVED_DELTA)
                with trio.CancelScope(shield=True):
                    await self._write(state="suspended", bare_state=bare)
                    await self._end_guest()

    async def resume(self) -> None:
        """Bring a suspended guest back. Idempotent. When it fails it stays suspended.

        Raises WrongState that names the differences when this host's machine is not the one that was saved.
        """
        async with self._lock:
            if self.record.state != "suspended":
                return
            record = self.record
            self._check_machine(record.machine)
            delta = self.folder / SAVED_DELTA if record.bare_state else None
            started = await starting.restore(
                self._host, self.folder, record, self.folder / SAVED_STATE, delta=delta, on_end=self._ended
            )
            with trio.CancelScope(shield=True):
                self._took_place(started)
                await self._write(state="running")
                await self.guest.qmp.execute("cont")
                await trio.to_thread.run_sync(self._forget_saved)
            self._keep_network()
            await self.guest.set_clock(deadline=AGENT_SECONDS)

    def _check_machine(self, saved: Machine) -> None:
        here = self._host.machine(saved.vcpus, saved.memory)
        found = differences(saved, here)
        if found:
            raise WrongState(
                f"the device {self.record.name!r} was saved on another machine and cannot be restored here: "
                f"{'; '.join(found)}"
            )

    def _forget_saved(self) -> None:
        self._remove_files((SAVED_STATE, SAVED_DELTA))

    @asynccontextmanager
    async def _stopped(self) -> AsyncIterator[None]:
        """Hold the guest still; on leaving it goes on, unless it was frozen before or has been ended meanwhile."""
        guest = self.guest
        was_running = self.record.state == "running"
        try:
            if was_running:
                await guest.qmp.execute("stop")
            yield
        finally:
            if was_running and guest is self._guest:
                with trio.CancelScope(shield=True):
                    await guest.qmp.execute("cont")

    async def _save(self, state: str, delta: str) -> bool:
        """Save the stopped guest into two files of the folder; half of them is removed when it fails."""
        paths = (self.folder / state, self.folder / delta)
        try:
            await trio.to_thread.run_sync(lambda: paths[1].unlink(missing_ok=True))
            return await save_guest(
                self.guest,
                ram=self.folder / self.record.ram,
                size=self.record.machine.memory,
                state=paths[0],
                delta=paths[1],
                account=self._host.account,
                log=self._host.log,
            )
        except BaseException:
            for path in paths:
                path.unlink(missing_ok=True)
            raise

    # starting again

    async def reboot(self) -> None:
        """Start the guest anew on the same disk. Its processes are gone, its names stay."""
        async with self._lock:
            self.refuse_frozen()
            await self._sync_disk()
            with trio.CancelScope(shield=True):
                await self._end_guest()
            itself = msgspec.structs.replace(self.record.itself, boot_id=str(uuid.uuid4()))
            self.record = msgspec.structs.replace(self.record, ram=ZERO, itself=itself)
            await trio.to_thread.run_sync(lay_memory, self._host, self.folder, self.record)
            await self._boot()
            await self.guest.identify(itself, deadline=AGENT_SECONDS)
            await self._open_network()
            await self._write()

    async def _sync_disk(self) -> None:
        """Let the guest write its disk out, as far as it still answers."""
        with trio.move_on_after(SYNC_SECONDS):
            try:
                session = AgentSession(self.fact, await self.guest.agent(deadline=SYNC_SECONDS))
                await run(session, Command(argv=("sync",)))
            except AnvilError as error:
                self._host.log("warning", "guest.not_synced", device=self.record.identity, reason=error.message)

    # copying

    async def snapshot(self, target: Path, name: str, *, memory: bool = True) -> Manifest:
        """Put into the empty folder ``target`` what a template of this guest, as it is now, is made of.

        A running guest stands still only while its devices and its changed memory are written out. Without ``memory``
        it is the disk alone, of a guest that runs and has written it out. The caller completes the folder by
        :func:`anvild_microvm.snapshots.complete`. Raises WrongState, DriverFault, OSError.
        """
        async with self._lock:
            if not memory:
                await self._copy_disk()
                manifest = msgspec.structs.replace(self._manifest(name, bare=True), machine=None)
                await trio.to_thread.run_sync(self._link_disk, manifest, target)
                return manifest
            refuse_unsaveable(self.record.machine)
            if self.record.state == "suspended":
                fresh = await self._fresh_layer()
                await self._put_layer(fresh)
                state, delta, bare = SAVED_STATE, SAVED_DELTA, self.record.bare_state
            else:
                state, delta = COPIED_STATE, COPIED_DELTA
                bare = await self._copy_running(state, delta)
            manifest = self._manifest(name, bare=bare)
            await trio.to_thread.run_sync(self._hand_over, manifest, target, state, delta)
            return manifest

    async def _copy_running(self, state: str, delta: str) -> bool:
        """Put a fresh layer on the disk and save the guest, all at one moment of its life."""
        await self._settle_layers(self.guest)
        fresh = await self._fresh_layer()
        began = trio.current_time()
        async with self._stopped():
            await self._begin_layer(fresh)
            bare = await self._save(state, delta)
        pause = round(trio.current_time() - began, 4)
        self._host.log("info", "guest.snapshot", device=self.record.identity, pause=pause)
        return bare

    async def _copy_disk(self) -> None:
        """Have the guest write its disk out, and put a fresh layer on it."""
        self.refuse_frozen()
        session = AgentSession(self.fact, await self.guest.agent(deadline=AGENT_SECONDS))
        await run(session, Command(argv=("sync",), user="root"), deadline=WRITE_OUT_SECONDS)
        await self._settle_layers(self.guest)
        fresh = await self._fresh_layer()
        async with self._stopped():
            await self._begin_layer(fresh)

    async def _begin_layer(self, fresh: str) -> None:
        """Let the stopped guest write to the fresh layer from now on."""
        await self.guest.qmp.execute(
            "blockdev-snapshot-sync", device=DISK, snapshot_file=fresh, format="qcow2", mode="existing"
        )
        with trio.CancelScope(shield=True):
            await self._put_layer(fresh)

    async def _fresh_layer(self) -> str:
        """Make an empty layer over the disk's top one."""
        fresh = new_layer_name()
        await create_overlay(self.folder / fresh, self.record.active, self.record.disk)
        self._host.account.give(self.folder / fresh)
        return fresh

    async def _put_layer(self, fresh: str) -> None:
        """The top layer becomes one that is never written again, under the fresh one."""
        record = self.record
        await self._write(layers=(*record.layers, record.active), active=fresh)
        self._host.account.share(self.folder / record.active)

    def _manifest(self, name: str, *, bare: bool) -> Manifest:
        record = self.record
        proxied = proxy_environment()  # that is the guest's own, and not its template's
        return msgspec.structs.replace(
            record.origin,
            name=name,
            created=datetime.now(UTC),
            vcpus=record.machine.vcpus,
            memory=record.machine.memory,
            disk=record.disk,
            layers=record.layers,
            machine=record.machine,
            bare_state=bare,
            image=None,
            warm_up=(),
            generation=record.itself.generation,
            environment={name: text for name, text in record.itself.environment.items() if proxied.get(name) != text},
            user=record.itself.user,
        )

    def _hand_over(self, manifest: Manifest, target: Path, state: str, delta: str) -> None:
        """Link what a template needs into its folder; the state of a suspended guest stays here as well."""
        self._link_disk(manifest, target)
        link(self.folder / self.record.ram, target / BASE)
        link(self.folder / state, target / STATE)
        if manifest.bare_state:
            link(self.folder / delta, target / DELTA)
        self._remove_files((COPIED_STATE, COPIED_DELTA))

    def _link_disk(self, manifest: Manifest, target: Path) -> None:
        """Link the disk and what boots from it."""
        for name in (*manifest.layers, KERNEL, manifest.initrd):
            link(self.folder / name, target / name)

    def limit_depth(self) -> None:
        """Begin to make the disk's chain flat, in the background, when it has become deep."""
        if self._guest is not None and len(self.record.layers) > DEPTH_LIMIT:
            self._host.background.start_soon(self.flatten)

    async def flatten(self) -> None:
        """Make the disk's chain flat while the guest runs. What cannot wait, such as a snapshot, ends it half-way;
        it is begun again after the next snapshot."""
        guest = self.guest
        try:
            await guest.flatten_disk(self.record.layers[0])
        except AnvilError as error:
            self._host.log("info", "guest.not_flattened", device=self.record.identity, reason=error.message)
            return
        async with self._lock:
            if guest is self._guest:
                await self._settle_layers(guest)

    async def _settle_layers(self, guest: Guest) -> None:
        """Take over from QEMU which files the disk consists of; files that it has done with are removed."""
        await guest.stop_flattening()
        *layers, active = await guest.layers()
        if (tuple(layers), active) != (self.record.layers, self.record.active):
            done_with = set(self.record.layers) - set(layers)
            await self._write(layers=tuple(layers), active=active)
            await trio.to_thread.run_sync(self._remove_files, done_with)
            self._host.account.share(*(self.folder / layer for layer in layers))

    def _remove_files(self, names: Iterable[str]) -> None:
        for name in names:
            (self.folder / name).unlink(missing_ok=True)

    # after a restart of the daemon

    async def adopt(self) -> Recovery:
        """Take up what an earlier daemon has left in the folder, and say what became of the guest."""
        async with self._lock:
            record = self.record
            if record.state == "suspended":
                await self._end_guest()
                return Recovery(state=RecoveryState.RUNNING, reason="the guest is suspended to disk", device=self.fact)
            hypervisor = Hypervisor.adopt(record.process) if record.process is not None else None
            if hypervisor is None:
                return Recovery(state=RecoveryState.ENDED, reason="QEMU has ended while the daemon was away")
            guest = Guest(hypervisor, self.folder)
            try:
                await self._host.background.start(guest.run, self._ended)
                await self._reconcile(guest)
            except AnvilError as error:
                await end_processes(self.folder)
                return Recovery(state=RecoveryState.ENDED, reason=f"QEMU does not answer any more: {error.message}")
            return Recovery(state=RecoveryState.RUNNING, reason="the guest runs on", device=self.fact)

    async def _reconcile(self, guest: Guest) -> None:
        """Finish what the earlier daemon was doing: the disk's layers are those that QEMU has, and a guest that was
        stopped for a moment goes on."""
        self._guest = guest
        await self._settle_layers(guest)
        status = await guest.status()
        if not status.running and self.record.state == "running":
            await guest.qmp.execute("cont")
        if self.record.state == "running":
            self._keep_network()
