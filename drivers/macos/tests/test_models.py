"""The answers of Apple's tools: recorded ones, and ones that later versions may give."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anvild.sdk import DriverFault, TestStatus
from anvild_macos.models import (
    device_apps,
    device_processes,
    hardware,
    paired_devices,
    simulator_apps,
    simulators,
)
from anvild_macos.xcresult import Node, exported, seconds_of, summary
from anvild_macos.xcresult import test_cases as read_cases

RECORDED = Path(__file__).with_name("recorded")

anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
unknown = st.dictionaries(st.text(min_size=1).map(lambda name: f"zz{name}"), anything, max_size=3)


def recorded(name: str) -> bytes:
    return (RECORDED / name).read_bytes()


def salted(value: Any, salt: dict[str, Any]) -> Any:
    """Put unknown fields into every object of an answer. Objects that are keyed by a name are left alone."""
    if isinstance(value, list):
        return [salted(each, salt) for each in value]
    if isinstance(value, dict):
        inner = {name: salted(each, salt) for name, each in value.items()}
        return (
            inner if any(name.startswith("com.apple.CoreSimulator.SimRuntime") for name in value) else {**salt, **inner}
        )
    return value


def test_simulators() -> None:
    found = {one.device.name: one for one in simulators(recorded("simctl-list.json"))}
    phone, vision = found["iPhone 15"], found["Apple Vision Pro"]
    assert (phone.platform, phone.version, phone.model) == ("ios", "17.5", "iPhone 15")
    assert (vision.platform, vision.version) == ("visionos", "2.0"), "its runtime is called xrOS"
    assert found["Apple TV"].platform == "tvos"
    assert found["Apple Watch Series 9 (45mm)"].platform == "watchos"
    old = found["iPhone 8"]
    assert (old.version, old.model, old.device.is_available) == ("15.0", None, False), "its runtime is not installed"


def test_paired_devices() -> None:
    phone, vision, watch = paired_devices(recorded("devicectl-list.json"))
    assert phone.hardware_properties.udid == "00008110-001A2B3C4D5E6F70"
    assert phone.identifier != phone.hardware_properties.udid, "CoreDevice's own identifier is not the UDID"
    assert (vision.platform, vision.connection_properties.tunnel_state) == ("visionos", "unavailable")
    assert vision.device_properties.os_version_number is None
    assert watch.platform == "watchos"


@settings(max_examples=30, deadline=None)
@given(salt=unknown)
def test_unknown_fields_change_nothing(salt: dict[str, Any]) -> None:
    readers = [
        (simulators, "simctl-list.json"),
        (paired_devices, "devicectl-list.json"),
        (device_apps, "devicectl-apps.json"),
        (device_processes, "devicectl-processes.json"),
        (hardware, "system_profiler.json"),
        (read_cases, "xcresult-tests.json"),
        (summary, "xcresult-summary.json"),
        (exported, "xcresult-manifest.json"),
    ]
    for read, name in readers:
        plain = recorded(name)
        assert read(json.dumps(salted(json.loads(plain), salt)).encode()) == read(plain), name


@settings(max_examples=100, deadline=None)
@given(entry=anything)
def test_an_entry_that_cannot_be_read_costs_no_other(entry: Any) -> None:
    listed = json.loads(recorded("devicectl-list.json"))
    listed["result"]["devices"].insert(1, entry)
    assert len(paired_devices(json.dumps(listed).encode())) == 3
    listed = json.loads(recorded("simctl-list.json"))
    listed["devices"]["com.apple.CoreSimulator.SimRuntime.iOS-17-5"].append(entry)
    listed["runtimes"].append(entry)
    assert len(simulators(json.dumps(listed).encode())) == 6


@settings(max_examples=100, deadline=None)
@given(answer=st.binary(max_size=200) | anything.map(lambda value: json.dumps(value).encode()))
def test_another_answer_is_a_sentence(answer: bytes) -> None:
    for read in (
        simulators,
        paired_devices,
        device_apps,
        device_processes,
        simulator_apps,
        hardware,
        read_cases,
        exported,
    ):
        with contextlib.suppress(DriverFault):  # and no other
            read(answer)  # type: ignore[operator]


def test_simulated_devices_are_not_paired_ones() -> None:
    listed = json.loads(recorded("devicectl-list.json"))
    listed["result"]["devices"][0]["hardwareProperties"]["reality"] = "virtual"
    listed["result"]["devices"][1]["hardwareProperties"]["platform"] = "fridgeOS"
    assert [one.platform for one in paired_devices(json.dumps(listed).encode())] == ["watchos"]


# results


def test_results() -> None:
    cases = {case.name: case for case in read_cases(recorded("xcresult-tests.json"))}
    assert list(cases) == ["testGoodPassword", "testWrongPassword", "testLater", "testKnownBug", "testCrash", "adds"]
    assert {case.suite for case in cases.values()} == {"DemoTests/LoginTests", "DemoTests/Sums"}
    good, wrong, later, known, crash = list(cases.values())[:5]
    assert (good.status, good.seconds, good.message, good.trace) == (TestStatus.PASSED, 0.012, None, None)
    assert wrong.status is TestStatus.FAILED
    assert wrong.seconds == 0.25
    assert wrong.message is not None
    assert "the server must refuse" in wrong.message
    assert wrong.trace is not None
    assert "at LoginTests.swift:42" in wrong.trace
    assert (later.status, later.message) == (TestStatus.SKIPPED, "needs the new server")
    assert known.status is TestStatus.PASSED, "a failure that is expected is no failure"
    assert (crash.status, crash.seconds) == (TestStatus.ERROR, 62.0)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0.012s", 0.012),
        ("0,25s", 0.25),
        ("5s", 5),
        ("1m 2s", 62),
        ("1m", 60),
        ("2h 1m 1s", 7261),
        ("", 0),
        ("soon", 0),
    ],
)
def test_durations_are_text(text: str, seconds: float) -> None:
    assert seconds_of(Node(duration=text)) == pytest.approx(seconds)


@given(text=st.text())
def test_any_text_is_a_duration_or_none(text: str) -> None:
    assert seconds_of(Node(duration=text)) >= 0


def test_attachments_of_failures_come_first() -> None:
    first, second = exported(recorded("xcresult-manifest.json"))
    assert (first.name, first.media_type) == ("Screenshot_0_9C1D.png", "image/png")
    assert (second.name, second.media_type) == ("notes_0_2F3A.txt", "text/plain")
