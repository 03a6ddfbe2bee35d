"""When a device is held back for its own good."""

from __future__ import annotations

import pytest

from anvild.core.engine.condition import Limits, held_back


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({}, None),
        ({"temperature_celsius": "45", "battery_percent": "10"}, None),
        ({"temperature_celsius": "45.1"}, "it is at 45.1 °C, above the limit of 45 °C"),
        ({"battery_percent": "9"}, "its battery is at 9 %, below the limit of 10 %"),
        ({"temperature_celsius": "warm", "battery_percent": ""}, None),
    ],
)
def test_held_back(facts: dict[str, str], reason: str | None) -> None:
    assert held_back(facts, Limits()) == reason


def test_the_operator_says_when() -> None:
    assert held_back({"temperature_celsius": "45.1"}, Limits(celsius=60)) is None
    assert held_back({"battery_percent": "0"}, Limits(percent=0)) is None
