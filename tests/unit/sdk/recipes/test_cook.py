"""Following recipes on a device that does what its test says."""

from __future__ import annotations

import signal
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Sequence

import msgspec
import pytest
import trio
from trio.testing import MockClock

from anvild.sdk import (
    AlreadyExists,
    Command,
    DeviceFact,
    DeviceLost,
    DeviceStatus,
    Entry,
    EntryType,
    Exec,
    Exit,
    Files,
    NotFound,
    Output,
    Process,
    ProcessInfo,
    Session,
    Stream,
    TerminalSize,
)
from anvild.sdk.recipes import Cook, Step, StepFailed, TreeEntry, parse_health_check, parse_recipe

DEVICE = DeviceFact(identity="d", platform="linux", name="d", status=DeviceStatus.READY)
Answer = tuple[int, str]


class OneProcess(Process):
    """A program that writes a text and ends, after some seconds."""

    def __init__(self, command: Command, code: int, said: str, seconds: float) -> None:
        self.pid, self.tag = 7, command.tag
        self.killed = False
        self._code, self._said, self._seconds = code, said, seconds

    async def __aiter__(self) -> AsyncIterator[Output]:
        await trio.sleep(self._seconds)
        yield Output(stream=Stream.STDOUT if self._code == 0 else Stream.STDERR, data=self._said.encode())

    async def wait(self) -> Exit:
        await trio.lowlevel.checkpoint()
        return Exit(code=None, signal=-self._code) if self._code < 0 else Exit(code=self._code)

    async def signal(self, number: int) -> None:
        self.killed = number == signal.SIGKILL

    async def send(self, data: bytes) -> None: ...

    async def close_stdin(self) -> None: ...

    async def resize(self, size: TerminalSize) -> None: ...

    async def aclose(self) -> None: ...


class Device(Session, Exec, Files):
    """Runs what ``does`` says: a code and a text for each command, or an error."""

    def __init__(self, does: Callable[[Command], Answer], seconds: float = 0) -> None:
        self.device = DEVICE
        self.does, self.seconds = does, seconds
        self.commands: list[Command] = []
        self.processes_made: list[OneProcess] = []
        self.files: dict[str, tuple[str | bytes, int, str | None]] = {}

    async def start(self, command: Command) -> Process:
        self.commands.append(command)
        code, said = self.does(command)
        process = OneProcess(command, code, said, self.seconds)
        self.processes_made.append(process)
        return process

    async def attach(self, tag: str, *, replay: bool = False) -> Process:
        raise NotFound(tag)

    async def processes(self) -> Sequence[ProcessInfo]:
        return []

    async def kill(self, pid: int, number: int = 9) -> None: ...

    async def read(self, path: str) -> trio.abc.ReceiveStream:
        raise NotFound(path)

    async def write(
        self, path: str, source: AsyncIterable[bytes], *, mode: int = 0o644, user: str | None = None
    ) -> int:
        content = b"".join([chunk async for chunk in source])
        self.files[path] = (content, mode, user)
        return len(content)

    async def list(self, path: str, *, depth: int = 1) -> Sequence[Entry]:
        return []

    async def stat(self, path: str) -> Entry:
        raise NotFound(path)

    async def mkdir(self, path: str, *, mode: int = 0o755, user: str | None = None) -> Entry:
        if path in self.files:
            raise AlreadyExists(path)
        self.files[path] = ("directory", mode, user)
        return Entry(path=path, name=path, type=EntryType.DIRECTORY, size=0, mode=mode, modified=0)

    async def remove(self, path: str) -> None: ...


class OneTree:
    """A directory ``app`` with a file and a directory in it."""

    async def entries(self, path: str) -> Sequence[TreeEntry]:
        found = {
            "app": [
                TreeEntry("", "app", True, 0o755),
                TreeEntry("sub", "app/sub", True, 0o700),
                TreeEntry("sub/one", "app/sub/one", False, 0o640),
            ],
            "app/sub/one": [TreeEntry("", "app/sub/one", False, 0o640)],
        }.get(path)
        if found is None:
            raise NotFound(f"no {path}")
        return found

    async def content(self, entry: TreeEntry) -> AsyncGenerator[bytes, None]:
        for piece in (entry.place.encode(), b"!"):
            await trio.lowlevel.checkpoint()
            yield piece


def fine(command: Command) -> Answer:
    if command.argv[-1] == "-0":
        return 0, f"HOME=/home/{command.user or 'root'}\0PATH=/bin\0"
    return 0, "/start\n" if command.argv[-1] == "pwd" else "fine\n"


async def follow(device: Device, *lines: str) -> tuple[Cook, list[Step]]:
    steps: list[Step] = []

    async def report(step: Step) -> None:
        steps.append(step)

    cook = Cook(device, report, tree=OneTree())
    with pytest.raises(StepFailed) if lines[-1] == "fails" else trio.CancelScope():
        await cook.follow(parse_recipe([line for line in lines if line != "fails"]))
    return cook, steps


