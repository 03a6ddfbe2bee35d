"""A driver of devices that people carry, in memory, which keeps the rules about them. Its members can be replaced."""

from __future__ import annotations

import struct
import zlib
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import trio
import trio.testing

from anvild.sdk import (
    AlreadyExists,
    App,
    Apps,
    AppTests,
    Attachment,
    Attachments,
    CapabilityMissing,
    CrashReports,
    Description,
    DeviceFact,
    DeviceLost,
    DeviceStatus,
    Driver,
    Health,
    HealthState,
    InvalidArgument,
    Lease,
    Logs,
    Mend,
    NotFound,
    Ports,
    Power,
    Remedy,
    Report,
    ReversePorts,
    Screen,
    Session,
    Sighting,
    TestCase,
    TestProgress,
    TestRequest,
    TestStatus,
    TestSummary,
    Unavailable,
    WrongState,
)
from anvild.sdk.testing import AppProfile, PortsProfile, Profile, TestsProfile

OFFERED = ("apps", "app_tests", "screen", "logs", "ports", "reverse_ports", "crash_reports", "attachments", "power")
MAGIC = b"PACKAGE:"
TESTS = [TestStatus.PASSED, TestStatus.FAILED, TestStatus.PASSED]


def pocket_profile(folder: Path) -> Profile:
    """What the kit may use on it; the package is written into the folder."""
    package = folder / "app.package"
    package.write_bytes(MAGIC + b"org.example.app" + bytes(2000))
    return Profile(
        app=AppProfile(package=package, identifier="org.example.app"),
        tests=TestsProfile(target="runner", passed=2, failed=1),
        ports=PortsProfile(greeting=7),
        appear_seconds=0.2,
    )


