"""What adb and devices print, on recorded texts and on anything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anvild.sdk import (
    AlreadyExists,
    AnvilError,
    DeviceLost,
    DriverFault,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from anvild_android.adb.errors import from_device, from_server
from anvild_android.adb.listing import Listed, parse_devices
from anvild_android.facts import Battery, describe_properties, parse_battery, parse_properties
from anvild_android.scripts import check_environment, script
from anvild_android.session.crashes import parse_dropbox
from anvild_android.session.exec import parse_processes
from anvild_android.session.files import account
from anvild_android.session.packages import (
    Instrumentation,
    check_package,
    install_error,
    parse_instrumentations,
    parse_packages,
    parse_paths,
    uninstall_error,
)
from anvild_android.session.process import exit_of

# The form of every line is that of adb; no name of a device is a real one.
DEVICES = """\
4A0123456789           device usb:1-1 product:oriole model:Pixel_6 device:oriole transport_id:1
emulator-5554          offline transport_id:2
10.0.0.7:5555          unauthorized transport_id:3
R58M12 no permissions (user in plugdev group; why?); see [http://example.com/device.html] usb:2-1.4 transport_id:4
(no serial number)     unauthorized usb:1-3 transport_id:9
adb-4A0-xyz._adb-tls-connect._tcp device product:a model:B device:c transport_id:11
something that nobody understands
"""


def test_the_list_of_devices() -> None:
    found = parse_devices(DEVICES)
    assert found[0] == Listed("4A0123456789", "device", 1, usb_path="1-1", model="Pixel 6")
    assert [(each.serial, each.state, each.number) for each in found[1:]] == [
        ("emulator-5554", "offline", 2),
        ("10.0.0.7:5555", "unauthorized", 3),
        ("R58M12", "no permissions", 4),
        ("(no serial number)", "unauthorized", 9),
        ("adb-4A0-xyz._adb-tls-connect._tcp", "device", 11),
    ]
    assert found[3].usb_path == "2-1.4"
    assert [each.network for each in found] == [False, False, True, False, False, True]
    assert [each.named for each in found] == [True, True, True, True, False, True]


@given(st.text())
def test_any_list_of_devices(text: str) -> None:
    for each in parse_devices(text):
        assert each.serial
        assert each.number >= 0


PROPERTIES = """\
[ro.serialno]: [4A0123456789]
[ro.product.model]: [Pixel 6]
[ro.product.manufacturer]: [Google]
[ro.product.cpu.abi]: [arm64-v8a]
[ro.build.version.release]: [14]
[ro.build.version.sdk]: [34]
[ro.build.display.id]: [UQ1A.240205.002]
[persist.odd]: [two
lines]
"""


def test_properties() -> None:
    found = parse_properties(PROPERTIES)
    assert found["persist.odd"] == "two\nlines"
    told = describe_properties(found)
    assert (told.serial, told.model, told.version) == ("4A0123456789", "Pixel 6", "14")
    assert told.facts == {"sdk": "34", "build": "UQ1A.240205.002", "abi": "arm64-v8a", "manufacturer": "Google"}
    assert parse_properties(PROPERTIES.replace("\n", "\r\n")) == found
    with pytest.raises(DriverFault, match=r"ro\.serialno"):
        describe_properties({"ro.product.model": "x"})


def test_the_battery_is_told_coarsely() -> None:
    text = "Current state:\n  AC powered: false\n  present: true\n  level: 83\n  scale: 100\n  temperature: 314\n"
    assert parse_battery(text) == Battery(85, 31)
    assert parse_battery(text).facts() == {"battery_percent": "85", "temperature_celsius": "31.0"}
    assert parse_battery("  level: 120\n  scale: 200\n") == Battery(60, None)
    assert parse_battery(text.replace("present: true", "present: false")) == Battery()
    assert parse_battery("Can't find service: battery") == Battery()
    assert parse_battery("  level: much\n  scale: 0\n") == Battery()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("device '4A01' not found", DeviceLost),
        ("no device with transport id '7'", DeviceLost),
        ("device offline", DeviceLost),
        ("device unauthorized.\nThis adb server's $ADB_VENDOR_KEYS is not set", Unavailable),
        ("device still connecting", Unavailable),
        ("closed", Unavailable),
    ],
)
def test_refusals_of_the_server(text: str, kind: type[AnvilError]) -> None:
    error = from_server(text, "4A01")
    assert type(error) is kind
    assert "4A01" in error.message


def test_an_unauthorised_device_says_what_to_do() -> None:
    assert "accept the key of this lab" in from_server("device unauthorized.", "4A01").message


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("couldn't create file: Read-only file system", PermissionDenied),
        ("open failed: Permission denied", PermissionDenied),
        ("write failed: No space left on device", ResourceExhausted),
        ("open failed: No such file or directory", NotFound),
        ("read failed: Is a directory", InvalidArgument),
        ("mkdir: 'x': File exists", AlreadyExists),
        ("something else", Unavailable),
        ("", Unavailable),
    ],
)
def test_refusals_of_the_device(text: str, kind: type[AnvilError]) -> None:
    assert type(from_device(text, "/data/x")) is kind


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("Success\n", None),
        ("Success: streamed 5 bytes", None),
        ("Failure [INSTALL_PARSE_FAILED_NOT_APK: Failed to parse /data/app/vmdl1.tmp/base.apk]", InvalidArgument),
        ("Failure [INSTALL_FAILED_INSUFFICIENT_STORAGE]", ResourceExhausted),
        ("Failure [INSTALL_FAILED_ALREADY_EXISTS: Attempt to re-install com.x]", AlreadyExists),
        ("Failure [INSTALL_FAILED_USER_RESTRICTED: Install canceled by user]", PermissionDenied),
        ("Exception occurred while executing 'install':\njava.lang.SecurityException", InvalidArgument),
        ("", InvalidArgument),
    ],
)
def test_answers_to_an_installation(said: str, kind: type[AnvilError] | None) -> None:
    error = install_error(said)
    assert (None if error is None else type(error)) is kind


def test_the_words_of_a_refused_app_are_the_device_s() -> None:
    error = install_error("Failure [INSTALL_PARSE_FAILED_NOT_APK: Failed to parse base.apk]")
    assert error is not None
    assert "INSTALL_PARSE_FAILED_NOT_APK: Failed to parse base.apk" in error.message


def test_answers_to_a_removal() -> None:
    assert uninstall_error("com.x", "Success\n") is None
    assert isinstance(uninstall_error("com.x", "Failure [DELETE_FAILED_DEVICE_POLICY_MANAGER]"), PermissionDenied)


def test_packages() -> None:
    text = "package:com.example versionCode:12\npackage:org.other versionCode:1\n"
    assert [(app.identifier, app.version) for app in parse_packages(text, system=False)] == [
        ("com.example", "12"),
        ("org.other", "1"),
    ]
    assert parse_packages("package:a.b\r\n", system=True)[0].system
    assert parse_paths("package:/data/app/~~Ab==/com.x-Cd==/base.apk=com.x\nnonsense\n") == {
        "com.x": "/data/app/~~Ab==/com.x-Cd==/base.apk"
    }
    assert parse_instrumentations("instrumentation:com.x.test/androidx.Runner (target=com.x)\n") == [
        Instrumentation("com.x.test", "androidx.Runner", "com.x")
    ]
    for bad in ("", "com/x", "com.x; reboot", "-r", "a" * 300):
        with pytest.raises(InvalidArgument):
            check_package(bad)


def test_processes() -> None:
    text = (
        "  PID  PPID USER     ARGS\n    1     0 root     init second_stage\n 4242     1 shell    sh -c 'a  b'\n junk\n"
    )
    found = parse_processes(text, {4242: "build"})
    assert [(each.pid, each.parent, each.user, each.command, each.tag) for each in found] == [
        (1, 0, "root", "init second_stage", None),
        (4242, 1, "shell", "sh -c 'a  b'", "build"),
    ]


DROP_BOX = """\
Drop box contents: 3 entries
Searching for: data_app_crash

========================================
2026-01-02 03:04:05 data_app_crash (compressed text, 1200 bytes)
Process: com.example
java.lang.IllegalStateException: no
========================================
2026-01-01 00:00:00 data_app_anr (text, 9 bytes)
ANR
"""


def test_the_drop_box() -> None:
    found = parse_dropbox(DROP_BOX)
    assert [(time, tag) for time, tag, _ in found] == [
        ("2026-01-01 00:00:00", "data_app_anr"),
        ("2026-01-02 03:04:05", "data_app_crash"),
    ]
    assert "IllegalStateException" in found[1][2]


def test_exits() -> None:
    assert (exit_of(0).code, exit_of(3).code, exit_of(128).code, exit_of(255).code) == (0, 3, 128, 255)
    assert (exit_of(137).code, exit_of(137).signal) == (None, 9)


def test_accounts() -> None:
    assert [account(number) for number in (0, 2000, 10123, 1010123, 77, None)] == [
        "root",
        "shell",
        "u0_a123",
        "u10_a123",
        "77",
        None,
    ]


def test_scripts_quote_what_they_are_given() -> None:
    assert script("true") == "true"
    assert script("echo $1", "a 'b'; reboot") == "set -- 'a '\"'\"'b'\"'\"'; reboot'\necho $1"
    with pytest.raises(InvalidArgument):
        script("true", "a\0b")
    assert check_environment({"A": "b c"}) == ["A=b c"]
    with pytest.raises(InvalidArgument):
        check_environment({"A;reboot": "x"})


@given(st.text(), st.text())
def test_no_text_breaks_a_parser(text: str, more: str) -> None:
    parse_properties(text)
    parse_battery(text)
    parse_dropbox(text)
    parse_paths(text)
    parse_processes(f"{more}\n{text}", {})
    install_error(text)
