"""What a capsule costs beyond its machine: the same by bare QEMU and the bare connection to its agent, and by HTTP."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio

from anvild.sdk import Command, DeviceFact, DeviceStatus, run
from anvild.sdk.agent import AgentClient, AgentSession
from tests.daemon import Daemon
from tests.guests import guest_processes

from .bare import COLUMNS, BareGuest, Bench, Times, bench, identify, rows, timed
from .load import median

pytestmark = pytest.mark.bench

ROUNDS = 7
BOOTS = 2
EXECS = 40
TRANSFERS = 5
MIB = 2**20
SIZE = 64 * MIB
AT_ONCE = 20
STARTING = 4
"""How many guests the driver starts at the same time, by default."""

RUNNING, PAUSED = 20, 50
IDLE_SECONDS = 20.0
TRUE = Command(argv=("/bin/true",))
FACT = DeviceFact(
    identity="bare",
    platform="bare",
    name="bare",
    status=DeviceStatus.READY,
    model="bare",
    firmware_version="",
    capabilities=("exec", "files"),
)


class Program:
    """Uses capsules by key. It hears of their states by the event stream: to ask again and again would be a load."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self.client = client
        self._states: dict[str, str] = {}
        self._changed = trio.Event()

    async def listen(self, task_status: trio.TaskStatus[None]) -> None:
        """Hear of all that happens until cancelled."""
        async with self.client.stream("GET", "/v1/events/stream", timeout=None) as told:
            async for line in told.aiter_lines():
                if line.startswith("event: connected"):
                    task_status.started()
                if not line.startswith("data: "):
                    continue
                event = json.loads(line.removeprefix("data: "))
                if event["event"] == "capsule.state.changed":
                    self._states[event["resource"]["id"]] = event["metadata"]["to"]
                    self._changed.set()
                    self._changed = trio.Event()

    async def call(self, method: str, path: str, status: int, **request: Any) -> Any:
        answer = await self.client.request(method, f"/v1/capsules{path}", **request)
        assert answer.status_code == status, answer.text
        return answer.json() if answer.content else None

    async def reaches(self, capsule: str, state: str) -> str:
        while (shown := self._states.get(capsule)) != state:
            assert shown != "error", await self.call("GET", f"/{capsule}", 200)
            await self._changed.wait()
        return capsule

    async def made(self, **wish: Any) -> str:
        return await self.reaches((await self.call("POST", "", 202, json=wish))["id"], "running")

    async def true(self, capsule: str) -> None:
        done = await self.call("POST", f"/{capsule}/exec", 200, json={"cmd": "/bin/true"})
        assert done["exit_code"] == 0

    async def moves(self, capsule: str, verb: str, state: str) -> None:
        await self.call("POST", f"/{capsule}/{verb}", 202)
        await self.reaches(capsule, state)

    async def end(self, *capsules: str) -> None:
        for capsule in capsules:
            await self.call("DELETE", f"/{capsule}", 202)
        for capsule in capsules:
            await self.reaches(capsule, "stopped")

    async def upload(self, capsule: str, content: bytes) -> None:
        files = [("path", (None, b"/dev/shm/file")), ("file", ("file", content))]
        await self.call("POST", f"/{capsule}/files/stream/write", 204, files=files)

    async def download(self, capsule: str) -> int:
        path = f"/v1/capsules/{capsule}/files/stream/read"
        size = 0
        async with self.client.stream("POST", path, json={"path": "/dev/shm/file"}) as answer:
            assert answer.status_code == 200
            async for piece in answer.aiter_raw():
                size += len(piece)
        return size


@asynccontextmanager
async def program(daemon: Daemon) -> AsyncIterator[Program]:
    limits = httpx2.Limits(max_connections=200, max_keepalive_connections=200)
    headers = {"X-API-Key": daemon.keys["api_key"]}
    async with httpx2.AsyncClient(
        base_url=daemon.url, headers=headers, timeout=120, limits=limits, trust_env=False
    ) as client:
        made = Program(client)
        async with trio.open_nursery() as nursery:
            await nursery.start(made.listen)
            yield made
            nursery.cancel_scope.cancel()


async def true(agent: AgentClient) -> None:
    """Run a program by the bare connection."""
    assert (await run(AgentSession(FACT, agent), TRUE)).exit.ok


