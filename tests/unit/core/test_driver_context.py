"""Which drivers there are, where they run, and which keys of their tables are the daemon's."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from anvild.core.driver_context import driver_settings, driver_table, enabled_drivers, isolated_drivers
from anvild.core.plugins import Plugins
from anvild.core.settings import DriverHosting, Settings, SettingsError, driver_hosting

LAMP = """
from anvild.sdk import Driver, DriverSettings, hookimpl

class Watts(DriverSettings):
    watts: int = 40

class Lamp(Driver):
    name = "{name}"
    settings_type = Watts

@hookimpl
def anvil_drivers():
    return [Lamp]
"""


@pytest.fixture
def drop_ins(tmp_path: Path) -> Path:
    """A configuration with a driver ``lamp``, and a plugin ``shop`` that offers the driver ``bulb``."""
    folder = tmp_path / "conf.d" / "drivers"
    folder.mkdir(parents=True)
    (folder / "lamp.py").write_text(LAMP.format(name="lamp"))
    (folder / "shop.py").write_text(LAMP.format(name="bulb"))
    return folder


def settings_of(drop_ins: Path, **drivers: dict[str, Any]) -> tuple[Settings, Plugins]:
    settings = Settings(config_dir=drop_ins.parents[1], drivers=drivers)
    return settings, Plugins.of(settings)


def test_the_keys_of_the_daemon_are_not_the_drivers(drop_ins: Path) -> None:
    settings, plugins = settings_of(drop_ins, lamp={"enabled": True, "memory_limit": 2**26, "watts": 60})
    assert driver_hosting(settings, "lamp") == DriverHosting(memory_limit=2**26)
    assert driver_table(settings, "lamp") == {"watts": 60}
    kind = enabled_drivers(settings, plugins)["lamp"]
    assert driver_settings(settings, kind) == kind.settings_type(watts=60)  # type: ignore[call-arg]


def test_no_driver_of_ours_has_a_setting_that_the_daemon_takes() -> None:
    taken = set(DriverHosting.__struct_fields__)
    for name, kind in Plugins().drivers().items():
        assert not taken & set(kind.settings_type.__struct_fields__), name


def test_a_driver_in_a_process_is_a_command(drop_ins: Path) -> None:
    settings, plugins = settings_of(drop_ins, lamp={"isolation": "process", "watts": "not looked at here"})
    target = f"{drop_ins / 'lamp.py'}:lamp"
    assert isolated_drivers(settings, plugins) == {
        "lamp": (sys.executable, "-P", "-m", "anvild.sdk.protocol", target),
    }
    assert "lamp" not in enabled_drivers(settings, plugins)
    assert "bulb" in enabled_drivers(settings, plugins)


def test_a_driver_in_any_language_needs_no_plugin(drop_ins: Path) -> None:
    settings, plugins = settings_of(drop_ins, kettle={"command": ["node", "kettle.js"]})
    assert isolated_drivers(settings, plugins) == {"kettle": ("node", "kettle.js")}
    assert "kettle" not in enabled_drivers(settings, plugins)


def test_one_that_is_off_is_nowhere(drop_ins: Path) -> None:
    settings, plugins = settings_of(drop_ins, lamp={"isolation": "process", "enabled": False}, shop={"command": ["x"]})
    assert set(isolated_drivers(settings, plugins)) == {"shop"}
    assert "lamp" not in enabled_drivers(settings, plugins)


@pytest.mark.parametrize(
    ("drivers", "said"),
    [
        ({"bulb": {"isolation": "process"}}, "drivers.bulb: it is offered by a plugin of another name"),
        ({"kettle": {"isolation": "process"}}, "drivers.kettle: no driver of that name is installed"),
        ({"kettle": {}}, "drivers.kettle: no driver of that name is installed"),
        ({"lamp": {"isolation": "jail"}}, "drivers.lamp.isolation: invalid enum value 'jail'"),
        ({"lamp": {"enabled": 1}}, "drivers.lamp.enabled: expected `bool`, got `int`"),
        ({"lamp": {"memory_limit": 5}}, "drivers.lamp.memory_limit: expected `int` >= 33554432"),
        ({"lamp": {"command": "node lamp.js"}}, "drivers.lamp.command: expected `array`, got `str`"),
        ({"lamp": {"command": [""]}}, "drivers.lamp.command[0]: expected `str` of length >= 1"),
        ({"../lamp": {"command": ["x"]}}, "drivers.../lamp: a driver's name is made of lower-case letters"),
    ],
)
def test_what_is_wrong_is_said(drop_ins: Path, drivers: dict[str, Any], said: str) -> None:
    def look() -> None:
        settings, plugins = settings_of(drop_ins, **drivers)
        enabled_drivers(settings, plugins)
        isolated_drivers(settings, plugins)

    with pytest.raises(SettingsError) as caught:
        look()
    assert said in str(caught.value)
