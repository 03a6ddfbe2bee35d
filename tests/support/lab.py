"""A lab of devices that exist in memory alone, a driver for them, and workloads that do as they are told.

What stands in here is hardware: the engine, the store and the event log are the real ones. Loaded as a pytest plugin
by ``tests/conftest.py``; the fixture ``lab`` is an empty lab, ``start_engine`` starts an engine on it.
"""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, Protocol

import msgspec
import pytest
import trio
import trio.testing

from anvild.core.artifacts import Artifacts, open_artifacts
from anvild.core.engine import Actor, DriverFactory, Engine, InProcess, Run, RunRequest
from anvild.core.events import EventFilter, EventLog
from anvild.core.settings import EngineSettings
from anvild.core.store import Store
from anvild.sdk import (
    AlreadyExists,
    Command,
    Description,
    DeviceFact,
    DeviceLost,
    DeviceRequest,
    DeviceStatus,
    Driver,
    DriverContext,
    DriverSettings,
    Entry,
    EntryType,
    Event,
    Exec,
    Exit,
    Files,
    Health,
    HealthState,
    InvalidArgument,
    Lease,
    NotFound,
    Outcome,
    Output,
    Process,
    ProcessInfo,
    Provision,
    Recovery,
    RecoveryState,
    Report,
    ResourceExhausted,
    RunContext,
    RunFailed,
    Session,
    Severity,
    Sighting,
    Stream,
    Template,
    TerminalSize,
    Verdict,
    Workload,
)

TEAM = "0190a000-0000-7000-8000-000000000001"
OTHER_TEAM = "0190a000-0000-7000-8000-000000000002"
HOST = "bench-1"
ALICE = Actor("user:alice", TEAM)


@dataclass
class FakeDevice:
    """One device: what is on it, and how it misbehaves next."""

    identity: str
    platform: str = "fake"
    capabilities: tuple[str, ...] = ("exec", "files")
    made: bool = False
    plugged: bool = True
    files: dict[str, bytes] = field(default_factory=dict)
    dirty: bool = False
    sessions: int = 0
    cleaned: int = 0
    clean_error: Exception | None = None
    open_error: Exception | None = None

    def fact(self, status: DeviceStatus = DeviceStatus.READY) -> DeviceFact:
        return DeviceFact(
            identity=self.identity,
            platform=self.platform,
            name=f"Fake {self.identity}",
            status=status,
            model="F1",
            firmware_version="1.0",
            capabilities=self.capabilities,
            handle=f"handle-of-{self.identity}",
        )

    def session(self, fact: DeviceFact) -> Session:
        return FakeSession(fact, self)


class Lab:
    """The hardware: it outlives drivers and engines, as hardware does.

    ``violations`` gathers what must never happen; tests assert that it is empty.
    """

    def __init__(self) -> None:
        self.devices: dict[str, FakeDevice] = {}
        self.slots = 0
        self.health = Health(state=HealthState.HEALTHY, reason="all well")
        self.start_error: Exception | None = None
        self.watch_error: Exception | None = None
        self.describe_error: Exception | None = None
        self.create_error: Exception | None = None
        self.destroy_error: Exception | None = None
        self.destroyed: list[str] = []
        self.starts: Counter[tuple[str, int]] = Counter()
        self.resumes: Counter[tuple[str, int]] = Counter()
        self.lives: Counter[str] = Counter()
        self.violations: list[str] = []
        self._changes: list[trio.MemorySendChannel[Sighting]] = []
        self.gates: dict[str, trio.Event] = {}

    def plug(self, identity: str, *, platform: str = "fake", capabilities: tuple[str, ...] = ("exec", "files")) -> None:
        """Attach a device, or attach it again."""
        device = self.devices.setdefault(identity, FakeDevice(identity, platform, capabilities))
        device.plugged = True
        self.say(Sighting(kind="seen", device=device.fact()))

    def unplug(self, identity: str) -> None:
        """Take a device away, in the middle of whatever it does."""
        device = self.devices[identity]
        device.plugged = False
        self.say(Sighting(kind="lost", device=device.fact(DeviceStatus.OFFLINE)))

    def kill_made(self, identity: str) -> None:
        """A device made to order dies by itself."""
        device = self.devices.pop(identity)
        self.say(Sighting(kind="lost", device=device.fact(DeviceStatus.OFFLINE)))

    @property
    def made(self) -> list[str]:
        return [identity for identity, device in self.devices.items() if device.made]

    def say(self, sighting: Sighting) -> None:
        """Have the driver report this."""
        for channel in self._changes:
            channel.send_nowait(sighting)

    def gate(self, name: str) -> trio.Event:
        """An event that a workload waits for (``{"wait": name}``)."""
        return self.gates.setdefault(name, trio.Event())

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[trio.MemoryReceiveChannel[Sighting]]:
        send, receive = trio.open_memory_channel[Sighting](10_000)
        self._changes.append(send)
        try:
            yield receive
        finally:
            self._changes.remove(send)

    def driver(self, name: str = "fake") -> Driver:
        """A new instance of the driver for this lab."""
        context = DriverContext(
            settings=DriverSettings(),
            host=HOST,
            state_dir=Path("/nonexistent"),
            cache_dir=Path("/nonexistent"),
            data_path=(),
            log=lambda *args, **kw: None,
        )
        return type("FakeDriverHere", (FakeDriver,), {"name": name})(context, self)


