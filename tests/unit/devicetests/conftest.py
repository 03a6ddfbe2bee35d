"""A device of processes and files on this machine, and a keeper of what a workload says, which can fail anywhere."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
import trio

from anvild.devicetests.pipelines import Frozen, Given, freeze, parse
from anvild.devicetests.workload import PipelineWorkload
from anvild.sdk import (
    AlreadyExists,
    Command,
    DeviceFact,
    DeviceStatus,
    Entry,
    EntryType,
    Exec,
    Exit,
    Files,
    NotFound,
    Outcome,
    Output,
    Process,
    ProcessInfo,
    RunInfo,
    Session,
    Severity,
    Stream,
    TerminalSize,
)
from tests.support.lab import Lab as Hardware
from tests.support.phones import Phone, PhoneSession, plug_phone

KEPT = 100_000


class Job:
    """A process of the machine. What it writes is kept: what nobody has had, and the rest for who begins again."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.kept: list[Output] = []
        self.had: list[Output] = []
        self.open = 2
        self.news = trio.Event()

    async def read(self, stream: Stream, source: trio.abc.ReceiveStream) -> None:
        async for data in source:
            self.kept.append(Output(stream=stream, data=bytes(data)))
            self.tell()
        self.open -= 1
        self.tell()

    def begin_again(self) -> None:
        self.kept = [*self.had, *self.kept]
        self.had = []
        while sum(len(output.data) for output in self.kept) > KEPT:
            self.kept.pop(0)

    def tell(self) -> None:
        self.news.set()
        self.news = trio.Event()


class MachineProcess(Process, AsyncIterator[Output]):
    def __init__(self, session: MachineSession, job: Job, tag: str) -> None:
        self.session, self.job, self.tag, self.pid = session, job, tag, job.process.pid

    def __aiter__(self) -> AsyncIterator[Output]:
        return self

    async def __anext__(self) -> Output:
        while not self.job.kept:
            if not self.job.open:
                raise StopAsyncIteration
            await self.job.news.wait()
        await trio.lowlevel.checkpoint()
        self.job.had.append(self.job.kept.pop(0))
        return self.job.had[-1]

    async def send(self, data: bytes) -> None:
        raise NotImplementedError

    async def close_stdin(self) -> None:
        raise NotImplementedError

    async def wait(self) -> Exit:
        code = await self.job.process.wait()
        return Exit(code=code) if code >= 0 else Exit(code=None, signal=-code)

    async def signal(self, number: int) -> None:
        os.killpg(self.pid, number)

    async def resize(self, size: TerminalSize) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        collected = self.job.process.returncode is not None and not self.job.open and not self.job.kept
        if collected and self.tag and not self.session.dead:  # the dead let go of nothing
            del self.session.machine.jobs[self.tag]


@dataclass
class Machine:
    """The device. ``started`` lists every command that was ever started on it."""

    nursery: trio.Nursery
    started: list[tuple[str, ...]] = field(default_factory=list)
    jobs: dict[str, Job] = field(default_factory=dict)

    def session(self) -> MachineSession:
        return MachineSession(self)

    def forget(self) -> None:
        self.started.clear()
        self.jobs.clear()

    async def ended(self) -> None:
        """Wait until every process has ended and all of its output is there."""
        for job in self.jobs.values():
            while job.open:
                await job.news.wait()
            await job.process.wait()


