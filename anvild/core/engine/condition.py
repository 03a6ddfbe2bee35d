"""When a device is held back from work for its own good: too hot, or its battery too low."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

__all__ = ["Limits", "held_back"]

TEMPERATURE = "temperature_celsius"
CHARGE = "battery_percent"


class Limits(msgspec.Struct, frozen=True):
    """Above ``celsius``, or below ``percent`` of charge, a device gets no new work. Work that is on it goes on."""

    celsius: float = 45.0
    percent: float = 10.0


def held_back(facts: Mapping[str, str], limits: Limits) -> str | None:
    """Say why a device with these facts is held back; None when it is not, or when its driver tells neither."""
    temperature = _number(facts.get(TEMPERATURE))
    if temperature is not None and temperature > limits.celsius:
        return f"it is at {temperature:g} °C, above the limit of {limits.celsius:g} °C"
    charge = _number(facts.get(CHARGE))
    if charge is not None and charge < limits.percent:
        return f"its battery is at {charge:g} %, below the limit of {limits.percent:g} %"
    return None


def _number(text: str | None) -> float | None:
    """Read a driver's number; one that is none counts as not told, since it decides over work."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
