"""A driver that is not Python keeps the rules of the kit, in each place where it can stand."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from anvild.sdk.testing import ChildProcess, Level, OverWebSocket, Place, examine

SHELF = str(Path(__file__).with_name("shelf.js"))


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node (apt install nodejs)")
@pytest.mark.parametrize(
    "place", [ChildProcess(("node", SHELF)), OverWebSocket(("node", SHELF))], ids=lambda place: place.name
)
async def test_a_driver_in_javascript(place: Place) -> None:
    report = await examine(place)
    assert report.failures == ()
    assert report.grade is Level.PLATINUM
    assert (report.driver, report.version) == ("shelf", "1.0.0")
    tried = {each.rule for each in report.results if each.verdict == "passed"}
    assert {"files.slow-reader", "rehearsal.in-use", "open.hundred-times", "recover.handle"} <= tried