class MachineSession(Session, Exec, Files):
    device = DeviceFact(
        identity="machine",
        platform="linux",
        name="this machine",
        status=DeviceStatus.READY,
        capabilities=("exec", "files"),
        facts={"exec_kept_output": str(KEPT)},
    )

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.dead = False

    async def start(self, command: Command) -> Process:
        assert command.tag is not None
        if command.tag in self.machine.jobs:
            raise AlreadyExists(f"the tag {command.tag} is in use")
        try:
            process = await trio.lowlevel.open_process(
                command.argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, **command.env},
                cwd=command.cwd,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise NotFound(f"there is no program {command.argv[0]!r}") from None
        self.machine.started.append(command.argv)
        job = self.machine.jobs[command.tag] = Job(process)
        assert process.stdout is not None
        assert process.stderr is not None
        self.machine.nursery.start_soon(job.read, Stream.STDOUT, process.stdout)
        self.machine.nursery.start_soon(job.read, Stream.STDERR, process.stderr)
        return MachineProcess(self, job, command.tag)

    async def attach(self, tag: str, *, replay: bool = False) -> Process:
        await trio.lowlevel.checkpoint()
        if tag not in self.machine.jobs:
            raise NotFound(f"there is no process with the tag {tag}")
        if replay:
            self.machine.jobs[tag].begin_again()
        return MachineProcess(self, self.machine.jobs[tag], tag)

    async def processes(self) -> Sequence[ProcessInfo]:
        raise NotImplementedError

    async def kill(self, pid: int, number: int = 9) -> None:
        raise NotImplementedError

    async def read(self, path: str) -> trio.abc.ReceiveStream:
        try:
            return trio.lowlevel.FdStream(os.open(path, os.O_RDONLY))
        except FileNotFoundError:
            raise NotFound(f"there is no file {path}") from None

    async def write(
        self, path: str, source: AsyncIterable[bytes], *, mode: int = 0o644, user: str | None = None
    ) -> int:
        return _write(Path(path), b"".join([piece async for piece in source]), mode)

    async def list(self, path: str, *, depth: int = 1) -> Sequence[Entry]:
        await trio.lowlevel.checkpoint()
        return _entries(Path(path))

    async def stat(self, path: str) -> Entry:
        await trio.lowlevel.checkpoint()
        return _entry(Path(path))

    async def mkdir(self, path: str, *, mode: int = 0o755, user: str | None = None) -> Entry:
        raise NotImplementedError

    async def remove(self, path: str) -> None:
        shutil.rmtree(path)


def _write(path: Path, content: bytes, mode: int) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    return len(content)


def _entries(path: Path) -> Sequence[Entry]:
    return [_entry(each) for each in sorted(path.iterdir())]


def _entry(path: Path) -> Entry:
    try:
        status = path.stat()
    except FileNotFoundError:
        raise NotFound(f"there is no {path}") from None
    kind = EntryType.DIRECTORY if path.is_dir() else EntryType.FILE
    return Entry(
        path=str(path),
        name=path.name,
        type=kind,
        size=status.st_size,
        mode=status.st_mode & 0o7777,
        modified=status.st_mtime,
    )


@dataclass
class Handset:
    """A phone in the place of the machine."""

    phone: Phone

    def session(self) -> PhoneSession:
        return PhoneSession(self.phone.fact(), self.phone)

    def forget(self) -> None:
        self.phone.wiped()
        self.phone.requests.clear()


class Crash(Exception):
    """The daemon dies here."""


@dataclass
class Kept:
    """What outlives the daemon: everything that was durable when it died."""

    checkpoint: Any = None
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    findings: list[tuple[Severity, str, str | None, str | None]] = field(default_factory=list)
    artifacts: dict[str, bytes] = field(default_factory=dict)

    def steps(self, state: str) -> list[str]:
        return [data["step"] for kind, data in self.events if kind == "step" and data["state"] == state]