class FakeDriver(Driver, Provision):
    """Serves the lab's devices."""

    name = "fake"

    def __init__(self, context: DriverContext[Any], lab: Lab) -> None:
        super().__init__(context)
        self.lab = lab

    async def start(self) -> None:
        self.lab.lives["start"] += 1
        if self.lab.start_error is not None:
            raise self.lab.start_error

    async def stop(self) -> None:
        self.lab.lives["stop"] += 1

    async def describe(self) -> Description:
        if self.lab.describe_error is not None:
            raise self.lab.describe_error
        return Description(
            name=self.name,
            version="1.0",
            platforms=("fake",),
            capabilities=("exec", "files", "provision"),
            health=self.lab.health,
            slots=self.lab.slots,
        )

    async def watch(self, report: Report) -> NoReturn:
        async with self.lab.listening() as changes:
            for device in list(self.lab.devices.values()):
                if device.plugged and not device.made:
                    await report(Sighting(kind="seen", device=device.fact()))
            if self.lab.watch_error is not None:
                raise self.lab.watch_error
            async for sighting in changes:
                try:
                    await report(sighting)
                except (InvalidArgument, ResourceExhausted):
                    if self.lab.watch_error is not None:
                        raise self.lab.watch_error from None
        raise AssertionError("unreachable")

    def open(self, device: DeviceFact, lease: Lease) -> AbstractAsyncContextManager[Session]:
        return self._open(device, lease)

    @asynccontextmanager
    async def _open(self, fact: DeviceFact, lease: Lease) -> AsyncIterator[Session]:
        await trio.lowlevel.checkpoint()
        device = self._there(fact.identity)
        if device.open_error is not None:
            raise device.open_error
        if device.sessions and lease.holder.startswith("run:"):
            self.lab.violations.append(f"{fact.identity} was opened twice")
        device.sessions += 1
        try:
            yield device.session(fact)
        finally:
            device.sessions -= 1

    async def clean(self, fact: DeviceFact) -> None:
        await trio.lowlevel.checkpoint()
        device = self._there(fact.identity)
        if device.sessions:
            self.lab.violations.append(f"{fact.identity} was cleaned with a session open")
        if device.clean_error is not None:
            raise device.clean_error
        device.dirty = False
        device.cleaned += 1
        device.files.clear()

    async def recover(self, handle: str) -> Recovery:
        identity = handle.removeprefix("handle-of-")
        device = self.lab.devices.get(identity)
        if device is None:
            return Recovery(state=RecoveryState.ENDED, reason="it has ended")
        if not device.plugged:
            return Recovery(state=RecoveryState.LOST, reason="it was unplugged")
        return Recovery(state=RecoveryState.RUNNING, reason="it is there", device=device.fact())

    async def create(self, request: DeviceRequest) -> DeviceFact:
        await trio.lowlevel.checkpoint()
        if self.lab.create_error is not None:
            raise self.lab.create_error
        if "create" in self.lab.gates:
            await self.lab.gates["create"].wait()
        if request.template != "minimal":
            raise NotFound(f"there is no template {request.template!r}")
        device = self.lab.devices.setdefault(request.identity, FakeDevice(request.identity, made=True))
        return device.fact()

    async def destroy(self, identity: str) -> None:
        await trio.lowlevel.checkpoint()
        if self.lab.destroy_error is not None:
            raise self.lab.destroy_error
        self.lab.devices.pop(identity, None)
        self.lab.destroyed.append(identity)

    async def templates(self) -> Sequence[Template]:
        return []

    def _there(self, identity: str) -> FakeDevice:
        device = self.lab.devices.get(identity)
        if device is None or not device.plugged:
            raise DeviceLost(f"{identity} is not there")
        return device


