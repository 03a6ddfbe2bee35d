"""Guests without the daemon: by QEMU alone, and by a driver of our own; and how long each way takes, side by side."""

from __future__ import annotations

import itertools
import os
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import trio

from anvild.sdk import DeviceRequest, DriverContext
from anvild.sdk.agent import AgentClient, connect_agent
from anvild.sdk.sockets import connect_unix, listen_unix
from anvild_microvm.disks import EMPTY
from anvild_microvm.driver import MicrovmDriver
from anvild_microvm.files import copy_sparse, new_sparse, remove_tree
from anvild_microvm.machine import Launch, command_line
from anvild_microvm.process import Hypervisor, guest_account
from anvild_microvm.qmp import Qmp
from anvild_microvm.settings import MicrovmSettings
from anvild_microvm.template import KERNEL, RAM, STATE, Manifest, link_template, read_manifest
from tests.daemon import Daemon
from tests.guests import IMAGE

from .load import median

SAVED = "saved"
CONFIG_FILES = Path(__file__).parents[2] / "config"
BOOT_SECONDS = 120.0
COLUMNS = ("what", "median ms", "best ms", "ratio", "more ms")

Times = dict[str, list[float]]


async def ignore(line: str) -> None:
    """Nobody reads this progress."""


class BareGuest:
    """A guest by QEMU alone, started from the files of a warm template; nothing is kept of it but its process."""

    def __init__(self, template: Path, manifest: Manifest, folder: Path, *, cold: bool) -> None:
        """Lay its files out, which is not measured."""
        assert manifest.machine is not None
        account = guest_account(None)
        folder.mkdir()
        account.share(folder)
        link_template(template, manifest, folder, leave_out=(RAM, STATE) if cold else ())
        copy_sparse(folder / EMPTY, folder / "disk.qcow2")
        account.give(folder / "disk.qcow2")
        if cold:
            new_sparse(folder / RAM, manifest.memory)
            account.give(folder / RAM)
        self._account = account
        self._folder = folder
        self._memory = manifest.memory
        self._start = {"kernel": KERNEL, "initrd": manifest.initrd} if cold else {"incoming": True}
        self._state = None if cold else STATE
        self._machine = manifest.machine
        self._qmp: Qmp | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[AgentClient]:
        """Start it, and end it on leaving. Entered when the agent inside has answered."""
        try:
            async with self._started(self._start, RAM, self._state) as client:
                yield client
        finally:
            remove_tree(self._folder)

    async def save(self) -> None:
        """Save all of its state to a file, as any QEMU can, and end it."""
        assert self._qmp is not None
        await self._qmp.execute("stop")
        await self._qmp.execute("migrate-set-parameters", **{"max-bandwidth": 10**11})
        descriptor = os.open(self._folder / SAVED, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        await self._qmp.execute("getfd", fd=descriptor, fdname="saved")
        os.close(descriptor)
        await self._migrate("migrate", "fd:saved")
        await self._qmp.execute("quit")

    @asynccontextmanager
    async def restored(self) -> AsyncIterator[AgentClient]:
        """Start it from what :meth:`save` has written."""
        ram = f"{SAVED}-ram"
        new_sparse(self._folder / ram, self._memory)
        self._account.give(self._folder / ram)
        async with self._started({"incoming": True}, ram, SAVED) as client:
            yield client

    @asynccontextmanager
    async def _started(self, start: Mapping[str, Any], ram: str, state: str | None) -> AsyncIterator[AgentClient]:
        folder = self._folder
        for name in ("agent", "monitor"):
            (folder / name).unlink(missing_ok=True)
        with listen_unix(folder / "agent") as agent, listen_unix(folder / "monitor") as monitor:
            launch = Launch(
                program=MicrovmSettings().qemu,
                identity="bare",
                machine=self._machine,
                disk="disk.qcow2",
                ram=ram,
                agent_fd=agent.fileno(),
                monitor_fd=monitor.fileno(),
                **start,
            )
            hypervisor = Hypervisor.spawn(
                command_line(launch),
                folder=folder,
                account=self._account,
                inherit=(agent.fileno(), monitor.fileno()),
                log=folder / "log",
            )
        try:
            async with trio.open_nursery() as nursery:
                self._qmp = Qmp(await connect_unix(folder / "monitor"))
                await nursery.start(self._qmp.run)
                await self._qmp.execute(
                    "migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}]
                )
                if state is not None:
                    await self._load(state)
                async with connect_agent(await connect_unix(folder / "agent"), deadline=BOOT_SECONDS) as client:
                    await client.ping()
                    yield client
                nursery.cancel_scope.cancel()
        finally:
            await hypervisor.kill()
            hypervisor.close()

    async def _load(self, state: str) -> None:
        """Load a state and let the guest go on."""
        assert self._qmp is not None
        descriptor = os.open(self._folder / state, os.O_RDONLY)
        await self._qmp.execute("getfd", fd=descriptor, fdname="state")
        os.close(descriptor)
        await self._migrate("migrate-incoming", "fd:state")
        await self._qmp.execute("cont")

    async def _migrate(self, command: str, uri: str) -> None:
        assert self._qmp is not None
        with self._qmp.listen("MIGRATION") as events:
            await self._qmp.execute(command, uri=uri)
            async for event in events:
                if event.data.get("status") == "completed":
                    break


class Bench:
    """The three ways to a guest, side by side: bare QEMU, a driver of our own, the daemon."""

    def __init__(self, driver: MicrovmDriver, client: httpx2.AsyncClient, folder: Path) -> None:
        self.driver = driver
        self.client = client
        self.template = driver.context.state_dir / "templates" / IMAGE
        found = read_manifest(self.template)
        assert found is not None
        self.manifest = found
        self._folder = folder
        self._numbers = itertools.count()

    def bare(self, *, cold: bool = False) -> BareGuest:
        return BareGuest(self.template, self.manifest, self._folder / f"bare-{next(self._numbers)}", cold=cold)

    def request(self, **more: int) -> DeviceRequest:
        return DeviceRequest(template=IMAGE, name="guest", identity=f"guest-{next(self._numbers)}", **more)  # type: ignore[arg-type]

    async def made(self, **more: int) -> str:
        answer = await self.client.post(
            "/api/v1/devices/made", json={"driver": "microvm", "template": IMAGE, "name": "guest", **more}
        )
        assert answer.status_code == 201, answer.text
        identity: str = answer.json()["device"]["id"]
        return identity

    async def delete(self, device: str) -> None:
        assert (await self.client.delete(f"/api/v1/devices/{device}")).status_code == 204


@asynccontextmanager
async def bench(daemon: Daemon, tmp_path: Path) -> AsyncIterator[Bench]:
    """A driver in this process beside the daemon's, over the same cache, with its warm template at hand."""
    context = DriverContext(
        settings=MicrovmSettings(),
        host="bench",
        state_dir=tmp_path / "state",
        cache_dir=(daemon.data_dir / "cache" / "microvm").resolve(),
        data_path=(CONFIG_FILES,),
        log=lambda *_, **__: None,
    )
    driver = MicrovmDriver(context)
    await driver.start()
    try:
        await driver.build_image(IMAGE, ignore)
        headers = {"Authorization": f"Bearer {daemon.keys['live_key']}"}
        async with httpx2.AsyncClient(base_url=daemon.url, headers=headers, timeout=120) as client:
            yield Bench(driver, client, tmp_path)
    finally:
        with trio.CancelScope(shield=True):
            await driver.stop()


async def timed(into: list[float], action: Callable[[], Awaitable[Any]]) -> Any:
    """Do something and note how many milliseconds it took."""
    began = trio.current_time()
    result = await action()
    into.append((trio.current_time() - began) * 1000)
    return result


def rows(times: Times) -> list[tuple[str, ...]]:
    """One row for each way, the first of which is bare QEMU."""
    floor = median(next(iter(times.values())))
    return [
        (
            what,
            f"{median(taken):,.1f}",
            f"{min(taken):,.1f}",
            f"{median(taken) / floor:.2f}",
            f"{median(taken) - floor:+,.1f}",
        )
        for what, taken in times.items()
    ]


async def identify(agent: AgentClient) -> None:
    """Make a copied guest one of its own, as the driver does."""
    failed = await agent.identify(
        entropy=os.urandom(64),
        hostname="bare",
        machine_id=uuid.uuid4().hex,
        boot_id=str(uuid.uuid4()),
        generation=1,
        time=time.time_ns(),
    )
    assert failed == {}
