"""The simulated device's apps through the real adb: installation, start and stop, tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from anvild_android.simulator import FEATURES, TestSpec, build_apk

Adb = Connect = MakeDevice = Any  # the types of the fixtures' values, which stand in conftest.py
APP = "com.example.app"
RUNNER = f"{APP}.test/androidx.test.runner.AndroidJUnitRunner"
TESTS = (
    TestSpec(name="com.example.First#passes", log=("a line of the test",)),
    TestSpec(name="com.example.First#fails", outcome="failed", message="expected:<1> but was:<2>"),
    TestSpec(name="com.example.Second#errs", outcome="error"),
    TestSpec(name="com.example.Second#is_skipped", outcome="skipped"),
    TestSpec(name="com.example.Second#assumes", outcome="assumption"),
)


@pytest.fixture
def package(tmp_path: Path) -> Any:
    """Write a package and return its path."""

    def write(name: str = APP, content: bytes | None = None, **values: Any) -> str:
        path = tmp_path / "packages" / f"{name}.apk"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(build_apk(name, **values) if content is None else content)
        return str(path)

    return write


async def test_an_app_comes_and_goes(adb: Adb, package: Any) -> None:
    assert "Success" in (await adb("install", package(size=500_000))).out
    assert await adb.shell("pm list packages -3") == f"package:{APP}\n"
    assert "package:com.android.settings\n" in await adb.shell("pm list packages")
    path = (await adb.shell(f"pm path {APP}")).strip().removeprefix("package:")
    assert await adb.shell(f"wc -c < {path}") == f"{len(build_apk(APP, size=500_000))}\n"
    assert "versionName=2.5" not in await adb.shell(f"dumpsys package {APP}")
    assert (await adb("install", "-r", package(version="2.5", version_code=25))).code == 0
    assert "versionName=2.5" in await adb.shell(f"dumpsys package {APP}")
    assert (await adb("uninstall", APP)).out == "Success\n"
    gone = await adb("uninstall", APP)
    assert (gone.code, gone.out) == (1, "Failure [DELETE_FAILED_INTERNAL_ERROR]\n")
    assert await adb.shell("pm list packages -3; ls /data/app") == ""


async def test_a_package_is_pushed_where_streaming_is_not_wanted(adb: Adb, package: Any) -> None:
    assert "Success" in (await adb("install", "--no-streaming", package())).said
    assert await adb.shell("ls /data/local/tmp") == ""


async def test_a_package_comes_through_the_shell_where_there_is_no_shorter_way(
    simulate: MakeDevice, client: Connect, package: Any
) -> None:
    features = tuple(each for each in FEATURES if not each.startswith("abb"))
    async with simulate(features=features) as device, client(device) as adb:
        assert "Success" in (await adb("install", package(size=3_000_000))).said
        assert "INSTALL_PARSE_FAILED_NOT_APK" in (await adb("install", package("broken", b"x" * 3_000_000))).said
        assert await adb.shell("pm list packages -3") == f"package:{APP}\n"


async def test_several_packages_make_one_app(adb: Adb, package: Any) -> None:
    done = await adb("install-multiple", package(), package(f"{APP}.other"))
    assert done.code == 1
    assert "INSTALL_FAILED_INVALID_APK" in done.said
    assert (await adb("install-multiple", package())).code == 0
    assert await adb.shell("ls /data/app | wc -l") == "1\n"


@pytest.mark.parametrize("streaming", ["--streaming", "--no-streaming"])
async def test_a_refused_package_is_told_with_its_code(adb: Adb, package: Any, streaming: str) -> None:
    await adb("install", package(version_code=5))
    cases = {
        "INSTALL_PARSE_FAILED_NOT_APK": package(content=b"no zip" * 1000),
        "INSTALL_PARSE_FAILED_NO_CERTIFICATES": package("com.example.unsigned", valid=False),
        "INSTALL_FAILED_OLDER_SDK": package("com.example.new", min_sdk=99),
        "INSTALL_FAILED_VERSION_DOWNGRADE": package("com.example.down", content=build_apk(APP, version_code=4)),
        "INSTALL_FAILED_UPDATE_INCOMPATIBLE": package("com.example.signer", content=build_apk(APP, signer="other")),
    }
    for code, path in cases.items():
        done = await adb("install", streaming, path)
        assert done.code == 1, code
        assert f"Failure [{code}: " in done.said
    assert "versionCode=5 " in await adb.shell(f"dumpsys package {APP}")
    assert await adb.shell("ls /data/app | wc -l; ls /data/local/tmp") == "1\n"


async def test_an_old_device_refuses_to_replace_and_says_so_with_code_0(
    simulate: MakeDevice, client: Connect, package: Any
) -> None:
    async with simulate(features=(), sdk=23, android="6.0") as device, client(device) as adb:
        assert "Success" in (await adb("install", package())).said
        done = await adb("shell", f"pm install $(pm path {APP} | cut -d: -f2)")
        assert (done.code, "INSTALL_FAILED_ALREADY_EXISTS" in done.out) == (0, True)


async def test_a_full_device_installs_nothing_and_keeps_no_part(
    simulate: MakeDevice, client: Connect, package: Any
) -> None:
    async with simulate(quota=2 << 20) as device, client(device) as adb:
        done = await adb("install", package(size=4 << 20))
        assert done.code == 1
        assert "INSTALL_FAILED_INSUFFICIENT_STORAGE" in done.said
        assert await adb.shell("ls /data/app") == ""
        assert (await adb("install", package())).code == 0


async def test_apps_outlive_a_reboot_and_the_simulator(
    simulate: MakeDevice, client: Connect, package: Any, stranger: Any
) -> None:
    async with simulate() as device, client(device) as adb:
        await adb("install", package())
    async with simulate() as device, client(device) as adb:
        assert await adb.shell("pm list packages -3") == f"package:{APP}\n"


async def test_an_app_is_a_process_that_starts_and_stops(adb: Adb, package: Any) -> None:
    await adb("install", package())
    started = await adb.shell(f"am start -W -n {APP}/.MainActivity --es key value")
    assert "Status: ok" in started
    assert "has extras" in started
    pid = (await adb.shell(f"pidof {APP}")).strip()
    assert f" {pid} " in await adb.shell(f"logcat -d --pid={pid}")
    await adb.shell(f"am force-stop {APP}")
    assert (await adb("shell", f"pidof {APP}")).code == 1
    assert "Events injected: 1" in await adb.shell(f"monkey -p {APP} -c android.intent.category.LAUNCHER 1")
    assert await adb.shell(f"pm clear {APP}; pidof {APP} || echo none") == "Success\nnone\n"
    missing = await adb("shell", f"am start -n {APP}/.Missing")
    assert (missing.code, "does not exist" in missing.err) == (1, True)
    assert (await adb("shell", "pm clear com.example.missing")).out == "Failed\n"
    assert (await adb.shell(f"cmd package resolve-activity --brief {APP}")).split()[-1] == f"{APP}/.MainActivity"


async def test_tests_are_told_one_by_one(adb: Adb, package: Any) -> None:
    await adb("install", package())
    await adb("install", package(f"{APP}.test", instrumentation=TESTS, target=APP))
    assert f"instrumentation:{RUNNER} (target={APP})" in await adb.shell("pm list instrumentation")
    told = await adb.shell(f"am instrument -w -r {RUNNER}")
    codes = [line.split()[1] for line in told.splitlines() if line.startswith("INSTRUMENTATION_STATUS_CODE")]
    assert codes == ["1", "0", "1", "-2", "1", "-1", "1", "-3", "1", "-4"]
    assert told.count("INSTRUMENTATION_STATUS: numtests=5\n") == 10
    assert "INSTRUMENTATION_STATUS: stack=java.lang.AssertionError: expected:<1> but was:<2>\n\tat com.exa" in told
    assert told.endswith("Tests run: 4,  Failures: 2\n\n\nINSTRUMENTATION_CODE: -1\n")
    people = await adb.shell(f"am instrument -w -e class com.example.First#passes {RUNNER}")
    assert "INSTRUMENTATION" not in people
    assert "OK (1 test)" in people
    assert "a line of the test" in await adb.shell("logcat -d -s Test")
    one = await adb.shell(
        f"am instrument -w -r -e class com.example.Second -e notClass com.example.Second#errs {RUNNER}"
    )
    assert "numtests=2\n" in one
    assert await adb.shell(f"pidof {APP} || echo none") == "none\n"


async def test_a_crash_ends_the_tests_and_is_noted(adb: Adb, package: Any) -> None:
    tests = [TestSpec(name="a.B#c", outcome="crash", message="boom"), TestSpec(name="a.B#never")]
    await adb("install", package("com.example.alone", instrumentation=tests))
    told = await adb.shell("am instrument -w -r com.example.alone/androidx.test.runner.AndroidJUnitRunner")
    assert told.endswith("INSTRUMENTATION_RESULT: shortMsg=Process crashed.\nINSTRUMENTATION_CODE: 0\n")
    assert "never" not in told
    assert "java.lang.RuntimeException: boom" in await adb.shell("logcat -d -b crash")
    assert "Process: com.example.alone" in await adb.shell("dumpsys dropbox --print data_app_crash")


async def test_tests_that_cannot_begin_are_told_as_the_platform_does(adb: Adb, package: Any) -> None:
    await adb("install", package(f"{APP}.test", instrumentation=TESTS, target=APP))
    for runner, words in (
        (RUNNER, "target package: com.example.app"),
        (f"{APP}.test/.Missing", "instrumentation info"),
    ):
        done = await adb("shell", f"am instrument -w -r {runner}")
        assert done.code == 1
        assert words in done.out
        assert f"INSTRUMENTATION_FAILED: {runner}" in done.err


async def test_a_test_that_hangs_ends_when_its_app_is_stopped(adb: Adb, package: Any) -> None:
    await adb("install", package("com.example.alone", instrumentation=[TestSpec(name="a.B#c", outcome="hang")]))
    run = "am instrument -w -r com.example.alone/androidx.test.runner.AndroidJUnitRunner"
    answers = []
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def ask() -> None:
            answers.append(await adb.shell(run))

        await adb.shell("while ! logcat -d -s TestRunner | grep -q started; do :; done")
        await adb.shell("am force-stop com.example.alone")
    assert "shortMsg=Process crashed." in answers[0]
    # Without its caller it goes on, as on a phone, until the app is ended in whatever way.
    await adb.shell(f"logcat -c; {run} >/dev/null & p=$!; while ! logcat -d | grep -q started; do :; done; kill $p")
    assert await adb.shell("pidof com.example.alone | wc -w") == "1\n"
    await adb.shell("kill -9 $(pidof com.example.alone)")