class FakeSession(Session, Exec, Files):
    """Files in memory, and a program ``echo``."""

    def __init__(self, fact: DeviceFact, device: FakeDevice) -> None:
        self.device = fact
        self._device = device

    def _use(self) -> None:
        if not self._device.plugged:
            raise DeviceLost(f"{self._device.identity} is not there")
        self._device.dirty = True

    async def start(self, command: Command) -> Process:
        self._use()
        program, *args = command.argv
        if program == "crash":
            raise ZeroDivisionError("the driver has a bug")
        if program == "hang":
            await trio.sleep_forever()
        if program not in ("echo", "sleep"):
            raise NotFound(f"there is no program {program!r}")
        return FakeProcess(program, args)

    async def attach(self, tag: str, *, replay: bool = False) -> Process:
        raise NotFound(f"there is no process {tag!r}")

    async def processes(self) -> Sequence[ProcessInfo]:
        return []

    async def kill(self, pid: int, number: int = 9) -> None:
        raise NotFound(f"there is no process {pid}")

    async def read(self, path: str) -> trio.abc.ReceiveStream:
        self._use()
        if path not in self._device.files:
            raise NotFound(f"there is no file {path!r}")
        send, receive = trio.testing.memory_stream_one_way_pair()
        await send.send_all(self._device.files[path])
        await send.aclose()
        return receive

    async def write(
        self, path: str, source: AsyncIterable[bytes], *, mode: int = 0o644, user: str | None = None
    ) -> int:
        self._use()
        data = b"".join([chunk async for chunk in source])
        self._device.files[path] = data
        return len(data)

    async def list(self, path: str, *, depth: int = 1) -> Sequence[Entry]:
        return [await self.stat(name) for name in sorted(fnmatch.filter(self._device.files, f"{path}*"))]

    async def stat(self, path: str) -> Entry:
        if path not in self._device.files:
            raise NotFound(f"there is no file {path!r}")
        size = len(self._device.files[path])
        return Entry(path=path, name=path.rpartition("/")[2], type=EntryType.FILE, size=size, mode=0o644, modified=0.0)

    async def mkdir(self, path: str, *, mode: int = 0o755, user: str | None = None) -> Entry:
        raise AlreadyExists(f"{path!r} exists")

    async def remove(self, path: str) -> None:
        self._device.files.pop(path, None)


class FakeProcess(Process):
    """``echo`` says its arguments; ``sleep`` ends after so many seconds."""

    def __init__(self, program: str, args: Sequence[str]) -> None:
        self.pid = 1
        self.tag = None
        self._program = program
        self._args = args

    async def __aiter__(self) -> AsyncIterator[Output]:
        if self._program == "echo":
            for word in self._args:
                yield Output(stream=Stream.STDOUT, data=word.encode())
                await trio.lowlevel.checkpoint()

    async def wait(self) -> Exit:
        await trio.sleep(float(self._args[0]) if self._program == "sleep" else 0)
        return Exit(code=0)

    async def send(self, data: bytes) -> None: ...

    async def close_stdin(self) -> None: ...

    async def signal(self, number: int) -> None: ...

    async def resize(self, size: TerminalSize) -> None: ...

    async def aclose(self) -> None: ...


