"""What a simulated device is made from: plain values that a test or a setting can hold."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["FEATURES", "DeviceSpec", "TestSpec"]

FEATURES = (
    "shell_v2",
    "cmd",
    "stat_v2",
    "ls_v2",
    "fixed_push_mkdir",
    "fixed_push_symlink_timestamp",
    "apex",
    "abb",
    "abb_exec",
    "sendrecv_v2",
    "delayed_ack",
)


class DeviceSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One simulated device.

    ``features`` are those of the adb transport that it offers; a device of before Android 7 offers none. A device that
    is not ``authorised`` asks for a key that was approved. ``off_seconds`` is how long a reboot keeps it away, and
    ``boot_seconds`` how long it then boots with adb reachable. ``quota`` is the size of its storage in bytes, held in
    memory; without one it is the host's disk. ``record_limit`` is how many seconds one recording may take.
    """

    serial: str
    model: str = "Simulated Phone"
    product: str = "simulated"
    android: str = "14"
    sdk: int = 34
    build: str = "SIM1.240101.001"
    features: tuple[str, ...] = FEATURES
    authorised: bool = True
    battery: int = 85
    temperature: float = 27.5
    off_seconds: float = 0.5
    boot_seconds: float = 1.0
    quota: int | None = None
    screen: tuple[int, int] = (1080, 2400)
    record_limit: int = 180


class TestSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One test case that an instrumentation declares, and how it goes.

    ``name`` is ``package.Class#method``. A test that ``crash``\\ es ends the process, and all tests after it are not
    run; one that ``hang``\\ s never ends. ``error`` is an exception that is no assertion. ``log`` are lines that it
    writes to the device's log.
    """

    __test__ = False  # a test's name, not a test of pytest's

    name: str
    outcome: Literal["passed", "failed", "error", "skipped", "assumption", "crash", "hang"] = "passed"
    seconds: float = 0.0
    message: str = ""
    log: tuple[str, ...] = ()
