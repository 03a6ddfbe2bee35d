"""Rules about devices that people carry: apps, tests, screen, logs, ports, reports, attachments."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import trio

from ...apps import Apps, AppTests, Attachments, CrashReports, Logs, Ports, ReversePorts, Screen
from ...capabilities import Exec
from ...errors import AlreadyExists, AnvilError, InvalidArgument, NotFound, PermissionDenied, Unavailable, WrongState
from ...values import App, Attachment, Command, TestCase, TestProgress, TestRequest, TestStatus, TestSummary
from ..bench import Bench
from ..profile import AppProfile, TestsProfile
from ..rules import Broken, Level, require
from ..trying import cancelled, limited, refused, valid
from .book import BOOK

PNG = b"\x89PNG\r\n\x1a\n"
CHUNK = 64 * 1024
NO_APP = "org.example.conformance.nosuchapp"
TEST_SECONDS = 900.0


@BOOK.of(Apps, "list", Level.BRONZE)
async def lists(bench: Bench, device: Apps) -> None:
    """The apps are listed, sorted by identifier, each once; with the platform's own, there are no fewer."""
    found = await limited("list_apps", 60, device.list_apps)
    everything = await limited("list_apps", 60, lambda: device.list_apps(system=True))
    for each in (found, everything):
        valid(list(each), list[App], "list_apps")
        names = [app.identifier for app in each]
        require(names == sorted(set(names)), f"the apps are not sorted, or listed twice: {names}")
    require({each.identifier for each in found} <= {each.identifier for each in everything}, "apps are missing")


@BOOK.of(Apps, "install", Level.SILVER, seconds=1200)
async def installs(bench: Bench, device: Apps) -> None:
    """An app is installed, listed, installed over, launched, stopped (twice), cleared and removed; the second time
    without `replace` raises AlreadyExists."""
    app = _app(bench)
    await _without(device, app)
    try:
        made = await _install(device, app.package)
        require(made is None or made.identifier == app.identifier, f"install_app returned {made}")
        require(app.identifier in await _names(device), "the app is not listed after its installation")
        await _install(device, app.package)
        await refused("installing without replace", AlreadyExists, lambda: _install(device, app.package, replace=False))
        await limited("launch_app", 60, lambda: device.launch_app(app.identifier))
        for _ in range(2):
            await limited("stop_app", 60, lambda: device.stop_app(app.identifier))
        await limited("clear_app", 60, lambda: device.clear_app(app.identifier))
        await limited("uninstall_app", 120, lambda: device.uninstall_app(app.identifier))
        require(app.identifier not in await _names(device), "the app is listed after its removal")
    finally:
        with trio.CancelScope(shield=True):
            await _without(device, app)


@BOOK.of(Apps, "unknown", Level.SILVER)
async def unknown(bench: Bench, device: Apps) -> None:
    """Verbs on an app that is not installed raise NotFound."""
    await refused("uninstalling no app", NotFound, lambda: device.uninstall_app(NO_APP))
    await refused("launching no app", NotFound, lambda: device.launch_app(NO_APP))
    await refused("stopping no app", NotFound, lambda: device.stop_app(NO_APP))
    await refused("clearing no app", NotFound, lambda: device.clear_app(NO_APP))


@BOOK.of(Apps, "broken-package", Level.SILVER)
async def broken_package(bench: Bench, device: Apps) -> None:
    """A package that is none raises InvalidArgument, and installs nothing."""
    before = await _names(device)
    broken = bench.profile.app.broken if bench.profile.app else None
    data = await trio.to_thread.run_sync(broken.read_bytes) if broken else bytes(range(256)) * 64
    await refused(
        "installing what is no package", InvalidArgument, lambda: device.install_app(_chunks(data), size=len(data))
    )
    require(await _names(device) == before, "something was installed")


