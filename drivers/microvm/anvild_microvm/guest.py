"""A running guest: its QEMU process, the connection to QEMU's monitor and the connection to the agent inside."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import msgspec
import trio

from anvild.sdk import AnvilError, DeviceLost, DriverFault, Unavailable
from anvild.sdk.agent import AgentClient, connect_agent, listen_for_connections
from anvild.sdk.network.outlet import PROXY_PORT, Outlet
from anvild.sdk.sockets import connect_unix

from .machine import CONSOLE, DISK
from .process import Hypervisor
from .qmp import Qmp, QmpError

__all__ = ["AGENT_SOCKET", "LOG", "MONITOR_SOCKET", "Guest", "GuestIdentity"]

AGENT_SOCKET = "agent.sock"
MONITOR_SOCKET = "monitor.sock"
LOG = "qemu.log"
GREETING_SECONDS = 10.0
LAST_EVENT_SECONDS = 1.0
NETWORK_SECONDS = 30.0
NETWORK_PAUSE_SECONDS = 1.0
LAST_WORDS = 2000
ENTROPY_BYTES = 64
CONSOLE_BYTES = 4096
MIGRATION_EVENTS = ({"capability": "events", "state": True},)
PASSED = "state"
FINISHING = "finish-migrate"
FINISHING_SECONDS = 0.002
"""A migration is announced as completed a moment before QEMU lets its guest go on; of that it tells no event."""

JOB = "flatten"
PLAIN_FILE = "file"
JOB_ENDS = ("BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED")
UNLIMITED = 10**12

ENDINGS = {
    "guest-shutdown": "the guest powered itself off",
    "guest-reset": "the guest reset itself or its kernel panicked",
    "guest-panic": "the guest's kernel panicked",
    "host-signal": "QEMU was ended by a signal",
    "host-error": "QEMU met an error of the host",
}


class Status(msgspec.Struct, frozen=True):
    """QEMU's answer to query-status."""

    status: str
    running: bool


class Image(msgspec.Struct, frozen=True):
    """A file of a disk, with the one below it."""

    filename: str
    below: Image | None = msgspec.field(name="backing-image", default=None)


class Medium(msgspec.Struct, frozen=True):
    """What is in a block device."""

    image: Image


class Block(msgspec.Struct, frozen=True):
    """One entry of QEMU's answer to query-block."""

    device: str
    inserted: Medium | None = None


class Node(msgspec.Struct, frozen=True):
    """One entry of QEMU's answer to query-named-block-nodes."""

    name: str = msgspec.field(name="node-name")
    driver: str = msgspec.field(name="drv")
    file: str


class GuestIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """What makes a guest one of its own after a fork."""

    hostname: str
    generation: int
    environment: dict[str, str] = {}
    user: str | None = None
    machine_id: str = msgspec.field(default_factory=lambda: uuid.uuid4().hex)
    boot_id: str = msgspec.field(default_factory=lambda: str(uuid.uuid4()))