class Told(Workload):
    """Does what its spec says, step by step: ``{"steps": [{"sleep": 3}, {"wait": "gate"}, {"fail": "code"}, …]}``.

    It makes a checkpoint after each step, so that an attempt that is taken up again goes on where it was.
    """

    kind = "told"
    pausable = True
    adoptable = True

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    async def run(self, context: RunContext) -> Outcome:
        this = (context.run.run_id, context.run.attempt)
        if context.run.resumed:
            self.lab.resumes[this] += 1
        else:
            self.lab.starts[this] += 1
            if self.lab.starts[this] > 1:
                self.lab.violations.append(f"{this} was started twice")
        steps = (context.run.spec or {}).get("steps", [])
        done = context.run.checkpoint or 0
        for number, step in enumerate(steps):
            if number < done:
                continue
            await context.pause_point()
            await self._step(context, step)
            await context.checkpoint(number + 1)
        return Outcome(verdict=Verdict.PASSED, reason="all steps done")

    async def _step(self, context: RunContext, step: Mapping[str, Any]) -> None:
        for word, value in step.items():
            match word:
                case "sleep":
                    await trio.sleep(value)
                case "wait":
                    await self.lab.gate(value).wait()
                case "fail":
                    raise RunFailed(value, "it was told to fail", retry=step.get("retry", False))
                case "retry":
                    pass
                case "raise":
                    raise {"bug": ZeroDivisionError("oops"), "invalid": InvalidArgument("no")}[value]
                case "finding":
                    await context.finding(Severity(value), title="found", category="test", detail=None)
                case "phase":
                    await context.phase(value)
                case "log":
                    await context.log(value, step=1)
                case "emit":
                    await context.emit(value, {"n": 1})
                case "file":
                    await context.artifact(value, _one(b"data"), media_type="text/plain")
                case "write":
                    await context.session.require(Files).write(value, _one(b"data"))
                case "exec":
                    process = await context.session.require(Exec).start(Command(argv=tuple(value)))
                    async with process:
                        async for _ in process:
                            pass
                        await process.wait()
                case "ignore_cancel":
                    with trio.CancelScope(shield=True):
                        await self.lab.gate(value).wait()


class Once(Told):
    """The same, for work that cannot pause and cannot be taken up again."""

    kind = "once"
    pausable = False
    adoptable = False


class Noop(Workload):
    """Does nothing and passes."""

    kind = "noop"

    async def run(self, context: RunContext) -> Outcome:
        return Outcome(verdict=Verdict.PASSED, reason="nothing to do")


async def _one(data: bytes) -> AsyncIterator[bytes]:
    yield data


def asks(kind: str = "told", *steps: Mapping[str, Any], **values: Any) -> RunRequest:
    """A request for a run of these steps."""
    spec = {"steps": list(steps)}
    return RunRequest(**{"team_id": TEAM, "kind": kind, "name": "a test", "spec": spec, **values})


class Traffic:
    """Counts the store's calls in flight, so that a test on a mock clock knows when nothing happens any more."""

    def __init__(self, store: Store) -> None:
        self._flying = 0
        self._store_read = store.read
        store.read = self._counted(store.read)  # type: ignore[method-assign]
        store.write = self._counted(store.write)  # type: ignore[method-assign]

    async def settle(self) -> None:
        """Return when every task waits for time, or for the test."""
        threads = trio.to_thread.current_default_thread_limiter()
        while True:
            await trio.testing.wait_all_tasks_blocked()
            if not self._flying and not threads.borrowed_tokens:
                return
            await self._store_read(lambda conn: None)

    def _counted(self, call: Any) -> Any:
        async def counted(job: Any) -> Any:
            self._flying += 1
            try:
                return await call(job)
            finally:
                self._flying -= 1

        return counted


