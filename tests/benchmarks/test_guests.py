"""What a guest costs beyond its QEMU: the same machine by bare QEMU, by the driver alone, and by the daemon."""

from __future__ import annotations

import itertools
import os
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio

from anvild.sdk import Command, DeviceFact, DeviceRequest, DriverContext, Exec, Lease, Session, run
from anvild.sdk.agent import AgentClient, AgentSession, connect_agent
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


async def ignore(line: str) -> None:
    """Nobody reads this progress."""


pytestmark = pytest.mark.bench

ROUNDS = 9
BOOTS = 2
EXECS = 25
LIVES = 5
MIB = 2**20
TRUE = ("/bin/true",)
LEASE = Lease(lease_id="lease", fence=1, holder="benchmark")
CONFIG_FILES = Path(__file__).parents[2] / "config"
BOOT_SECONDS = 120.0

Times = dict[str, list[float]]


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
        self._cold = cold
        self._launch = {"kernel": KERNEL, "initrd": manifest.initrd} if cold else {"incoming": True}
        self._machine = manifest.machine

    @asynccontextmanager
    async def running(self) -> AsyncIterator[AgentClient]:
        """Start it, and end it on leaving. Entered when the agent inside has answered."""
        folder = self._folder
        with listen_unix(folder / "agent") as agent, listen_unix(folder / "monitor") as monitor:
            launch = Launch(
                program=MicrovmSettings().qemu,
                identity="bare",
                machine=self._machine,
                disk="disk.qcow2",
                ram=RAM,
                agent_fd=agent.fileno(),
                monitor_fd=monitor.fileno(),
                **self._launch,  # type: ignore[arg-type]
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
                if not self._cold:
                    qmp = Qmp(await connect_unix(folder / "monitor"))
                    await nursery.start(qmp.run)
                    await self._load(qmp)
                async with connect_agent(await connect_unix(folder / "agent"), deadline=BOOT_SECONDS) as client:
                    await client.ping()
                    yield client
                nursery.cancel_scope.cancel()
        finally:
            await hypervisor.kill()
            hypervisor.close()
            remove_tree(folder)

    async def _load(self, qmp: Qmp) -> None:
        """Load the template's state and let the guest go on."""
        await qmp.execute("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])
        descriptor = os.open(self._folder / STATE, os.O_RDONLY)
        await qmp.execute("getfd", fd=descriptor, fdname="state")
        os.close(descriptor)
        with qmp.listen("MIGRATION") as events:
            await qmp.execute("migrate-incoming", uri="fd:state")
            async for event in events:
                if event.data.get("status") == "completed":
                    break
        await qmp.execute("cont")


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


COLUMNS = ("what", "median ms", "best ms", "ratio", "more ms")


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


async def test_making_a_guest(guest_daemon: Daemon, table: Any, tmp_path: Path) -> None:
    """From the order to a guest that takes verbs. A copy without an identity of its own shares its random state with
    all others, so what that costs by hand is told as well."""
    warm: Times = {
        "bare QEMU to the agent's first answer": [],
        "bare QEMU, and an identity of its own": [],
        "the driver alone: create": [],
        "the daemon: POST /devices/made": [],
    }
    cold: Times = {key: [] for key in warm}
    gone: Times = {
        "bare QEMU: SIGKILL, files removed": [],
        "the driver alone: destroy": [],
        "the daemon: DELETE /devices/{id}": [],
    }

    async def one(lab: Bench, times: Times, ends: Times, *, is_cold: bool) -> None:
        # A guest of another size than the template's cannot be copied from it: it boots.
        more = {"memory": lab.manifest.memory + MIB} if is_cold else {}
        by_bare, by_hand, by_driver, by_daemon = times.values()
        end_bare, end_driver, end_daemon = ends.values()
        running = lab.bare(cold=is_cold).running()
        agent = await timed(by_bare, running.__aenter__)
        await timed(by_hand, lambda: identify(agent))
        by_hand[-1] += by_bare[-1]
        await timed(end_bare, lambda: running.__aexit__(None, None, None))
        fact = await timed(by_driver, lambda: lab.driver.create(lab.request(**more)))
        await timed(end_driver, lambda: lab.driver.destroy(fact.identity))
        device = await timed(by_daemon, lambda: lab.made(**more))
        await timed(end_daemon, lambda: lab.delete(device))

    async with bench(guest_daemon, tmp_path) as lab:
        await one(lab, {key: [] for key in warm}, {key: [] for key in gone}, is_cold=False)
        for _ in range(ROUNDS):
            await one(lab, warm, gone, is_cold=False)
        for _ in range(BOOTS):
            await one(lab, cold, {key: [] for key in gone}, is_cold=True)
    table(f"A guest from a warm template, {ROUNDS} rounds in turn", COLUMNS, rows(warm))
    table(f"The end of a guest, {ROUNDS} rounds in turn", COLUMNS, rows(gone))
    table(f"A guest by a cold boot, {BOOTS} rounds in turn", COLUMNS, rows(cold))


async def test_exec(guest_daemon: Daemon, table: Any, tmp_path: Path) -> None:
    """/bin/true in guests that have run it before. Our ways open a session each time."""
    times: Times = {
        "the agent's connection alone": [],
        "the driver alone: session and exec": [],
        "the daemon: POST /devices/{id}/exec": [],
    }
    by_bare, by_driver, by_daemon = times.values()

    async def in_session(session: Session) -> None:
        done = await run(session.require(Exec), Command(argv=TRUE))
        assert done.exit.ok

    async with bench(guest_daemon, tmp_path) as lab, lab.bare().running() as agent:
        fact = await lab.driver.create(lab.request())
        device = await lab.made()

        async def by_session(fact: DeviceFact = fact) -> None:
            async with lab.driver.open(fact, LEASE) as session:
                await in_session(session)

        async def by_http() -> None:
            done = await lab.client.post(f"/api/v1/devices/{device}/exec", json={"argv": TRUE})
            assert '"code":0' in done.text

        for number in range(EXECS + 3):
            if number == 3:  # the first ones fill the emulator's cache
                for taken in times.values():
                    taken.clear()
            await timed(by_bare, lambda: in_session(AgentSession(fact, agent)))
            await timed(by_driver, by_session)
            await timed(by_daemon, by_http)
        await lab.driver.destroy(fact.identity)
        await lab.delete(device)
    table(f"/bin/true in a guest, {EXECS} rounds in turn", COLUMNS, rows(times))


async def test_other_verbs(guest_daemon: Daemon, table: Any, tmp_path: Path) -> None:
    """Suspending to disk, resuming and snapshots, by the driver."""
    times: Times = {"suspend to disk": [], "resume": [], "snapshot to a template": []}
    suspend, resume, snapshot = times.values()
    async with bench(guest_daemon, tmp_path) as lab:
        identity = (await lab.driver.create(lab.request())).identity
        for number in range(LIVES):
            await timed(suspend, lambda: lab.driver.suspend(identity))
            await timed(resume, lambda: lab.driver.resume(identity))
            await timed(snapshot, lambda number=number: lab.driver.snapshot(identity, f"copy-{number}"))  # type: ignore[misc]
        await lab.driver.destroy(identity)
    table(
        f"Other verbs of the driver, {LIVES} rounds",
        ("what", "median ms", "best ms"),
        [(what, f"{median(taken):,.1f}", f"{min(taken):,.1f}") for what, taken in times.items()],
    )
