"""The public conformance kit on simulated devices."""

from __future__ import annotations

from anvild.sdk.testing import InProcess, Level, examine, profile_of
from anvild_ios.driver import IosDriver


async def test_the_driver_earns_its_grade() -> None:
    report = await examine(InProcess(IosDriver), profile_of(IosDriver))
    assert not report.failures
    assert report.grade is Level.PLATINUM