def png() -> bytes:
    """A picture of one black point."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0\0")), (b"IEND", b"")]
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


async def stream_of(data: bytes, *, end: bool = True) -> trio.abc.ReceiveStream:
    send, receive = trio.testing.memory_stream_one_way_pair()
    await send.send_all(data)
    if end:
        await send.aclose()
    return receive


class PocketSession(Session, Apps, AppTests, Screen, Logs, Ports, ReversePorts, CrashReports, Attachments, Power):
    """A session on the device."""

    def __init__(self, device: DeviceFact, state: dict[str, Any]) -> None:
        self.device = device
        self.state = state
        self.apps: dict[str, App] = state.setdefault("apps", {})
        self.recording = False
        self.taken: set[int] = set()

    async def install_app(self, source: AsyncIterable[bytes], *, size: int, replace: bool = True) -> App | None:
        data = b"".join([chunk async for chunk in source])
        if not data.startswith(MAGIC):
            raise InvalidArgument("this is no package")
        app = App(identifier=data[len(MAGIC) :].rstrip(b"\0").decode())
        if app.identifier in self.apps and not replace:
            raise AlreadyExists(f"{app.identifier} is installed")
        self.apps[app.identifier] = app
        return app

    def known(self, app: str) -> None:
        if app not in self.apps:
            raise NotFound(f"{app} is not installed")

    async def uninstall_app(self, app: str) -> None:
        self.known(app)
        del self.apps[app]

    async def launch_app(
        self, app: str, *, arguments: Sequence[str] = (), env: Mapping[str, str] | None = None
    ) -> None:
        self.known(app)

    async def stop_app(self, app: str) -> None:
        self.known(app)

    async def clear_app(self, app: str) -> None:
        self.known(app)

    async def list_apps(self, *, system: bool = False) -> Sequence[App]:
        found = [*self.apps.values(), *([App(identifier="com.system", system=True)] if system else [])]
        return sorted(found, key=lambda app: app.identifier)

    async def run_tests(self, request: TestRequest, report: Callable[[TestProgress], Awaitable[None]]) -> TestSummary:
        if request.target != "runner":
            raise NotFound(f"there is no runner {request.target!r}")
        names = {f"Suite#test{number}": status for number, status in enumerate(TESTS)}
        chosen = [name for name in names if name in (request.only or names)]
        await report(TestProgress(total=len(chosen)))
        for name in chosen:
            suite, _, test = name.partition("#")
            await report(TestProgress(begun=name))
            await report(TestProgress(output=f"{name}\n"))
            message = None if names[name] is TestStatus.PASSED else "it failed"
            await report(TestProgress(ended=TestCase(suite=suite, name=test, status=names[name], message=message)))
        return TestSummary(complete=True, reason="all tests ran", cases=len(chosen))

    async def screenshot(self) -> trio.abc.ReceiveStream:
        return await stream_of(png())

    async def start_recording(self) -> None:
        if self.recording:
            raise WrongState("it records already")
        self.recording = True

    async def stop_recording(self) -> Sequence[Attachment]:
        if not self.recording:
            raise WrongState("nothing is recorded")
        self.recording = False
        return [Attachment(reference="part-1", name="part-1.mp4", media_type="video/mp4")]

    async def log_mark(self) -> str:
        return "line-1"

    async def logs(self, *, since: str | None = None, follow: bool = False) -> trio.abc.ReceiveStream:
        if since not in (None, "line-1"):
            raise InvalidArgument(f"{since!r} is no mark")
        return await stream_of(b"" if since else "grüße\n".encode(), end=not follow)

    async def connect_port(self, port: int) -> trio.abc.Stream:
        if not 0 < port < 65536:
            raise InvalidArgument(f"{port} is no port")
        if port != 7:
            raise Unavailable(f"nothing listens on {port}")
        here, there = trio.testing.memory_stream_pair()
        await there.send_all(b"hello")
        return here

    async def reverse_port(self, device_port: int, host_port: int) -> int:
        chosen = device_port or 40_000
        if chosen in self.taken:
            raise AlreadyExists(f"port {chosen} is taken")
        self.taken.add(chosen)
        return chosen

    async def crash_reports(self, *, since: datetime | None = None) -> Sequence[Attachment]:
        if since is not None and since > datetime.now(UTC):
            return []
        return [Attachment(reference="crash-1", name="crash-1.txt", media_type="text/plain")]

    async def fetch(self, reference: str) -> trio.abc.ReceiveStream:
        if reference not in ("part-1", "crash-1"):
            raise NotFound(f"there is no attachment {reference!r}")
        return await stream_of(b"content")

    async def reboot(self) -> None:
        await trio.lowlevel.checkpoint()


class PocketDriver(Driver, Mend):
    """Has one device that is always there."""

    name = "pocket"
    session: type[PocketSession] = PocketSession

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self.state: dict[str, Any] = {}

    def fact(self) -> DeviceFact:
        return DeviceFact(
            identity="pocket-1", platform="pocket", name="Pocket", status=DeviceStatus.READY, capabilities=OFFERED
        )

    async def describe(self) -> Description:
        return Description(
            name=self.name,
            version="1",
            platforms=("pocket",),
            capabilities=(*OFFERED, "mend"),
            health=Health(state=HealthState.HEALTHY, reason="all is well"),
        )

    async def watch(self, report: Report) -> NoReturn:
        await report(Sighting(kind="seen", device=self.fact()))
        await trio.sleep_forever()

    @asynccontextmanager
    async def open(self, device: DeviceFact, lease: Lease) -> AsyncIterator[Session]:
        if device.identity != "pocket-1":
            raise DeviceLost("there is no such device")
        yield self.session(self.fact(), self.state)

    async def remedies(self, identity: str) -> Sequence[Remedy]:
        if identity != "pocket-1":
            raise NotFound("there is no such device")
        return [Remedy.RECONNECT, Remedy.REBOOT]

    async def mend(self, identity: str, remedy: Remedy) -> str:
        if remedy not in await self.remedies(identity):
            raise CapabilityMissing(f"there is no {remedy} here")
        return "it was done"
