"""Phones that exist in memory alone, for the lab of ``tests/support/lab.py``: apps, their tests, screen, log, crashes.

A package is what :func:`package` returns. An app with tests runs them when it is the target of a run: each takes the
time, and ends in the way, that its :class:`Scripted` says.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
import trio
import trio.testing

from anvild.sdk import (
    AlreadyExists,
    App,
    Apps,
    AppTests,
    Attachment,
    Attachments,
    CrashReports,
    Description,
    DeviceFact,
    Driver,
    DriverContext,
    Health,
    HealthState,
    InvalidArgument,
    Logs,
    NotFound,
    Power,
    ResourceExhausted,
    Screen,
    Session,
    Sighting,
    TestCase,
    TestProgress,
    TestRequest,
    TestStatus,
    TestSummary,
    WrongState,
)
from tests.support.lab import FakeDevice, FakeDriver, FakeSession, Lab

__all__ = ["PHONE", "PNG", "Phone", "PhoneSession", "Scripted", "package", "phone_driver", "plug_phone"]

PHONE = (
    "app_tests",
    "apps",
    "attachments",
    "crash_reports",
    "exec",
    "files",
    "logs",
    "power",
    "screen",
)
PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)
MAGIC = b"PACKAGE "


class Scripted(msgspec.Struct, frozen=True, kw_only=True):
    """A test of an app. ``wait`` names a gate of the lab that it waits for; ``crash`` ends the runner with it; an
    ``attachment`` is the text that it attaches."""

    suite: str
    name: str
    status: TestStatus = TestStatus.PASSED
    message: str | None = None
    trace: str | None = None
    wait: str | None = None
    crash: bool = False
    attachment: str | None = None


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """What is in a package."""

    app: App
    platform: str
    tests: tuple[Scripted, ...] = ()


def package(
    identifier: str, *tests: Scripted, version: str = "1.0", platform: str = "phone", padding: int = 0
) -> bytes:
    """The package of an app, ``padding`` bytes larger than it need be."""
    content = Content(app=App(identifier=identifier, version=version), platform=platform, tests=tests)
    return MAGIC + msgspec.json.encode(content) + b"\n" + bytes(padding)


@dataclass
class Phone(FakeDevice):
    """A phone: what is installed, what runs, and all that was asked of it. ``capacity`` is its room in bytes."""

    platform: str = "phone"
    capabilities: tuple[str, ...] = PHONE
    lab: Lab | None = None
    capacity: int = 1 << 30
    used: dict[str, int] = field(default_factory=dict)
    apps: dict[str, Content] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)
    testing: int = 0
    requests: list[TestRequest] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    boots: int = 1
    crashes: list[tuple[datetime, str]] = field(default_factory=list)
    launched: list[tuple[str, tuple[str, ...], dict[str, str]]] = field(default_factory=list)

    def session(self, fact: DeviceFact) -> Session:
        return PhoneSession(fact, self)

    def free(self) -> int:
        return self.capacity - sum(self.used.values())

    def wiped(self) -> None:
        """What a driver's cleaning does: nothing of a lease is left."""
        self.apps.clear()
        self.used.clear()
        self.running.clear()


