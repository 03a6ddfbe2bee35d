"""A device that is too hot or too empty gets no new work, says so, and gets it when it has recovered."""

from __future__ import annotations

import msgspec
import pytest

from anvild.sdk import Sighting
from tests.support.lab import Lab, StartEngine, asks


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"temperature_celsius": "51"}, "held back: it is at 51 °C"),
        ({"battery_percent": "5"}, "held back: its battery"),
    ],
)
async def test_work_waits_for_a_device_that_is_held_back(
    lab: Lab, start_engine: StartEngine, facts: dict[str, str], words: str
) -> None:
    lab.plug("d1")
    running = await start_engine()
    await running.after()
    fact = lab.devices["d1"].fact()
    lab.say(Sighting(kind="seen", device=msgspec.structs.replace(fact, facts=facts)))
    await running.after()
    run = await running.engine.runs.submit(asks())
    await running.after()
    assert words in (await running.engine.runs.why_waiting(run.id) or "")
    lab.say(Sighting(kind="seen", device=msgspec.structs.replace(fact, facts={"temperature_celsius": "30"})))
    assert (await running.until(run)).state == "passed"
