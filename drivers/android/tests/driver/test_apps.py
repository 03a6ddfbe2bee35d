"""Apps, their tests, screen, logs, crash reports and ports of a simulated device, through the real adb server."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio

from anvild.sdk import (
    AlreadyExists,
    Command,
    DeviceLost,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    TestCase,
    TestProgress,
    TestRequest,
    TestStatus,
    TestSummary,
    Unavailable,
    WrongState,
    run,
)
from anvild_android.session.session import AndroidSession
from anvild_android.simulator import TestSpec, build_apk

APP, TESTS = "com.example.app", "com.example.app.test"
FOLDER = "/data/local/tmp/.anvil"
Collect = Callable[[trio.abc.ReceiveStream], Awaitable[bytes]]


async def package(content: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(content), 10_000):
        yield content[at : at + 10_000]


async def install(session: AndroidSession, content: bytes, **more: Any) -> Any:
    return await session.install_app(package(content), size=len(content), **more)


def apk_of(*tests: TestSpec) -> bytes:
    return build_apk(TESTS, target=APP, instrumentation=tests)


async def installed(session: AndroidSession) -> list[str]:
    return [app.identifier for app in await session.list_apps()]


# apps


async def test_an_app_s_life(session: AndroidSession) -> None:
    app = await install(session, build_apk(APP, version_code=7))
    assert (app.identifier, app.version, app.system) == (APP, "7", False)
    assert await installed(session) == [APP]
    everything = await session.list_apps(system=True)
    assert any(each.system for each in everything)
    assert [each.identifier for each in everything] == sorted(each.identifier for each in everything)
    await session.launch_app(APP, arguments=["mode=a b; c"])
    assert [each for each in await session.processes() if APP in each.command]
    await session.stop_app(APP)
    await session.stop_app(APP)
    assert not [each for each in await session.processes() if APP in each.command]
    await session.clear_app(APP)
    await session.uninstall_app(APP)
    assert await installed(session) == []
    for verb in (session.uninstall_app, session.launch_app, session.stop_app, session.clear_app):
        with pytest.raises(NotFound):
            await verb(APP)
        with pytest.raises(InvalidArgument):
            await verb("com.example; reboot")


async def test_an_app_is_replaced_or_not(session: AndroidSession) -> None:
    await install(session, build_apk(APP, version_code=1))
    app = await install(session, build_apk(APP, version_code=2))
    assert (app.identifier, app.version) == (APP, "2")
    with pytest.raises(AlreadyExists, match="ALREADY_EXISTS"):
        await install(session, build_apk(APP, version_code=3), replace=False)
    with pytest.raises(InvalidArgument, match="VERSION_DOWNGRADE"):
        await install(session, build_apk(APP, version_code=1))


async def test_bad_packages_leave_nothing(session: AndroidSession) -> None:
    good = build_apk(APP)
    for content, word in (
        (b"no package at all", "INSTALL_PARSE_FAILED_NOT_APK"),
        (good[: len(good) // 2], "INSTALL_PARSE_FAILED"),
        (build_apk(APP, valid=False), "INSTALL_PARSE_FAILED_NO_CERTIFICATES"),
        (build_apk(APP, min_sdk=99), "INSTALL_FAILED_OLDER_SDK"),
    ):
        with pytest.raises(InvalidArgument, match=word):
            await install(session, content)
    for size in (0, len(good) - 1, len(good) + 1):
        with pytest.raises(InvalidArgument):
            await session.install_app(package(good), size=size)
    with pytest.raises(InvalidArgument):
        await session.launch_app(APP, env={"A": "b"})
    assert await installed(session) == []
    assert await leftovers(session) == []


async def until(look: Callable[[], Awaitable[list[Any]]], wanted: list[Any]) -> None:
    """Look again and again until it is as wanted."""
    with trio.fail_after(60):
        while True:
            if await look() == wanted:
                return
            await trio.sleep(0.02)


async def running(session: AndroidSession, word: str) -> list[bool]:
    """Whether a program with this word in its command line runs: one item, or none."""
    return [True for each in await session.processes() if word in each.command][:1]


async def leftovers(session: AndroidSession) -> list[str]:
    script = "find /data/app /data/local/tmp -name '*.apk' -o -name '*.tmp'"
    return (await run(session, Command(argv=("sh", "-c", script)))).stdout.decode().split()


async def test_a_cancelled_installation_leaves_nothing(session: AndroidSession) -> None:
    content = build_apk(APP, size=3_000_000)
    with trio.CancelScope() as scope:

        async def stopping() -> AsyncIterator[bytes]:
            yield content[:1_000_000]
            scope.cancel()
            await trio.sleep_forever()

        await session.install_app(stopping(), size=len(content))
    assert scope.cancelled_caught
    assert await installed(session) == []
    await until(lambda: leftovers(session), [])  # the device notices the end of the stream in its own time


async def test_a_full_device(make_phone: Any) -> None:
    async with make_phone(quota=4 * 2**20) as phone, phone.session() as session:
        with pytest.raises(ResourceExhausted):
            await install(session, build_apk(APP, size=20_000_000))
        assert await installed(session) == []


async def test_an_app_on_a_device_of_before_android_7(make_phone: Any) -> None:
    async with make_phone(features=(), android="6.0", sdk=23) as phone, phone.session() as session:
        app = await install(session, build_apk(APP))
        assert app.identifier == APP
        with pytest.raises(InvalidArgument, match="NOT_APK"):
            await install(session, b"x" * 100)
        assert await installed(session) == [APP]
        await session.uninstall_app(APP)
        assert await leftovers(session) == []


# tests


async def run_tests(session: AndroidSession, **request: Any) -> tuple[TestSummary, list[TestProgress]]:
    told: list[TestProgress] = []

    async def report(progress: TestProgress) -> None:
        told.append(progress)

    return await session.run_tests(TestRequest(**{"target": TESTS, **request}), report), told


def cases(told: list[TestProgress]) -> dict[str, TestCase]:
    return {f"{each.ended.suite}#{each.ended.name}": each.ended for each in told if each.ended is not None}


@pytest.fixture
async def tested(session: AndroidSession) -> AndroidSession:
    await install(session, build_apk(APP))
    await install(
        session,
        apk_of(
            TestSpec(name="a.Login#accepts", seconds=0.05),
            TestSpec(name="a.Login#refuses", outcome="failed", message="expected 403"),
            TestSpec(name="a.Menu#opens", outcome="error"),
            TestSpec(name="a.Menu#later", outcome="skipped"),
            TestSpec(name="a.Menu#perhaps", outcome="assumption"),
        ),
    )
    return session


async def test_tests_are_told_one_by_one(tested: AndroidSession) -> None:
    summary, told = await run_tests(tested)
    assert summary == TestSummary(complete=True, reason="5 tests were run", cases=5)
    found = cases(told)
    assert [(name, str(case.status)) for name, case in found.items()] == [
        ("a.Login#accepts", "passed"),
        ("a.Login#refuses", "failed"),
        ("a.Menu#opens", "error"),
        ("a.Menu#later", "skipped"),
        ("a.Menu#perhaps", "skipped"),
    ]
    assert found["a.Login#accepts"].seconds >= 0.04
    assert found["a.Login#refuses"].message == "java.lang.AssertionError: expected 403"
    assert "Login.java:42" in (found["a.Login#refuses"].trace or "")
    assert [each.total for each in told if each.total is not None] == [5]
    order = [each.begun or f"{each.ended.suite}#{each.ended.name}" for each in told if each.begun or each.ended]
    assert order == [name for name in found for _ in range(2)]
    raw = "".join(each.output for each in told if each.output is not None)
    assert raw.endswith("INSTRUMENTATION_CODE: -1\n")


async def test_tests_are_chosen(tested: AndroidSession) -> None:
    _, told = await run_tests(tested, only=("a.Login",), skip=("a.Login#accepts",))
    assert list(cases(told)) == ["a.Login#refuses"]
    _, told = await run_tests(tested, target=f"{TESTS}/androidx.test.runner.AndroidJUnitRunner", only=("a.Menu#opens",))
    assert list(cases(told)) == ["a.Menu#opens"]


async def test_requests_that_cannot_be_met(tested: AndroidSession) -> None:
    for request, error in (
        ({"target": "no.such"}, NotFound),
        ({"target": f"{TESTS}/no.Runner"}, NotFound),
        ({"env": {"A": "b"}}, InvalidArgument),
        ({"only": ("a,b",)}, InvalidArgument),
        ({"only": ("a.B",), "arguments": {"class": "c"}}, InvalidArgument),
    ):
        with pytest.raises(error):
            await run_tests(tested, **request)


async def test_a_crash_is_told(session: AndroidSession, collect: Collect) -> None:
    await install(session, build_apk(APP))
    crash = TestSpec(name="a.B#dies", outcome="crash", message="boom")
    await install(session, apk_of(TestSpec(name="a.B#one"), crash, TestSpec(name="a.B#never")))
    before = datetime.now(UTC) - timedelta(seconds=2)
    summary, told = await run_tests(session)
    assert (summary.complete, summary.reason) == (False, "Process crashed.")
    assert {name: case.status for name, case in cases(told).items()} == {
        "a.B#one": TestStatus.PASSED,
        "a.B#dies": TestStatus.ERROR,
    }
    reports = {each.name: each for each in await session.crash_reports(since=before)}
    assert "crash.log" in reports
    log = await collect(await session.fetch(reports["crash.log"].reference))
    assert b"boom" in log
    (box,) = [each for name, each in reports.items() if name.startswith("data_app_crash-")]
    assert b"boom" in await collect(await session.fetch(box.reference))
    later = datetime.now(UTC) + timedelta(hours=1)
    assert await session.crash_reports(since=later) == []
    with pytest.raises(NotFound):
        await session.fetch("no such reference")


async def test_cancelled_tests_end_on_the_device(session: AndroidSession) -> None:
    await install(session, build_apk(APP))
    await install(session, apk_of(TestSpec(name="a.B#hangs", outcome="hang")))
    with trio.CancelScope() as scope:

        async def report(progress: TestProgress) -> None:
            if progress.begun:
                scope.cancel()

        await session.run_tests(TestRequest(target=TESTS), report)
    assert scope.cancelled_caught
    assert not [each for each in await session.processes() if APP in each.command]


async def test_a_device_that_goes_amid_tests(phone: Any) -> None:
    async with phone.session() as session:
        await install(session, build_apk(APP))
        await install(session, apk_of(TestSpec(name="a.B#hangs", outcome="hang")))

        async def report(progress: TestProgress) -> None:
            if progress.begun:
                await phone.device.unplug()

        with trio.fail_after(60), pytest.raises(DeviceLost):
            await session.run_tests(TestRequest(target=TESTS), report)
        await phone.gone()


# screen and logs


async def test_a_picture(session: AndroidSession, collect: Collect) -> None:
    assert (await collect(await session.screenshot())).startswith(b"\x89PNG\r\n\x1a\n")


async def test_a_video(session: AndroidSession, collect: Collect) -> None:
    with pytest.raises(WrongState):
        await session.stop_recording()
    await session.start_recording()
    with pytest.raises(WrongState):
        await session.start_recording()
    await until(lambda: running(session, "screenrecord"), [True])
    (part,) = await session.stop_recording()
    assert (part.name, part.media_type) == ("screen-0001.mp4", "video/mp4")
    assert len(await collect(await session.fetch(part.reference))) == part.size
    await session.close()
    assert not [each for each in await session.list(FOLDER) if each.name.startswith("record")]


async def test_the_log_from_a_mark_on(session: AndroidSession, collect: Collect) -> None:
    await run(session, Command(argv=("log", "-t", "test", "an old line")))
    await trio.sleep(1.1)  # the simulated device's clock tells whole seconds
    mark = await session.log_mark()
    await run(session, Command(argv=("log", "-t", "test", "a new line")))
    assert b"an old line" in await collect(await session.logs())
    since = await collect(await session.logs(since=mark))
    assert b"a new line" in since
    assert b"an old line" not in since
    for bad in ("nonsense", mark.replace("SIM", "SAM"), mark.replace("/", "/0", 1)):
        with pytest.raises(InvalidArgument):
            await session.logs(since=bad)


async def test_a_log_that_is_followed_can_be_left(session: AndroidSession) -> None:
    stream = await session.logs(follow=True)
    seen = b""
    with trio.CancelScope() as scope:
        async for chunk in stream:
            seen += chunk
            if b"a new line" in seen:
                scope.cancel()
            elif b"Entered" in seen:
                await run(session, Command(argv=("log", "-t", "test", "a new line")))
    assert scope.cancelled_caught
    await stream.aclose()
    await until(lambda: running(session, "logcat"), [])


# ports


async def test_a_port_of_the_device(session: AndroidSession) -> None:
    with pytest.raises(Unavailable):
        await session.connect_port(47_001)
    for port in (0, 70_000):
        with pytest.raises(InvalidArgument):
            await session.connect_port(port)
    script = "echo hello | nc -l -p 47002"
    async with await session.start(Command(argv=("sh", "-c", script))):
        with trio.fail_after(60):
            while True:
                try:
                    stream = await session.connect_port(47_002)
                except Unavailable:
                    await trio.sleep(0.02)
                else:
                    break
            async with stream:
                assert await stream.receive_some() == b"hello\n"


async def test_a_port_of_the_host(session: AndroidSession) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        await stream.send_all(b"from the host\n")
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(functools.partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
        host = listener.socket.getsockname()[1]
        port = await session.reverse_port(0, host)
        assert port > 0
        ask = Command(argv=("sh", "-c", f"sleep 60 | nc 127.0.0.1 {port}"))
        async with await session.start(ask) as process:
            assert (await anext(aiter(process))).data == b"from the host\n"
        with pytest.raises(AlreadyExists):
            await session.reverse_port(port, host)
        await session.close()
        assert (await run(session, Command(argv=("nc", "127.0.0.1", str(port))))).exit.code != 0
        nursery.cancel_scope.cancel()


# cleaning


async def test_cleaning_leaves_nothing_of_a_run(phone: Any) -> None:
    async with phone.session() as session:
        await install(session, build_apk("com.example.before"))
    await phone.driver.clean(await phone.ready())
    async with phone.session() as session:
        assert await installed(session) == []
        # An app that was there before the run, as a person's own is.
        content = build_apk("com.example.own")
        await session.write("/data/local/tmp/own.apk", package(content))
        assert (await run(session, Command(argv=("pm", "install", "/data/local/tmp/own.apk")))).exit.ok
        await install(session, build_apk(APP))
        await install(session, build_apk("com.example.own", version_code=2))
        await session.start(Command(argv=("sh", "-c", "trap '' HUP TERM; sleep 1005 & wait"), tag="left"))
        script = "setsid sleep 1006 >/dev/null 2>&1 </dev/null & echo"
        await run(session, Command(argv=("sh", "-c", script)))
        await session.reverse_port(47_010, 9)
        words = [each.command for each in await session.processes()]
        assert {"sleep 1005", "sleep 1006"} <= set(words)
    await phone.driver.clean(await phone.ready())
    async with phone.session() as session:
        assert await installed(session) == ["com.example.own"]
        words = [each.command for each in await session.processes()]
        assert not [each for each in words if "sleep 100" in each]
        with pytest.raises(NotFound):
            await session.stat(FOLDER)
        with pytest.raises(NotFound):
            await session.attach("left")


async def test_an_installation_that_nobody_saw_end_is_cleaned_too(phone: Any) -> None:
    """The daemon ended after the device had the app, and before it could note it."""
    async with phone.session() as session:
        script = f"mkdir -p {FOLDER}/apps && pm list packages -3 -f >{FOLDER}/before"
        assert (await run(session, Command(argv=("sh", "-c", script)))).exit.ok
        content = build_apk(APP)
        await session.write("/data/local/tmp/app.apk", package(content))
        assert (await run(session, Command(argv=("pm", "install", "/data/local/tmp/app.apk")))).exit.ok
    await phone.driver.clean(await phone.ready())
    async with phone.session() as session:
        assert await installed(session) == []


async def test_a_device_that_is_away_is_not_clean(phone: Any) -> None:
    device = await phone.ready()
    await phone.device.unplug()
    await phone.gone()
    with pytest.raises(DeviceLost):
        await phone.driver.clean(device)


async def test_what_the_shell_may_not(session: AndroidSession) -> None:
    with pytest.raises(PermissionDenied):
        await session.mkdir("/system/new")
