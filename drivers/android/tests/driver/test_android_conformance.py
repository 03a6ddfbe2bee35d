"""The driver keeps the rules of the conformance kit, on a simulated phone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from anvild.sdk.testing import RULES, ChildProcess, InProcess, Place, examine, profile_of
from anvild_android import driver
from anvild_android.driver import AndroidDriver
from anvild_android.sample import sample

LONG = ("rehearsal.fifty-times",)  # test_lab does the same, on both servers
IN_A_CHILD = ("life.start", "exec.streams-apart", "exec.tags", "files.roundtrip", "app_tests.run", "wire.handshake")
"""What is tried in a process of its own: the rest is the same there, and the protocol has tests of its own."""


@pytest.fixture(autouse=True)
def tools() -> None:
    for program, package in (("adb", "adb"), ("bwrap", "bubblewrap"), ("busybox", "busybox-static")):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}: apt install {package}")


@pytest.mark.parametrize(
    "place", [InProcess(AndroidDriver), ChildProcess.of(AndroidDriver)], ids=lambda each: each.name
)
async def test_conformance(place: Place) -> None:
    child = isinstance(place, ChildProcess)
    rules = [rule for rule in RULES if rule.name not in LONG and (not child or rule.name.startswith(IN_A_CHILD))]
    report = await examine(place, rules=rules, profile=profile_of(AndroidDriver))
    assert report.failures == ()


def test_the_sample_app_is_that_of_the_command(tmp_path: Path) -> None:
    sample(tmp_path)
    shipped = Path(driver.__file__).parent / "conformance"
    for name in ("app.apk", "tests.apk"):
        assert (shipped / name).read_bytes() == (tmp_path / name).read_bytes()
