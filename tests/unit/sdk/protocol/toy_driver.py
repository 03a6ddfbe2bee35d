"""A small driver with something of everything, to be served in each place. Run as a child, it is this very file."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, NoReturn

import trio
import trio.testing

from anvild.sdk import (
    AlreadyExists,
    Attachment,
    Capability,
    Command,
    CrashReports,
    Description,
    DeviceFact,
    DeviceLost,
    DeviceRequest,
    DeviceStatus,
    Driver,
    DriverSettings,
    Entry,
    EntryType,
    Exec,
    Exit,
    Files,
    Health,
    HealthState,
    ImageBuild,
    InvalidArgument,
    Lease,
    Measure,
    Mend,
    NotFound,
    Output,
    Ports,
    Process,
    ProcessInfo,
    Provision,
    Recovery,
    RecoveryState,
    Remedy,
    Report,
    ReversePorts,
    Sample,
    Session,
    Sighting,
    Stream,
    Template,
    TerminalSize,
    Unavailable,
    WrongState,
    hookimpl,
    verb,
)

AT = datetime(2026, 1, 2, 3, 4, 5, 678900, tzinfo=UTC)
ODD_NAME = "/caf\udce9"  # the name of a file whose bytes are no UTF-8


class ToySettings(DriverSettings):
    """What can be set."""

    devices: int = 1
    fail: str = ""


class Blink(Capability):
    """A capability that no host has heard of when it was built."""

    capability = "blink"

    @abstractmethod
    @verb(deadline=5)
    async def blink(self, times: int, *, colour: str = "red", pause: float = float("inf")) -> Sequence[str]:
        """Blink, and say each colour."""

    @abstractmethod
    @verb(deadline=5)
    async def fail(self, how: str) -> int:
        """Fail in the way that was asked for."""

    @abstractmethod
    @verb(deadline=5)
    async def count(self, up_to: int, report: Callable[[int], Awaitable[None]]) -> int:
        """Report every number below ``up_to``."""


def fact(identity: str) -> DeviceFact:
    return DeviceFact(
        identity=identity,
        platform="toy",
        name=f"Toy {identity}",
        status=DeviceStatus.READY,
        capabilities=("exec", "files", "measure", "ports", "reverse_ports", "crash_reports", "blink"),
        facts={"colour": "réd"},
        handle=f"handle-{identity}",
    )


class ToyDriver(Driver, Provision, ImageBuild, Mend):
    """Devices in memory."""

    name = "toy"
    settings_type = ToySettings

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        if context.settings.fail == "init":
            raise ZeroDivisionError("a bug in the constructor")
        self.open_sessions = 0
        self.events: list[str] = []
        self.devices = [f"toy-{number}" for number in range(context.settings.devices)]

    async def start(self) -> None:
        self.events.append("start")
        self.context.log("info", "toy_started", devices=len(self.devices))
        if self.context.settings.fail == "start":
            raise Unavailable("there is no ground to work on")

    async def stop(self) -> None:
        self.events.append("stop")

    async def describe(self) -> Description:
        return Description(
            name="toy",
            version="1.2",
            platforms=("toy",),
            capabilities=("exec", "files", "measure", "ports", "reverse_ports", "crash_reports", "blink", "provision"),
            health=Health(state=HealthState.HEALTHY, reason="all well"),
            slots=3,
        )

    async def watch(self, report: Report) -> NoReturn:
        for identity in self.devices:
            try:
                await report(Sighting(kind="seen", device=fact(identity)))
            except InvalidArgument as error:
                self.events.append(f"refused {error.message}")
        if self.context.settings.fail == "watch":
            raise Unavailable("the bus has gone")
        if self.context.settings.fail == "return":
            return  # type: ignore[misc]
        await trio.sleep_forever()
        raise AssertionError("unreachable")

    @asynccontextmanager
    async def open(self, device: DeviceFact, lease: Lease) -> AsyncIterator[Session]:
        await trio.lowlevel.checkpoint()
        if device.identity not in self.devices:
            raise DeviceLost(f"{device.identity} is not there", identity=device.identity)
        self.open_sessions += 1
        try:
            async with trio.open_nursery() as nursery:
                yield ToySession(device, lease, self, nursery)
                nursery.cancel_scope.cancel()
            await trio.lowlevel.checkpoint()
            self.events.append("session closed")
        except* DeviceLost as group:
            raise group.exceptions[0] from None
        finally:
            self.open_sessions -= 1

    async def recover(self, handle: str) -> Recovery:
        identity = handle.removeprefix("handle-")
        if identity in self.devices:
            return Recovery(state=RecoveryState.RUNNING, reason="it is there", device=fact(identity))
        return Recovery(state=RecoveryState.LOST, reason="it is gone")

    async def create(self, request: DeviceRequest) -> DeviceFact:
        await trio.lowlevel.checkpoint()
        if request.template != "tin":
            raise NotFound(f"there is no template {request.template!r}", template=request.template)
        self.devices.append(request.identity)
        return fact(request.identity)

    async def destroy(self, identity: str) -> None:
        if identity in self.devices:
            self.devices.remove(identity)

    async def templates(self) -> Sequence[Template]:
        return [Template(name="tin", warm=False, vcpus=1, memory=2**20, disk=2**40, size=7, created=AT)]

    async def build_image(
        self, name: str, report: Callable[[str], Awaitable[None]], *, rebuild: bool = False
    ) -> Template:
        for step in ("cut", "bend", "paint" if rebuild else "keep"):
            await report(step)
        return Template(name=name, warm=True, vcpus=1, memory=2**20, disk=2**40, size=7, created=AT)

    async def remedies(self, identity: str) -> Sequence[Remedy]:
        return [Remedy.RECONNECT, Remedy.REBOOT]

    async def mend(self, identity: str, remedy: Remedy) -> str:
        return f"{identity} was mended by {remedy.value}"


class BrokenConnection(trio.abc.Stream):
    """A connection whose other end has gone."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        raise trio.BrokenResourceError("it was reset")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class ToySession(Session, Exec, Files, Measure, Ports, ReversePorts, CrashReports, Blink):
    """One toy in use."""

    def __init__(self, device: DeviceFact, lease: Lease, driver: ToyDriver, nursery: trio.Nursery) -> None:
        self.device = device
        self.lease = lease
        self.driver = driver
        self.files: dict[str, bytes] = {"/hello": b"hello, world", ODD_NAME: b"odd"}
        self._nursery = nursery

    async def start(self, command: Command) -> Process:
        await trio.lowlevel.checkpoint()
        match command.argv[0]:
            case "echo" | "cat" | "sleep" | "flood" | "drain" | "crash":
                return ToyProcess(command, self.driver)
        raise NotFound(f"there is no program {command.argv[0]!r}", program=command.argv[0])

    async def attach(self, tag: str, *, replay: bool = False) -> Process:
        raise NotFound(f"there is no process {tag!r}")

    async def processes(self) -> Sequence[ProcessInfo]:
        return [ProcessInfo(pid=1, command="init"), ProcessInfo(pid=7, command="worm", tag="w")]

    async def kill(self, pid: int, number: int = 9) -> None:
        raise NotFound(f"there is no process {pid}")

    async def read(self, path: str) -> trio.abc.ReceiveStream:
        if path.startswith("/endless"):
            return Endless(int(path.rpartition("-")[2]), self.driver)
        if path not in self.files:
            raise NotFound(f"there is no file {path!r}")
        return Bytes(self.files[path], self.driver)

    async def write(
        self, path: str, source: AsyncIterable[bytes], *, mode: int = 0o644, user: str | None = None
    ) -> int:
        if path == "/":
            raise InvalidArgument("the path is a directory")
        data = bytearray()
        async for chunk in source:
            data += chunk
            if path == "/full" and len(data) > 100_000:
                raise AlreadyExists("the disk is full enough")
        self.files[path] = bytes(data)
        return len(data)

    async def list(self, path: str, *, depth: int = 1) -> Sequence[Entry]:
        if path == "/many":
            return [self._entry(f"/many/{number}") for number in range(depth)]
        return tuple([self._entry(name) for name in sorted(self.files)])

    async def stat(self, path: str) -> Entry:
        if path not in self.files:
            raise NotFound(f"there is no file {path!r}")
        return self._entry(path)

    def _entry(self, path: str) -> Entry:
        name = path.rpartition("/")[2]
        size = len(self.files.get(path, b""))
        return Entry(path=path, name=name, type=EntryType.FILE, size=size, mode=0o644, modified=1.5)

    async def mkdir(self, path: str, *, mode: int = 0o755, user: str | None = None) -> Entry:
        raise AlreadyExists(f"{path!r} exists, mode {mode:o}, user {user}")

    async def remove(self, path: str) -> None:
        self.files.pop(path, None)

    async def sample(self) -> Sample:
        return Sample(at=AT, cpu=12.5, memory=2**40, disk=0)

    async def connect_port(self, port: int) -> trio.abc.Stream:
        if port == 1:
            raise Unavailable("nothing listens there")
        if port == 2:
            return BrokenConnection()
        send, receive = trio.testing.memory_stream_one_way_pair()
        return trio.StapledStream(send, receive)

    async def reverse_port(self, device_port: int, host_port: int) -> int:
        return device_port or 40000 + host_port % 1000

    async def crash_reports(self, *, since: datetime | None = None) -> Sequence[Attachment]:
        name = "all" if since is None else since.isoformat()
        return [Attachment(reference="r1", name=name, media_type="text/plain")]

    async def blink(self, times: int, *, colour: str = "red", pause: float = float("inf")) -> Sequence[str]:
        return [f"{colour} {pause}"] * times

    async def fail(self, how: str) -> int:
        await trio.lowlevel.checkpoint()
        match how:
            case "bug":
                raise ZeroDivisionError("a bug in a verb")
            case "group":
                raise ExceptionGroup("a nursery", [WrongState("it is asleep", state="asleep")])
            case "lie":
                return "not a number"  # type: ignore[return-value]
            case "object":
                return object()  # type: ignore[return-value]
            case "huge":
                return "x" * 17 * 2**20  # type: ignore[return-value]
            case "hang":
                await trio.sleep_forever()
            case "slow":
                with trio.CancelScope(shield=True):
                    await trio.sleep(0.5)
            case "deaf":
                with trio.CancelScope(shield=True):
                    await trio.sleep(30)
            case "vanish":
                self._nursery.start_soon(self._vanish)
            case "lose":
                raise DeviceLost("it fell off the table", height=1.5, where=[1, 2])
        return 0

    async def _vanish(self) -> None:
        raise DeviceLost("it fell off the table")

    async def count(self, up_to: int, report: Callable[[int], Awaitable[None]]) -> int:
        taken = 0
        for number in range(up_to):
            await report(number)
            taken += 1
        return taken