class Guest:
    """A running guest. :meth:`run` holds its connections; when it is cancelled, QEMU runs on.

    ``ended`` is set when QEMU has ended, and ``reason`` then says why in words.
    """

    qmp: Qmp

    def __init__(self, hypervisor: Hypervisor, folder: Path) -> None:
        self.hypervisor = hypervisor
        self.ended = trio.Event()
        self.reason = "QEMU has ended"
        self._folder = folder
        self._heard_all = trio.Event()
        self._agent: AgentClient | None = None
        self._agent_scope = trio.CancelScope()
        self._agent_lock = trio.Lock()
        self._has_network = False
        self._nursery: trio.Nursery

    async def run(
        self, on_end: Callable[[Guest], None], task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Connect to the monitor, then hold the connections until QEMU ends; ``on_end`` is called then.

        ``started`` means that QEMU takes commands. Raises DeviceLost with QEMU's last words when it ended before
        that, Unavailable when it did not answer.
        """
        failures: list[AnvilError] = []
        ready = False
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._await_end, nursery.cancel_scope)
                try:
                    await self._connect(nursery)
                except AnvilError as error:
                    failures.append(error)
                    nursery.cancel_scope.cancel()
                else:
                    ready = True
                    task_status.started()
                    await trio.sleep_forever()
        finally:
            self.hypervisor.close()
        if ready:
            on_end(self)
        else:
            words = await trio.to_thread.run_sync(self.last_words)
            why = failures[0].message if failures else "QEMU ended at once"
            raise DeviceLost(f"{why}; its last words: {words}")

    async def _connect(self, nursery: trio.Nursery) -> None:
        """Have the monitor take commands."""
        with trio.move_on_after(GREETING_SECONDS) as patience:
            try:
                self.qmp = Qmp(await connect_unix(self._folder / MONITOR_SOCKET))
            except OSError as error:
                raise Unavailable(f"QEMU's monitor cannot be reached: {error.strerror}") from error
            await nursery.start(self.qmp.run)
            await nursery.start(self._listen)
            await self.qmp.execute("migrate-set-capabilities", capabilities=MIGRATION_EVENTS)
        if patience.cancelled_caught:
            raise Unavailable(f"QEMU did not answer within {GREETING_SECONDS:g} s")

    async def _await_end(self, scope: trio.CancelScope) -> None:
        await self.hypervisor.wait()
        self.ended.set()
        with trio.move_on_after(LAST_EVENT_SECONDS):
            await self._heard_all.wait()
        scope.cancel()

    async def _listen(self, task_status: trio.TaskStatus[None]) -> None:
        """Learn why QEMU ends, until its monitor is closed."""
        with self.qmp.listen("SHUTDOWN") as events:
            task_status.started()
            async for event in events:
                why = str(event.data.get("reason"))
                self.reason = ENDINGS.get(why, f"QEMU has ended: {why}")
        self._heard_all.set()

    def last_words(self) -> str:
        """Return the end of what QEMU has written to its log. It reads a file."""
        try:
            return (self._folder / LOG).read_bytes()[-LAST_WORDS:].decode(errors="replace").strip() or "it said nothing"
        except FileNotFoundError:
            return "it said nothing"

    # the monitor

    async def status(self) -> Status:
        return await self.qmp.query(Status, "query-status")

    async def restore(self, state: Path) -> None:
        """Load a saved state into a QEMU that waits for one. It stays stopped.

        Raises DriverFault when QEMU does not accept the state, DeviceLost when it ended over it.
        """
        await self._pass_file(state, os.O_RDONLY)
        await self._migrate("migrate-incoming", "QEMU did not accept the saved state")

    async def save_all(self, state: Path) -> None:
        """Save the devices and the memory of a stopped guest into one file. Raises DriverFault, DeviceLost."""
        await self.qmp.execute("migrate-set-parameters", max_bandwidth=UNLIMITED)
        await self._pass_file(state, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        await self._migrate("migrate", "QEMU could not save its state")
        while (await self.status()).status == FINISHING:  # noqa: ASYNC110
            await trio.sleep(FINISHING_SECONDS)

    async def _pass_file(self, path: Path, flags: int) -> None:
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
        try:
            await self.qmp.execute("getfd", fd=descriptor, fdname=PASSED)
        finally:
            os.close(descriptor)

    async def _migrate(self, command: str, failure: str) -> None:
        with self.qmp.listen("MIGRATION") as events:
            await self.qmp.execute(command, uri=f"fd:{PASSED}")
            async for event in events:
                state = event.data.get("status")
                if state == "completed":
                    return
                if state in ("failed", "cancelled"):
                    raise DriverFault(failure)
        raise DeviceLost(f"{failure}: {await trio.to_thread.run_sync(self.last_words)}")

    async def layers(self) -> list[str]:
        """Return the names of the files that QEMU has the guest's disk in, the lowest first."""
        names: list[str] = []
        for block in await self.qmp.query(list[Block], "query-block"):
            image = block.inserted.image if block.device == DISK and block.inserted is not None else None
            while image is not None:
                names.insert(0, Path(image.filename).name)
                image = image.below
        return names

    async def flatten_disk(self, base: str) -> None:
        """Pull all that lies between the lowest layer ``base`` and the top one into the top one, while the guest runs.

        Returns when that is done, was stopped, or has failed: :meth:`layers` tells which. The layer is named to QEMU by
        its node, because QEMU looks its file names up by whole paths, which its user may not be able to follow.
        """
        with self.qmp.listen(*JOB_ENDS) as events:
            nodes = await self.qmp.query(list[Node], "query-named-block-nodes", flat=True)
            node = next(node.name for node in nodes if node.file == base and node.driver != PLAIN_FILE)
            await self.qmp.execute("block-stream", device=DISK, job_id=JOB, base_node=node, backing_file=base)
            async for event in events:
                if event.data.get("device") == JOB:
                    return

    async def stop_flattening(self) -> None:
        """Have no flattening under way. Cheap when there is none."""
        with self.qmp.listen(*JOB_ENDS) as events:
            try:
                await self.qmp.execute("block-job-cancel", device=JOB)
            except QmpError:
                return  # there is none
            async for event in events:
                if event.data.get("device") == JOB:
                    return

    async def console(self) -> str:
        """Return the end of what the guest's kernel has said."""
        return await self.qmp.query(str, "ringbuf-read", device=CONSOLE, size=CONSOLE_BYTES)

    async def kill(self) -> None:
        """End QEMU for certain and return when it has ended. Not cancelled half-way. :meth:`run` must be running."""
        if not self.ended.is_set():
            self.hypervisor.signal(signal.SIGKILL)
            with trio.CancelScope(shield=True):
                await self.ended.wait()

    # the agent

    async def agent(self, *, deadline: float) -> AgentClient:
        """Return the connection to the agent, made anew when it broke. Raises Unavailable, DeviceLost, DriverFault."""
        async with self._agent_lock:
            if self.ended.is_set():
                raise DeviceLost(self.reason)
            if self._agent is not None and self._agent.error is None:
                return self._agent
            self._agent_scope.cancel()
            self._agent_scope = trio.CancelScope()
            client: AgentClient = await self._nursery.start(self._serve_agent, self._agent_scope, deadline)
            self._agent = client
            return client

    async def _serve_agent(
        self, scope: trio.CancelScope, deadline: float, task_status: trio.TaskStatus[AgentClient]
    ) -> None:
        with scope:
            stream = await connect_unix(self._folder / AGENT_SOCKET)
            async with connect_agent(stream, deadline=deadline) as client:
                task_status.started(client)
                await trio.sleep_forever()

    async def open_network(self, outlet: Outlet, *, deadline: float) -> None:
        """Let the guest's programs out by ``outlet``, for as long as it runs.

        Raises what :meth:`agent` raises, and WrongState or CapabilityMissing when the guest cannot do it.
        """
        await listen_for_connections(await self.agent(deadline=deadline), PROXY_PORT)
        self.keep_network(outlet)

    def keep_network(self, outlet: Outlet) -> None:
        """Go on with the network of a guest that was given one before. Doing it twice is fine."""
        if not self._has_network:
            self._has_network = True
            self._nursery.start_soon(self._serve_network, outlet)

    async def _serve_network(self, outlet: Outlet) -> None:
        while True:
            with contextlib.suppress(AnvilError):  # the connection with the agent broke, as others find out too
                await outlet.serve(await self.agent(deadline=NETWORK_SECONDS))
            await trio.sleep(NETWORK_PAUSE_SECONDS)

    async def identify(self, identity: GuestIdentity, *, deadline: float) -> None:
        """Make the guest one of its own: random state, clock, names. Raises DriverFault with what failed."""
        client = await self.agent(deadline=deadline)
        failed = await client.identify(
            entropy=os.urandom(ENTROPY_BYTES),
            hostname=identity.hostname,
            machine_id=identity.machine_id,
            boot_id=identity.boot_id,
            generation=identity.generation,
            environment=identity.environment,
            user=identity.user,
            time=time.time_ns(),
        )
        self._check(failed)

    async def set_clock(self, *, deadline: float) -> None:
        """Set the guest's clock to the host's, and stir its random state."""
        client = await self.agent(deadline=deadline)
        self._check(await client.identify(entropy=os.urandom(ENTROPY_BYTES), time=time.time_ns()))

    @staticmethod
    def _check(failed: dict[str, str]) -> None:
        if failed:
            told = ", ".join(f"{key} ({why})" for key, why in failed.items())
            raise DriverFault(f"the guest could not be given an identity of its own: {told}")
