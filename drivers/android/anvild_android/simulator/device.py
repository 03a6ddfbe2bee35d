"""A simulated device: what plugs in, boots, reboots and is pulled out."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import trio

from .auth import KeyRing
from .calls import FRONT, Calls
from .connection import Connection
from .ports import echo
from .root import Root
from .services import Services
from .spec import DeviceSpec
from .streams import AdbStream
from .system import System
from .toolbox import Toolbox

__all__ = ["SimulatedDevice"]

LOOPBACK = "127.0.0.1"


class SimulatedDevice:
    """A phone that is not there: adb on a TCP port of the loopback, and a world of its own behind it.

    It is simulated on Linux alone; what lacks is said by :meth:`run`. All files are below ``directory``, which may be
    used again by the next device of the same serial number, and then has its apps and files still.
    """

    def __init__(self, spec: DeviceSpec, directory: Path) -> None:
        self.spec = spec
        self.serial = spec.serial
        self.port = 0
        self.features = spec.features
        self.keys: KeyRing | None = None
        self.system = System(spec, self.reboot)
        self._directory = directory
        self._root = Root(directory, spec.quota)
        self._toolbox = Toolbox(spec, self._root, self.system)
        self._services = Services(self._root, spec.features, self._toolbox.answer, self.reboot)
        self._nursery: trio.Nursery | None = None
        self._listeners: set[trio.CancelScope] = set()
        self._connections: set[trio.CancelScope] = set()
        self._changing = trio.Lock()
        self._ended = trio.lowlevel.ParkingLot()
        self._reserved: socket.socket | None = None
        self._hung: trio.Event | None = None
        self._plugged = True
        self._switched_on = True
        self._boots = 0

    async def run(self, *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve on ``port`` of the loopback until cancelled; ``started`` tells the port when the device is reachable.

        No process, no socket and no file outside the directory is left behind. Raises Unavailable, with one sentence,
        where bubblewrap, busybox or user namespaces are missing.
        """
        await trio.to_thread.run_sync(self._prepare)
        try:
            async with self._root.standing(self._toolbox.names, FRONT), trio.open_nursery() as nursery:
                self._nursery = nursery
                await nursery.start(self._toolbox.run)
                await nursery.start(Calls(self._root.files, self._toolbox.answer).run)
                nursery.start_soon(echo, self._root)
                self.system.boot_ends()
                await self._settle()
                task_status.started(self.port)
                try:
                    await trio.sleep_forever()
                finally:
                    nursery.cancel_scope.cancel()
        finally:
            self._nursery = None
            if self._reserved is not None:
                self._reserved.close()

    def _prepare(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        if not self.spec.authorised:
            self.keys = KeyRing(self._directory / "adb_keys")
        self._switched_on = True
        self._reserve()

    # what a person does with it

    async def unplug(self) -> None:
        """Pull the cable: when this returns, all connections are gone and nobody listens. Programs go on."""
        self._plugged = False
        await self._settle()

    async def plug(self) -> None:
        """Put the cable back: when this returns, the device listens on the same port, unless it is switched off."""
        self._plugged = True
        await self._settle()

    def approve(self) -> None:
        """Approve the keys of all hosts that have asked so far, for good."""
        if self.keys is not None:
            self.keys.approve()

    def set_battery(self, percent: int, temperature: float) -> None:
        """Set the battery's charge, in percent, and its temperature, in degrees Celsius."""
        self.system.battery.percent = percent
        self.system.battery.temperature = temperature

    def hang(self) -> None:
        """Stop to answer, with all connections open, until :meth:`resume`."""
        self._hung = self._hung or trio.Event()

    def resume(self) -> None:
        """Answer again, all that has come meanwhile too."""
        if self._hung is not None:
            self._hung.set()
            self._hung = None

    async def drop_connections(self) -> None:
        """Break all connections at once, as a bad cable does; the device goes on listening."""
        await self._end(self._connections)

    def reboot(self, reason: str = "") -> None:
        """Switch the device off and on again; it is away for the time of its specification, and then boots."""
        if self._nursery is not None and self._switched_on:
            self._switched_on = False
            self._nursery.start_soon(self._restart)

    async def _restart(self) -> None:
        self.system.boot_begins()
        self._boots += 1
        boot = self._boots
        await self._settle()
        await trio.to_thread.run_sync(self._root.end_all)
        self._toolbox.restarted()
        await trio.sleep(self.spec.off_seconds)
        self._switched_on = True
        await self._settle()
        await trio.sleep(self.spec.boot_seconds)
        if boot == self._boots:
            self.system.boot_ends()

    # the port

    def _reserve(self) -> None:
        """Keep the port while nobody listens on it: a socket that is bound refuses connections."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((LOOPBACK, self.port))
        self.port = sock.getsockname()[1]
        self._reserved = sock

    async def _settle(self) -> None:
        """Listen, or not, as plug and switch have it now."""
        async with self._changing:
            wanted = self._plugged and self._switched_on
            if wanted and self._reserved is not None and self._nursery is not None:
                await self._nursery.start(self._listen)
            elif not wanted and self._reserved is None:
                await self._end(self._listeners)
                await self._end(self._connections)
                self._reserve()

    async def _listen(self, *, task_status: trio.TaskStatus[list[trio.SocketListener]]) -> None:
        assert self._reserved is not None
        self._reserved.listen()
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._reserved))
        self._reserved = None
        with self._one_of(self._listeners):
            await trio.serve_listeners(
                self._connected, [listener], handler_nursery=self._nursery, task_status=task_status
            )

    @contextlib.contextmanager
    def _one_of(self, scopes: set[trio.CancelScope]) -> Iterator[None]:
        """Inside the block, the task can be ended by :meth:`_end`."""
        with trio.CancelScope() as scope:
            scopes.add(scope)
            try:
                yield
            finally:
                scopes.discard(scope)
                self._ended.unpark_all()

    async def _end(self, scopes: set[trio.CancelScope]) -> None:
        """End tasks, and wait until they have ended."""
        for scope in scopes:
            scope.cancel()
        while scopes:
            await self._ended.park()

    async def _connected(self, stream: trio.SocketStream) -> None:
        with self._one_of(self._connections):
            await Connection(stream, self).run()

    # what a connection asks

    def banner(self) -> str:
        """How the device introduces itself."""
        names = ("ro.product.name", "ro.product.model", "ro.product.device")
        facts = "".join(f"{name}={self.system.properties[name]};" for name in names)
        return f"device::{facts}features={','.join(self.features)}"

    async def serve(self, connection: Connection, stream: AdbStream, destination: str) -> None:
        """Serve a stream that the host has opened, until it is over."""
        await self._services.serve(connection, stream, destination)

    async def unfrozen(self) -> None:
        """Wait while the device looks hung."""
        if self._hung is not None:
            await self._hung.wait()