class ToyProcess(Process):
    """``echo`` says its arguments, ``cat`` what it is sent, ``flood`` and ``drain`` so many bytes, ``sleep``
    nothing. The end of ``drain`` comes when all has been taken."""

    def __init__(self, command: Command, driver: ToyDriver) -> None:
        self._driver = driver
        self.pid = 42
        self.tag = command.tag
        self._command = command
        self._input_send, self._input = trio.open_memory_channel[bytes](1)
        self._ended = trio.Event()
        self._exit = Exit(code=0)
        self.size = TerminalSize()

    async def __aiter__(self) -> AsyncIterator[Output]:
        program, *args = self._command.argv
        if program == "echo":
            for number, word in enumerate(args):
                yield Output(stream=Stream.STDERR if number % 2 else Stream.STDOUT, data=word.encode())
                await trio.lowlevel.checkpoint()
        elif program == "cat":
            async for data in self._input:
                yield Output(stream=Stream.STDOUT, data=data)
        elif program in ("flood", "drain"):
            for _ in range(int(args[0]) // 65536):
                yield Output(stream=Stream.STDOUT, data=bytes(65536))
                await trio.lowlevel.checkpoint()
        elif program == "crash":
            raise DeviceLost("it fell off the table")
        else:
            await self._ended.wait()
        self._ended.set()

    async def send(self, data: bytes) -> None:
        if not self._command.stdin:
            raise WrongState("the standard input was not asked for")
        try:
            await self._input_send.send(data)
        except trio.ClosedResourceError:
            raise WrongState("the standard input is closed") from None

    async def close_stdin(self) -> None:
        self._input_send.close()
        await trio.lowlevel.checkpoint()

    async def wait(self) -> Exit:
        if self._command.argv[0] in ("echo", "flood"):
            return self._exit
        await self._ended.wait()
        return self._exit

    async def signal(self, number: int) -> None:
        self._exit = Exit(code=None, signal=number)
        self._ended.set()

    async def resize(self, size: TerminalSize) -> None:
        if self._command.terminal is None:
            raise WrongState("the process has no terminal")
        self._exit = Exit(code=size.columns)

    async def aclose(self) -> None:
        self._driver.events.append("process closed")
        self._input_send.close()
        self._ended.set()
        await trio.lowlevel.checkpoint()


class Bytes(trio.abc.ReceiveStream):
    """A file as a stream."""

    def __init__(self, data: bytes, driver: ToyDriver) -> None:
        self._data = data
        self._driver = driver
        self._closed = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        taken, self._data = self._data[:max_bytes], self._data[max_bytes or len(self._data) :]
        return taken

    async def aclose(self) -> None:
        self._driver.events.append("stream closed")
        await trio.lowlevel.checkpoint()


class Endless(Bytes):
    """So many MiB of zeros, and then an error."""

    def __init__(self, size: int, driver: ToyDriver) -> None:
        super().__init__(b"", driver)
        self._left = size * 2**20

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        if self._left <= 0:
            raise DeviceLost("it fell off the table")
        self._left -= 65536
        return bytes(65536)


@hookimpl
def anvil_drivers() -> list[type[Driver]]:
    return [ToyDriver]