class StartEngine(Protocol):
    """Starts an engine on the lab; ``stop`` it by cancelling what it returns."""

    async def __call__(self, **values: Any) -> Running: ...


@dataclass
class Running:
    """An engine that runs, and the scope that ends it as a kill would: at once, with nothing written."""

    engine: Engine
    events: EventLog
    store: Store
    artifacts: Artifacts
    traffic: Traffic
    scope: trio.CancelScope
    stopped: trio.Event

    async def kill(self) -> None:
        self.scope.cancel()
        await self.stopped.wait()

    async def until(self, run: Run | str, *states: str) -> Run:
        """Wait until a run is in one of these states (any terminal one by default) and return it."""
        run_id = run if isinstance(run, str) else run.id
        wanted = states or ("passed", "failed", "cancelled")
        async with self.events.follow(after=None) as events:
            found = await self.engine.runs.get(run_id)
            while found.state not in wanted:
                await anext(events)
                found = await self.engine.runs.get(run_id)
            return found

    async def after(self, seconds: float = 0.0) -> None:
        """Let so many seconds pass on the mock clock, a little at a time, everything settling in between."""
        clock = trio.lowlevel.current_clock()
        await self.traffic.settle()
        while seconds > 0:
            assert isinstance(clock, trio.testing.MockClock)
            clock.jump(min(seconds, 0.5))
            seconds -= 0.5
            await self.traffic.settle()

    async def kinds(self, run: Run) -> list[str]:
        """The kinds of a run's events, in order."""
        return [event.kind for event in await self.events.read(where=EventFilter(run_id=run.id))]

    async def heard(self, *kinds: str) -> Event:
        """Wait for an event of one of these kinds, from now on."""
        async with self.events.follow(after=None) as events:
            while (event := await anext(events)).kind not in kinds:
                pass
            return event

    async def eventually(self, condition: Callable[[], Awaitable[bool]]) -> None:
        """Wait until the condition holds, looking again at each event."""
        async with self.events.follow(after=None) as events:
            while not await condition():
                await anext(events)


async def run_engine(
    lab: Lab,
    store: Store,
    artifacts: Artifacts,
    *,
    traffic: Traffic | None = None,
    names: Sequence[str] = ("fake",),
    attached: Mapping[str, DriverFactory] = MappingProxyType({}),
    host: str = HOST,
    task_status: trio.TaskStatus[Running],
    **settings: Any,
) -> None:
    """Run an event log and an engine until cancelled."""
    events = EventLog(store)
    workloads = [Told(lab), Once(lab), Noop()]
    engine = Engine(
        store=store,
        events=events,
        artifacts=artifacts,
        drivers={name: InProcess(partial(lab.driver, name)) for name in names},
        host=host,
        settings=msgspec.structs.replace(EngineSettings(), **settings),
        workloads={workload.kind: workload for workload in workloads},
    )
    for name, factory in attached.items():
        engine.attach(name, factory)
    stopped = trio.Event()
    try:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(events.run)
                await nursery.start(engine.run)
                known = traffic or Traffic(store)
                task_status.started(Running(engine, events, store, artifacts, known, scope, stopped))
    finally:
        stopped.set()


@pytest.fixture
def lab() -> Lab:
    """A lab without a device."""
    return Lab()


@pytest.fixture
async def artifacts(store: Store, tmp_path: Path) -> Artifacts:
    """Artifacts beside the test's store."""
    return await open_artifacts(store, tmp_path)


@pytest.fixture
async def start_engine(
    lab: Lab, store: Store, artifacts: Artifacts, nursery: trio.Nursery
) -> AsyncIterator[StartEngine]:
    """Start engines on the lab and the store; they are stopped at the end of the test."""
    started: list[Running] = []
    traffic = Traffic(store)

    async def start(**values: Any) -> Running:
        running: Running = await nursery.start(
            lambda task_status: run_engine(lab, store, artifacts, traffic=traffic, task_status=task_status, **values)
        )
        started.append(running)
        return running

    yield start
    for running in started:
        await running.kill()
    assert lab.violations == []