class PhoneSession(FakeSession, Apps, AppTests, Screen, Logs, CrashReports, Attachments, Power):
    """All verbs of phones, in memory."""

    def __init__(self, fact: DeviceFact, phone: Phone) -> None:
        super().__init__(fact, phone)
        self.phone = phone
        self.dead = False
        self._left: dict[str, bytes] = {}
        self._recording = False

    async def _receive(self, where: str, source: AsyncIterable[bytes]) -> bytes:
        """Take what is sent, as far as there is room. Whatever happens, no half of it stays."""
        data = bytearray()
        async for chunk in source:
            self._use()
            data += chunk
            if len(data) > self.phone.free():
                raise ResourceExhausted(f"no space left on the device for {where}")
        return bytes(data)

    async def write(
        self, path: str, source: AsyncIterable[bytes], *, mode: int = 0o644, user: str | None = None
    ) -> int:
        self._use()
        data = await self._receive(path, source)
        self.phone.files[path] = data
        self.phone.used[path] = len(data)
        return len(data)

    async def install_app(self, source: AsyncIterable[bytes], *, size: int, replace: bool = True) -> App | None:
        self._use()
        data = await self._receive("an app", source)
        if len(data) != size:
            raise InvalidArgument(f"{size} bytes were announced and {len(data)} came")
        try:
            content = msgspec.json.decode(data.removeprefix(MAGIC).partition(b"\n")[0], type=Content)
        except msgspec.MsgspecError:
            raise InvalidArgument("Failure [INSTALL_PARSE_FAILED_NOT_APK]") from None
        if content.platform != self.phone.platform:
            raise InvalidArgument(f"the package is for {content.platform}, and this is a {self.phone.platform}")
        identifier = content.app.identifier
        if identifier in self.phone.apps and not replace:
            raise AlreadyExists(f"{identifier} is installed")
        self.phone.apps[identifier] = content
        self.phone.used[identifier] = size
        self.phone.log.append(f"installed {identifier}")
        return content.app

    async def uninstall_app(self, app: str) -> None:
        self._installed(app)
        del self.phone.apps[app], self.phone.used[app]
        self.phone.running.discard(app)

    async def launch_app(
        self, app: str, *, arguments: Sequence[str] = (), env: Mapping[str, str] | None = None
    ) -> None:
        self._installed(app)
        self.phone.running.add(app)
        self.phone.launched.append((app, tuple(arguments), dict(env or {})))
        self.phone.log.append(f"launched {app}")

    async def stop_app(self, app: str) -> None:
        self._installed(app)
        self.phone.running.discard(app)

    async def list_apps(self, *, system: bool = False) -> Sequence[App]:
        self._use()
        return [self.phone.apps[identifier].app for identifier in sorted(self.phone.apps)]

    async def clear_app(self, app: str) -> None:
        await self.stop_app(app)
        self.phone.log.append(f"cleared {app}")

    async def run_tests(self, request: TestRequest, report: Callable[[TestProgress], Awaitable[None]]) -> TestSummary:
        content = self._installed(request.target)
        self.phone.requests.append(request)
        chosen = [test for test in content.tests if _chosen(test, request)]
        self.phone.testing += 1
        try:
            await report(TestProgress(total=len(chosen)))
            return await self._each(chosen, report)
        finally:
            self.phone.testing -= 1

    async def _each(self, tests: Sequence[Scripted], report: Callable[[TestProgress], Awaitable[None]]) -> TestSummary:
        for number, test in enumerate(tests, start=1):
            name = f"{test.suite}#{test.name}"
            await report(TestProgress(begun=name))
            await report(TestProgress(output=f"INSTRUMENTATION_STATUS: test={name}\n"))
            self.phone.log.append(f"testing {name}")
            if test.wait is not None:
                assert self.phone.lab is not None
                await self.phone.lab.gate(test.wait).wait()
            await trio.lowlevel.checkpoint()
            self._use()
            if test.attachment is not None:
                await report(TestProgress(attachment=self._leave(f"{test.name}.txt", test.attachment, "text/plain")))
            if test.crash:
                self.phone.crashes.append((datetime.now(UTC), f"{test.suite} crashed"))
            ended = TestCase(
                suite=test.suite,
                name=test.name,
                status=TestStatus.ERROR if test.crash else test.status,
                seconds=0.25,
                message=test.message,
                trace=test.trace,
            )
            await report(TestProgress(ended=ended))
            if test.crash:
                return TestSummary(complete=False, reason="the process of the app crashed", cases=number)
        return TestSummary(complete=True, reason="the runner has ended", cases=len(tests))

    async def screenshot(self) -> trio.abc.ReceiveStream:
        self._use()
        return await _stream(PNG)

    async def start_recording(self) -> None:
        self._use()
        if self._recording:
            raise WrongState("the screen is recorded already")
        self._recording = True

    async def stop_recording(self) -> Sequence[Attachment]:
        self._use()
        if not self._recording:
            raise WrongState("nothing is recorded")
        self._recording = False
        return [self._leave(f"part{number}.mp4", f"video {number}", "video/mp4") for number in (1, 2)]

    async def log_mark(self) -> str:
        self._use()
        return f"{self.phone.boots}:{len(self.phone.log)}"

    async def logs(self, *, since: str | None = None, follow: bool = False) -> trio.abc.ReceiveStream:
        self._use()
        assert not follow
        boot, _, place = (since or f"{self.phone.boots}:0").partition(":")
        if int(boot) != self.phone.boots:
            raise InvalidArgument("the device has restarted since that mark")
        return await _stream("".join(f"{line}\n" for line in self.phone.log[int(place) :]).encode())

    async def crash_reports(self, *, since: datetime | None = None) -> Sequence[Attachment]:
        self._use()
        found = [text for at, text in self.phone.crashes if since is None or at >= since]
        return [self._leave(f"crash-{number}.txt", text, "text/plain") for number, text in enumerate(found, start=1)]

    async def fetch(self, reference: str) -> trio.abc.ReceiveStream:
        self._use()
        if reference not in self._left:
            raise NotFound(f"there is no attachment {reference}")
        return await _stream(self._left[reference])

    async def reboot(self) -> None:
        self._use()
        self.phone.boots += 1
        self.phone.running.clear()
        self.phone.log[:] = ["booted"]
        self._recording = False

    def _installed(self, app: str) -> Content:
        self._use()
        if app not in self.phone.apps:
            raise NotFound(f"{app} is not installed")
        return self.phone.apps[app]

    def _leave(self, name: str, text: str, media_type: str) -> Attachment:
        reference = f"{len(self._left)}/{name}"
        self._left[reference] = text.encode()
        return Attachment(reference=reference, name=name, media_type=media_type, size=len(text))


def _chosen(test: Scripted, request: TestRequest) -> bool:
    names = {test.suite, f"{test.suite}#{test.name}"}
    return (not request.only or not names.isdisjoint(request.only)) and names.isdisjoint(request.skip)


async def _stream(data: bytes) -> trio.abc.ReceiveStream:
    send, receive = trio.testing.memory_stream_one_way_pair()
    await send.send_all(data)
    await send.aclose()
    return receive


def plug_phone(lab: Lab, identity: str, **values: Any) -> Phone:
    """Attach a phone, or attach it again."""
    known = lab.devices.get(identity)
    phone = known if isinstance(known, Phone) else Phone(identity, lab=lab, **values)
    lab.devices[identity] = phone
    phone.plugged = True
    lab.say(Sighting(kind="seen", device=phone.fact()))
    return phone


def phone_driver(lab: Lab) -> type[Driver]:
    """The driver of a lab's phones, as a daemon loads it."""

    class PhoneDriver(FakeDriver):
        name = "phones"

        def __init__(self, context: DriverContext[Any]) -> None:
            super().__init__(context, lab)

        async def describe(self) -> Description:
            return Description(
                name=self.name,
                version="1.0",
                platforms=("phone",),
                capabilities=PHONE,
                health=Health(state=HealthState.HEALTHY, reason="all well"),
            )

        async def clean(self, fact: DeviceFact) -> None:
            await super().clean(fact)
            phone = lab.devices[fact.identity]
            if isinstance(phone, Phone):
                phone.wiped()

    return PhoneDriver