class Recorder:
    """A run context that keeps what is durable in ``kept`` and dies at the ``crash_at``-th durable act, just before it
    or just ``after`` it."""

    def __init__(
        self, run: RunInfo, session: MachineSession | PhoneSession, kept: Kept, crash_at: int = -1, after: bool = False
    ) -> None:
        self.run = run
        self.session = session
        self.kept = kept
        self.phases: list[str] = []
        self.acts = 0
        self.shown = trio.Event()
        self._crash_at = crash_at
        self._after = after

    async def _act(self, act: Callable[[], None]) -> None:
        await trio.lowlevel.checkpoint()
        self.acts += 1
        if self.acts != self._crash_at or self._after:
            act()
        if self.acts == self._crash_at:
            self.session.dead = True
            raise Crash

    async def phase(self, name: str) -> None:
        self.phases.append(name)

    async def log(self, message: str, **values: Any) -> None:
        await self._act(lambda: self.kept.events.append(("log", {"message": message, **values})))

    async def emit(self, kind: str, data: Mapping[str, Any]) -> None:
        await self._act(lambda: self.kept.events.append((kind, _plain(data))))

    async def finding(
        self, severity: Severity, *, title: str, category: str | None = None, detail: str | None = None
    ) -> None:
        found = (severity, title, category, detail)
        if found not in self.kept.findings:
            await self._act(lambda: self.kept.findings.append(found))

    async def artifact(self, name: str, source: AsyncIterable[bytes], *, media_type: str) -> str:
        content = b"".join([piece async for piece in source])
        await self._act(lambda: self.kept.artifacts.update({name: content}))
        return name

    @asynccontextmanager
    async def open_artifact(self, artifact_id: str) -> AsyncIterator[AsyncIterator[bytes]]:
        if artifact_id not in self.kept.artifacts:
            raise NotFound(f"there is no artifact {artifact_id}")

        async def pieces() -> AsyncGenerator[bytes, None]:
            for at in range(0, len(data := self.kept.artifacts[artifact_id]), 1000):
                yield data[at : at + 1000]

        async with aclosing(pieces()) as content:
            yield content

    async def checkpoint(
        self, state: Any, *, kind: str | None = None, data: Mapping[str, Any] | None = None, phase: str | None = None
    ) -> None:
        plain = _plain(state)

        def act() -> None:
            self.kept.checkpoint = plain
            if kind is not None:
                self.kept.events.append((kind, _plain(data or {})))
            if kind == "output":
                self.shown.set()

        await self._act(act)
        if phase is not None:
            self.phases.append(phase)

    async def pause_point(self) -> None:
        await trio.lowlevel.checkpoint()


def _plain(value: Any) -> Any:
    encoded = msgspec.json.encode(value)
    assert len(encoded) <= 64 * 1024
    return msgspec.json.decode(encoded)


@dataclass
class Lab:
    """Runs pipelines on the machine."""

    crash: ClassVar[type[Exception]] = Crash

    machine: Machine | Handset
    kept: Kept = field(default_factory=Kept)
    files: dict[str, bytes] = field(default_factory=dict)

    def frozen(self, document: str, **metadata: Any) -> Frozen:
        inputs = {name: Given(artifact=name, name=f"{name}.pkg", size=len(data)) for name, data in self.files.items()}
        return freeze(parse(document, name="test", file="test.toml"), metadata, inputs)

    def context(self, frozen: Frozen, *, crash_at: int = -1, after: bool = False) -> Recorder:
        self.kept.artifacts.update(self.files)
        run = RunInfo(
            run_id="0190-run",
            attempt=1,
            kind="pipeline",
            name=frozen.pipeline.name,
            spec=_plain(msgspec.to_builtins(frozen)),
            metadata={},
            checkpoint=self.kept.checkpoint,
            resumed=self.kept.checkpoint is not None,
        )
        return Recorder(run, self.machine.session(), self.kept, crash_at, after)

    def forget(self) -> None:
        """Begin as if nothing had been."""
        self.kept = Kept()
        self.machine.forget()

    async def run(self, document: str, **metadata: Any) -> Outcome:
        return await PipelineWorkload().run(self.context(self.frozen(document, **metadata)))


@pytest.fixture
async def lab(nursery: trio.Nursery) -> Lab:
    return Lab(Machine(nursery))


@pytest.fixture
def hardware() -> Hardware:
    return Hardware()


@pytest.fixture
def phone(hardware: Hardware) -> Phone:
    return plug_phone(hardware, "p1")


@pytest.fixture
async def phones(phone: Phone) -> Lab:
    """Runs pipelines on the phone. What is in ``files`` is the run's inputs."""
    return Lab(Handset(phone))