async def test_each_step_finds_what_was_set_before_it() -> None:
    device = Device(fine)
    cook, steps = await follow(
        device,
        "ENV A=1 B=${A}2 C=$HOME:$NOTHING:$$A",
        "WORKDIR work",
        "USER maker",
        "ENV PATH=/opt:$PATH A=$HOME",
        "WORKDIR /srv/../opt",
        "RUN run it",
        "START stay up",
    )
    assert cook.environment == {"A": "/home/maker", "B": "12", "C": "/home/root::$A", "PATH": "/opt:/bin"}
    assert (cook.user, cook.folder) == ("maker", "/opt")
    assert all(step.ok for step in steps)
    assert [step.step for step in steps] == list(range(1, 8))
    ran, started = device.commands[-2:]
    assert ran == Command(argv=("/bin/sh", "-c", "run it"), env=cook.environment, cwd="/opt", user="maker")
    assert started == msgspec.structs.replace(ran, argv=("/bin/sh", "-c", "stay up"), tag="start-1")
    assert ("mkdir", "-p", "--", "/start/work") in [command.argv for command in device.commands]


@pytest.mark.parametrize(
    ("answer", "says", "code"),
    [
        ((3, "one\ntwo\n"), "step 1, RUN x: it ended with exit code 3: two", 3),
        ((-9, ""), "step 1, RUN x: it ended with signal 9", -1),
    ],
)
async def test_how_a_step_fails(answer: Answer, says: str, code: int) -> None:
    steps: list[Step] = []

    async def report(step: Step) -> None:
        steps.append(step)

    with pytest.raises(StepFailed) as caught:
        await Cook(Device(lambda _: answer), report).follow(parse_recipe(["RUN x", "RUN y"]))
    assert caught.value.message == says
    assert [(step.cmd, step.exit, step.ok) for step in steps] == [("RUN x", code, False)]


async def test_a_command_that_takes_too_long_is_ended(autojump_clock: MockClock) -> None:
    device = Device(fine, seconds=100)
    _, steps = await follow(device, "RUN --timeout=2s slow", "RUN never", "fails")
    assert [(step.ok, step.exit, step.stderr, step.elapsed_ms) for step in steps] == [
        (False, -1, "it did not end within 2 s", 2000)
    ]
    assert device.processes_made[0].killed


async def test_files_are_copied() -> None:
    device = Device(fine)
    device.files["/to"] = ("directory", 0o755, None)
    _, steps = await follow(device, "COPY app /to", "USER maker", "COPY app/sub/one app /more", "COPY app/sub/one new")
    assert [step.stdout for step in steps if step.cmd.startswith("COPY")] == ["1 file\n", "2 files\n", "1 file\n"]
    one = b"app/sub/one!"
    assert device.files == {
        "/to": ("directory", 0o755, None),
        "/to/sub": ("directory", 0o700, None),
        "/to/sub/one": (one, 0o640, None),
        "/more/one": (one, 0o640, "maker"),
        "/more": ("directory", 0o755, "maker"),
        "/more/sub": ("directory", 0o700, "maker"),
        "/more/sub/one": (one, 0o640, "maker"),
        "/start/new": (one, 0o640, "maker"),
    }
    _, steps = await follow(device, "COPY nothing /to", "fails")
    assert steps[-1].stderr == "no nothing"


async def test_variables_have_a_limit() -> None:
    _, steps = await follow(Device(fine), *(f"ENV A{number}={'x' * 1000}" for number in range(9)), "fails")
    assert [step.ok for step in steps] == [True] * 8 + [False]


async def test_an_error_of_the_device_is_no_failure_of_a_step() -> None:
    def lost(command: Command) -> Answer:
        raise DeviceLost("it has gone")

    steps: list[Step] = []

    async def report(step: Step) -> None:
        steps.append(step)

    with pytest.raises(DeviceLost):
        await Cook(Device(lost), report).follow(parse_recipe(["RUN x"]))
    assert steps == []


@pytest.mark.parametrize(
    ("flags", "healthy_after", "attempts", "seconds"),
    [
        ("", 4, 4, 9),
        ("--interval=1m", 2, 2, 60),
        ("--retries=3", 3, 3, 6),
        ("--retries=3", 9, None, 6),
        ("--retries=3 --start-period=10s", 7, 7, 18),
        ("--retries=2 --start-period=10s", 7, None, 15),
    ],
)
async def test_a_health_check_waits(
    autojump_clock: MockClock, flags: str, healthy_after: int, attempts: int | None, seconds: int
) -> None:
    tried = 0

    def ill(command: Command) -> Answer:
        nonlocal tried
        tried += 1
        return (0, "well") if tried >= healthy_after else (1, "not yet")

    steps: list[Step] = []

    async def report(step: Step) -> None:
        steps.append(step)

    cook = Cook(Device(ill), report)
    health = parse_health_check(f"{flags} look")
    if attempts is None:
        with pytest.raises(StepFailed, match=r"it was tried \d times, at last: it ended with exit code 1: not yet"):
            await cook.check(health)
    else:
        await cook.check(health)
        assert tried == attempts
    (step,) = steps
    assert (step.phase, step.cmd, step.ok) == ("post-build", "HEALTHCHECK look", attempts is not None)
    assert step.elapsed_ms == 1000 * seconds