async def begun(guest: BareGuest, stack: AsyncExitStack) -> AgentClient:
    """Start a bare guest, make it one of its own, and run a first program in it."""
    agent = await stack.enter_async_context(guest.running())
    await identify(agent)
    await true(agent)
    return agent


async def in_turn(number: int, ways: dict[str, Callable[[], Awaitable[Any]]], *, first: int = 0) -> Times:
    """Do the same in each way, in turn, and note how long each takes; the ``first`` rounds are not counted."""
    times: Times = {what: [] for what in ways}
    for count in range(first + number):
        for what, way in ways.items():
            await timed(times[what], way)
        if count == first - 1:
            times = {what: [] for what in ways}
    return times


async def test_the_life_of_a_capsule(guest_daemon: Daemon, table: Any, tmp_path: Path) -> None:
    """From the order to the answer of the first program, and from one state to the next."""
    async with bench(guest_daemon, tmp_path) as lab, program(guest_daemon) as ours:
        for cold, number in ((False, ROUNDS), (True, BOOTS)):
            await _make(lab, ours, table, number, cold=cold)
        await _pause(lab, ours, table)


async def _make(lab: Bench, ours: Program, table: Any, number: int, *, cold: bool) -> None:
    # A guest of another size than the template's cannot be copied from it: it boots.
    wish = {"memory_mb": lab.manifest.memory // MIB + 1} if cold else {}
    bare: Times = {"bare QEMU": [], "the daemon": []}
    for _ in range(number):
        async with AsyncExitStack() as stack:
            guest = lab.bare(cold=cold)
            await timed(bare["bare QEMU"], partial(begun, guest, stack))
        capsules: list[str] = []

        async def one(capsules: list[str] = capsules) -> None:
            capsules.append(await ours.made(**wish))
            await ours.true(capsules[0])

        await timed(bare["the daemon"], one)
        await ours.end(*capsules)
    how = "by a cold boot" if cold else "from a warm template"
    table(f"A capsule {how}, to its first program's end; {number} rounds", COLUMNS, rows(bare))


async def _pause(lab: Bench, ours: Program, table: Any) -> None:
    pausing: Times = {"bare QEMU: migrate to a file": [], "the driver: suspend": [], "the daemon: pause": []}
    resuming: Times = {"bare QEMU: migrate from a file": [], "the driver: resume": [], "the daemon: resume": []}
    by_bare, by_driver, by_daemon = pausing.values()
    from_bare, from_driver, from_daemon = resuming.values()
    capsule = await ours.made()
    identity = (await lab.driver.create(lab.request())).identity
    for _ in range(ROUNDS):
        guest = lab.bare()
        async with guest.running() as agent:
            await true(agent)
            await timed(by_bare, guest.save)
            async with AsyncExitStack() as stack:
                await timed(from_bare, partial(stack.enter_async_context, guest.restored()))
        await timed(by_driver, partial(lab.driver.suspend, identity))
        await timed(from_driver, partial(lab.driver.resume, identity))
        await timed(by_daemon, partial(ours.moves, capsule, "pause", "paused"))
        await timed(from_daemon, partial(ours.moves, capsule, "resume", "running"))
    await lab.driver.destroy(identity)
    await ours.end(capsule)
    table(f"Pausing, {ROUNDS} rounds", COLUMNS, rows(pausing))
    table(f"Resuming, {ROUNDS} rounds", COLUMNS, rows(resuming))


async def test_use(guest_daemon: Daemon, table: Any, tmp_path: Path) -> None:
    """Programs and files in a capsule that runs."""
    content = os.urandom(SIZE)
    async with (
        bench(guest_daemon, tmp_path) as lab,
        program(guest_daemon) as ours,
        lab.bare().running() as agent,
    ):
        capsule = await ours.made()
        raw = AgentSession(FACT, agent)

        async def raw_upload() -> None:
            async def pieces() -> AsyncIterator[bytes]:
                for start in range(0, SIZE, MIB):
                    yield content[start : start + MIB]

            await raw.write("/dev/shm/file", pieces(), mode=0o644)

        async def raw_download() -> None:
            size = 0
            async with await raw.read("/dev/shm/file") as stream:
                while piece := await stream.receive_some(MIB):
                    size += len(piece)
            assert size == SIZE

        async def download() -> None:
            assert await ours.download(capsule) == SIZE

        execs = await in_turn(
            EXECS, {"the bare connection": partial(true, agent), "the daemon": partial(ours.true, capsule)}, first=3
        )
        puts = await in_turn(
            TRANSFERS, {"the bare connection": raw_upload, "the daemon": partial(ours.upload, capsule, content)}
        )
        gets = await in_turn(TRANSFERS, {"the bare connection": raw_download, "the daemon": download})
        await ours.end(capsule)
    table(f"/bin/true in a capsule, {EXECS} rounds", COLUMNS, rows(execs))
    for what, times in (("into", puts), ("out of", gets)):
        rates = {way: SIZE / MIB / (median(taken) / 1000) for way, taken in times.items()}
        floor = rates["the bare connection"]
        table(
            f"A file of {SIZE // MIB} MiB {what} a capsule, {TRANSFERS} rounds",
            ("what", "MiB/s", "ratio"),
            [(way, f"{rate:,.0f}", f"{rate / floor:.2f}") for way, rate in rates.items()],
        )


async def test_many_at_once(guest_daemon: Daemon, table: Any, tmp_path: Path) -> None:
    """Twenty capsules that are asked for at the same moment, until a first program has run in each."""

    async def by_bare(lab: Bench) -> None:
        guests = [lab.bare() for _ in range(AT_ONCE)]
        turn = trio.CapacityLimiter(STARTING)

        async def one(guest: BareGuest, task_status: trio.TaskStatus[None]) -> None:
            async with AsyncExitStack() as stack:
                async with turn:
                    await begun(guest, stack)
                task_status.started()
                await trio.sleep_forever()

        async with trio.open_nursery() as nursery:

            async def together() -> None:
                async with trio.open_nursery() as inner:
                    for guest in guests:
                        inner.start_soon(nursery.start, one, guest)

            await timed(times["bare QEMU, four at a time"], together)
            nursery.cancel_scope.cancel()

    async def by_daemon(ours: Program) -> None:
        capsules: list[str] = []

        async def one() -> None:
            capsule = await ours.made()
            capsules.append(capsule)
            await ours.true(capsule)

        async def together() -> None:
            async with trio.open_nursery() as inner:
                for _ in range(AT_ONCE):
                    inner.start_soon(one)

        await timed(times["the daemon"], together)
        await ours.end(*capsules)

    times: Times = {"bare QEMU, four at a time": [], "the daemon": []}
    async with bench(guest_daemon, tmp_path) as lab, program(guest_daemon) as ours:
        for _ in range(3):
            await by_bare(lab)
            await by_daemon(ours)
    table(f"{AT_ONCE} capsules at once, 3 rounds", COLUMNS, rows(times))


async def test_idle_cost(guest_daemon: Daemon, table: Any) -> None:
    """What the daemon and the guests take while nobody uses them: metrics are measured twice a second."""
    costs: list[tuple[str, ...]] = []

    async def look(what: str) -> None:
        assert guest_daemon.process is not None
        daemon, guests = guest_daemon.process.pid, guest_processes(guest_daemon.data_dir)
        before = (_cpu(daemon), sum(map(_cpu, guests)))
        await trio.sleep(IDLE_SECONDS)
        ours, theirs = (
            (now - then) / IDLE_SECONDS * 100
            for now, then in zip((_cpu(daemon), sum(map(_cpu, guests))), before, strict=True)
        )
        memory = sum(map(_private, guests)) / MIB
        costs.append((what, f"{ours:.1f}", f"{_private(daemon) / MIB:,.0f}", f"{theirs:.1f}", f"{memory:,.0f}"))

    async with program(guest_daemon) as ours:
        await look("nothing")
        paused = []
        for _ in range(PAUSED):
            paused.append(await ours.made())
            await ours.moves(paused[-1], "pause", "paused")
        await look(f"{PAUSED} paused")
        running = [await ours.made() for _ in range(RUNNING)]
        await look(f"{PAUSED} paused, {RUNNING} running")
        await ours.end(*paused, *running)
    table(
        f"Capsules that nobody uses, for {IDLE_SECONDS:g} s",
        ("what is there", "daemon CPU %", "daemon MiB", "guests CPU %", "guests MiB"),
        costs,
    )


def _cpu(pid: int) -> float:
    """How many seconds of processor a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _private(pid: int) -> int:
    """The bytes of memory that a process has for itself."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))