@BOOK.of(Apps, "install-cancelled", Level.GOLD)
async def install_cancelled(bench: Bench, device: Apps) -> None:
    """An installation that is cancelled ends within a second and leaves no app."""
    app = _app(bench)
    await _without(device, app)
    data = await trio.to_thread.run_sync(app.package.read_bytes)

    async def stuck() -> AsyncIterator[bytes]:
        yield data[: len(data) // 2]
        await trio.sleep_forever()

    await cancelled("install_app", lambda: device.install_app(stuck(), size=len(data)))
    require(app.identifier not in await _names(device), "half an app is installed")


@BOOK.of(AppTests, "run", Level.SILVER, seconds=TEST_SECONDS + 60)
async def runs_tests(bench: Bench, device: AppTests) -> None:
    """Tests run to their end; each begins, then ends once with its status; the summary counts them; the raw output of
    the runner comes too."""
    tests = _tests(bench)
    await _prepare(device, tests)
    told: list[TestProgress] = []

    async def report(progress: TestProgress) -> None:
        told.append(progress)
        await trio.lowlevel.checkpoint()

    request = TestRequest(target=tests.target, app=tests.app, arguments=tests.arguments)
    summary = await limited("run_tests", TEST_SECONDS, lambda: device.run_tests(request, report))
    valid(summary, TestSummary, "run_tests")
    valid(told, list[TestProgress], "run_tests")
    require(summary.complete, f"the runner did not come to its end: {summary.reason}")
    one = [sum(getattr(each, name) is not None for name in each.__struct_fields__) for each in told]
    require(set(one) <= {1}, "a progress tells of none or of several things")
    ended = [each.ended for each in told if each.ended]
    begun = [each.begun for each in told if each.begun]
    names = [f"{each.suite}#{each.name}" for each in ended]
    require(len(set(names)) == len(names), f"tests ended twice: {names}")
    require(set(begun) <= set(names), f"tests began and did not end: {set(begun) - set(names)}")
    require(summary.cases == len(ended), f"the summary counts {summary.cases} tests of {len(ended)}")
    require("".join(each.output or "" for each in told), "there was no raw output")
    for count, statuses in (
        (tests.passed, {TestStatus.PASSED}),
        (tests.failed, {TestStatus.FAILED, TestStatus.ERROR}),
    ):
        found = sum(each.status in statuses for each in ended)
        require(count in (None, found), f"{count} tests should be {' or '.join(statuses)}, and {found} are")
    silent = [each.name for each in ended if _bad(each) and not each.message]
    require(not silent, f"tests failed without a message: {', '.join(silent)}")


@BOOK.of(AppTests, "only", Level.SILVER, seconds=TEST_SECONDS + 60)
async def runs_one(bench: Bench, device: AppTests) -> None:
    """One test that is named as `SUITE#TEST` runs alone."""
    tests = _tests(bench)
    await _prepare(device, tests)
    ended: list[str] = []

    async def report(progress: TestProgress) -> None:
        if progress.ended:
            ended.append(f"{progress.ended.suite}#{progress.ended.name}")
        await trio.lowlevel.checkpoint()

    request = TestRequest(target=tests.target, app=tests.app, arguments=tests.arguments)
    await limited("run_tests", TEST_SECONDS, lambda: device.run_tests(request, report))
    require(ended, "no test ended")
    chosen = ended[0]
    ended.clear()
    request = TestRequest(target=tests.target, app=tests.app, arguments=tests.arguments, only=(chosen,))
    await limited("run_tests", TEST_SECONDS, lambda: device.run_tests(request, report))
    require(ended == [chosen], f"{chosen} should run alone, and these ran: {ended}")


@BOOK.of(AppTests, "unknown", Level.SILVER)
async def unknown_runner(bench: Bench, device: AppTests) -> None:
    """A runner that is not installed raises NotFound or InvalidArgument, or is told by a summary that is not
    complete."""

    async def report(progress: TestProgress) -> None:
        await trio.lowlevel.checkpoint()

    request = TestRequest(target=f"{NO_APP}/no.such.Runner")
    try:
        summary = await limited("run_tests", 60, lambda: device.run_tests(request, report))
    except (NotFound, InvalidArgument):
        return
    except AnvilError as error:
        raise Broken(f"a runner that is not installed raised {error!r}") from error
    require(not summary.complete and summary.reason, f"a runner that is not installed came back as {summary}")


@BOOK.of(AppTests, "cancelled", Level.GOLD, seconds=TEST_SECONDS)
async def tests_cancelled(bench: Bench, device: AppTests) -> None:
    """Tests that are cancelled end within a second, and the next run works."""
    tests = _tests(bench)
    await _prepare(device, tests)

    async def report(progress: TestProgress) -> None:
        await trio.lowlevel.checkpoint()

    request = TestRequest(target=tests.target, app=tests.app, arguments=tests.arguments)
    await cancelled("run_tests", lambda: device.run_tests(request, report), after=0.3)
    summary = await limited("run_tests", TEST_SECONDS, lambda: device.run_tests(request, report))
    require(summary.complete, f"after a run that was cancelled, the runner said: {summary.reason}")


@BOOK.of(Screen, "screenshot", Level.BRONZE)
async def screenshots(bench: Bench, device: Screen) -> None:
    """A screenshot is a PNG, from its signature to its end."""
    data = await _whole(await limited("screenshot", 60, device.screenshot))
    require(data.startswith(PNG), f"the screenshot begins with {data[:8]!r}")
    require(data[-8:-4] == b"IEND", "the screenshot has no end")


@BOOK.rule("screen.recording", Level.SILVER, about=Screen, seconds=300)
async def records(bench: Bench) -> None:
    """A recording has at least one part, which can be fetched; starting twice and stopping nothing raise WrongState."""
    async with bench.session() as session:
        screen = session.require(Screen)
        await refused("stopping no recording", WrongState, screen.stop_recording)
        await limited("start_recording", 60, screen.start_recording)
        await refused("recording twice", WrongState, screen.start_recording)
        await trio.sleep(1)
        parts = await limited("stop_recording", 120, screen.stop_recording)
        valid(list(parts), list[Attachment], "stop_recording")
        require(parts, "the recording has no part")
        if isinstance(session, Attachments):
            data = await _whole(await session.fetch(parts[0].reference))
            require(data, "the first part is empty")


@BOOK.of(Logs, "read", Level.BRONZE)
async def reads_log(bench: Bench, device: Logs) -> None:
    """The log is a stream of UTF-8 that ends at the present."""
    data = await limited("reading the log", 60, lambda: _log(device))
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise Broken(f"the log is no UTF-8: {error}") from None


@BOOK.of(Logs, "since", Level.SILVER)
async def log_since(bench: Bench, device: Logs) -> None:
    """From a mark on, the log is no longer than the whole; a mark that is none raises InvalidArgument."""
    mark = await limited("log_mark", 30, device.log_mark)
    require(mark, "the mark is empty")
    late = await limited("reading the log", 60, lambda: _log(device, since=mark))
    whole = await limited("reading the log", 60, lambda: _log(device))
    require(len(late) <= len(whole), "the log since a mark is longer than the whole")

    async def wrong() -> bytes:
        return await _log(device, since="no such mark")

    await refused("a mark that is none", InvalidArgument, wrong)


@BOOK.of(Logs, "follow", Level.GOLD)
async def follows(bench: Bench, device: Logs) -> None:
    """A log that is followed stays open until its reader closes it, within a second of being cancelled."""
    mark = await limited("log_mark", 30, device.log_mark)

    async def follow() -> None:
        await _whole(await device.logs(since=mark, follow=True))
        raise Broken("a log that is followed came to an end")

    await cancelled("following the log", follow, after=0.5)
    await limited("reading the log", 60, lambda: _log(device, since=mark))


@BOOK.of(Ports, "closed", Level.SILVER)
async def closed_port(bench: Bench, device: Ports) -> None:
    """A port on which nothing listens raises Unavailable; one that there cannot be, InvalidArgument."""
    port = bench.profile.ports.closed
    await refused("connecting to a closed port", Unavailable, lambda: device.connect_port(port))
    for wrong in (-1, 70_000):
        await refused(f"port {wrong}", InvalidArgument, partial(device.connect_port, wrong))


@BOOK.of(Ports, "connect", Level.SILVER)
async def connects(bench: Bench, device: Ports) -> None:
    """What listens on a port of the device can be spoken to."""
    port = bench.profile.ports.greeting
    if port is None:
        raise Broken("the profile names no port that answers: set ports.greeting")
    async with _listening(bench, device):
        stream = await limited("connect_port", 30, lambda: device.connect_port(port))
        async with stream:
            await stream.send_all(b"hello\n")
            with trio.move_on_after(30):
                require(await stream.receive_some(), f"port {port} closed without a word")
                return
    raise Broken(f"port {port} says nothing")


@BOOK.rule("reverse_ports.reverse", Level.SILVER, about=ReversePorts)
async def reverses(bench: Bench) -> None:
    """A port of the device that leads to the host is free to choose, taken while its session lasts, and free again
    afterwards."""
    async with bench.session() as session:
        ports = session.require(ReversePorts)
        chosen = await limited("reverse_port", 30, lambda: ports.reverse_port(0, 9))
        require(0 < chosen < 65536, f"the device chose port {chosen}")
        await refused("a port that is taken", AlreadyExists, lambda: ports.reverse_port(chosen, 10))
    async with bench.session() as session:
        again = await limited("reverse_port", 30, lambda: session.require(ReversePorts).reverse_port(chosen, 9))
        require(again == chosen, f"port {chosen} was asked for, and {again} came back")


@BOOK.rule("crash_reports.list", Level.BRONZE, about=CrashReports)
async def lists_reports(bench: Bench) -> None:
    """Crash reports are listed with their types, those since tomorrow are none, and the first can be fetched."""
    async with bench.session() as session:
        reports = session.require(CrashReports)
        found = await limited("crash_reports", 120, reports.crash_reports)
        valid(list(found), list[Attachment], "crash_reports")
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        late = await limited("crash_reports", 120, lambda: reports.crash_reports(since=tomorrow))
        require(not late, f"there are reports since tomorrow: {late}")
        if found and isinstance(session, Attachments):
            require(await _whole(await session.fetch(found[0].reference)), "the first report is empty")


@BOOK.of(Attachments, "unknown", Level.SILVER)
async def unknown_attachment(bench: Bench, device: Attachments) -> None:
    """A reference that is none raises NotFound or InvalidArgument, and no path of the host is one."""
    for reference in ("no such reference", "/etc/passwd", "../../etc/passwd"):
        await refused(
            f"fetching {reference!r}",
            (NotFound, InvalidArgument, PermissionDenied),
            partial(device.fetch, reference),
        )


@asynccontextmanager
async def _listening(bench: Bench, device: Ports) -> AsyncIterator[None]:
    """Let the profile's program listen on the device while the block runs."""
    server = bench.profile.ports.server
    if not server:
        yield
        return
    if not isinstance(device, Exec):
        raise Broken("the profile names a program that listens, and the device runs none: unset ports.server")
    async with await limited("start", 30, lambda: device.start(Command(argv=server))) as process:
        outputs = aiter(process)
        await limited("the first output of ports.server", 30, lambda: anext(outputs))
        yield


def _app(bench: Bench) -> AppProfile:
    if bench.profile.app is None:
        raise Broken("the profile names no app to try: set app.package and app.identifier")
    return bench.profile.app


def _tests(bench: Bench) -> TestsProfile:
    if bench.profile.tests is None:
        raise Broken("the profile names no tests to run: set tests.target")
    return bench.profile.tests


def _bad(case: TestCase) -> bool:
    return case.status in (TestStatus.FAILED, TestStatus.ERROR)


async def _prepare(device: AppTests, tests: TestsProfile) -> None:
    if isinstance(device, Apps):
        for package in tests.packages:
            await _install(device, package)


async def _install(device: Apps, package: Path, *, replace: bool = True) -> App | None:
    data = await trio.to_thread.run_sync(package.read_bytes)
    return await limited("install_app", 900, lambda: device.install_app(_chunks(data), size=len(data), replace=replace))


async def _names(device: Apps) -> list[str]:
    return [each.identifier for each in await limited("list_apps", 60, device.list_apps)]


async def _without(device: Apps, app: AppProfile) -> None:
    if app.identifier in await _names(device):
        await limited("uninstall_app", 120, lambda: device.uninstall_app(app.identifier))


async def _chunks(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), CHUNK):
        yield data[start : start + CHUNK]


async def _log(device: Logs, *, since: str | None = None) -> bytes:
    return await _whole(await device.logs(since=since))


async def _whole(stream: trio.abc.ReceiveStream, limit: float = math.inf) -> bytes:
    data = bytearray()
    async with stream:
        while chunk := await stream.receive_some():
            data += chunk
    return bytes(data)
