"""How the driver joins the daemon, and what its documentation says of it."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from anvild.sdk import DRIVER_CAPABILITIES, SESSION_CAPABILITIES, incompatibility
from anvild_android.driver import AndroidDriver
from anvild_android.session.session import OFFERED, AndroidSession
from anvild_android.settings import AndroidSettings

GUIDE = Path(__file__).resolve().parents[4] / "docs/android.md"


def test_the_entry_point_offers_the_driver() -> None:
    (entry,) = importlib.metadata.entry_points(group="anvil", name="android")
    plugin = entry.load()
    assert plugin.anvil_drivers() == [AndroidDriver]
    assert incompatibility(plugin.ANVIL_API) is None


def test_what_is_declared_is_what_is_there() -> None:
    for name in OFFERED:
        assert issubclass(AndroidSession, SESSION_CAPABILITIES[name])
    inherited = {name for name, kind in SESSION_CAPABILITIES.items() if issubclass(AndroidSession, kind)}
    assert inherited == set(OFFERED)
    assert [name for name, kind in DRIVER_CAPABILITIES.items() if issubclass(AndroidDriver, kind)] == [
        "mend",
        "rehearsal",
    ]


def test_settings() -> None:
    good = {"adb": "/opt/adb", "server": "127.0.0.1:5037", "network": {"4A01": "10.0.0.7:5555"}, "simulate": 2}
    assert msgspec.to_builtins(msgspec.convert(good, AndroidSettings)) == good
    for bad in ({"simulate": -1}, {"server": "nowhere"}, {"network": {"x": "y"}}, {"serial": "x"}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(bad, AndroidSettings)


def described(kind: object) -> str | None:
    """The description in a type, however deep."""
    for each in get_args(kind):
        if isinstance(each, msgspec.Meta) and each.description:
            return each.description
        found = described(each)
        if found:
            return found
    return None


def test_the_settings_in_the_guide_are_those_of_the_code() -> None:
    rows = []
    for field in msgspec.structs.fields(AndroidSettings):
        default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()  # type: ignore[operator]
        rows.append(f"| `{field.name}` | `{msgspec.json.encode(default).decode()}` | {described(field.type)} |")
    told = [line for line in GUIDE.read_text().splitlines() if line.startswith("| `") and line.count("|") == 4]
    assert told == rows, "the table of docs/android.md should be:\n" + "\n".join(rows)


def test_the_capabilities_in_the_guide_are_those_of_the_code() -> None:
    text = GUIDE.read_text()
    assert [name for name in (*OFFERED, "mend", "rehearsal") if f"`{name}`" not in text] == []
