"""What a driver is made with: its checked settings and its places, the same for the daemon and for ``anvil image``."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import msgspec

from anvild.core.logging import get_logger
from anvild.core.plugins import Plugins
from anvild.core.settings import DriverHosting, Settings, SettingsError, config_path, driver_hosting
from anvild.sdk import Driver, DriverContext, DriverSettings

__all__ = [
    "driver_context",
    "driver_directories",
    "driver_settings",
    "driver_table",
    "enabled_drivers",
    "host_name",
    "isolated_drivers",
]


def host_name(settings: Settings) -> str:
    """The name of this machine in the lab."""
    return settings.host or socket.gethostname()


def enabled_drivers(settings: Settings, plugins: Plugins) -> dict[str, type[Driver]]:
    """Return the drivers among the plugins of this process that the settings leave on.

    :raises SettingsError: for a table of a driver that is not there, and for a wrong value of the daemon's own keys.
    """
    installed = plugins.drivers()
    apart = plugins.apart()
    for name in settings.drivers:
        if name not in installed and name not in apart and not driver_hosting(settings, name).command:
            known = ", ".join(sorted({*installed, *apart})) or "none"
            raise SettingsError(f"drivers.{name}: no driver of that name is installed; installed are: {known}")
    return {name: kind for name, kind in installed.items() if driver_hosting(settings, name).enabled}


def isolated_drivers(settings: Settings, plugins: Plugins) -> dict[str, tuple[str, ...]]:
    """Return the command of each driver that the settings leave on and put into a process of its own.

    :raises SettingsError: for a driver that cannot be put there, and for a wrong value of the daemon's own keys.
    """
    found = {}
    for name in settings.drivers:
        hosting = driver_hosting(settings, name)
        if not (hosting.enabled and hosting.isolated):
            continue
        if name in plugins.drivers():
            raise SettingsError(
                f"drivers.{name}: it is offered by a plugin of another name, which runs in the daemon's process; only "
                "a driver whose plugin has the driver's name can run in a process of its own"
            )
        target = f"{plugins.apart().get(name, name)}:{name}"
        found[name] = hosting.command or (sys.executable, "-P", "-m", "anvild.sdk.protocol", target)
    return found


def driver_table(settings: Settings, name: str) -> dict[str, Any]:
    """Return the driver's own keys of its table, as they stand in the settings."""
    known = DriverHosting.__struct_fields__
    return {key: value for key, value in settings.drivers.get(name, {}).items() if key not in known}


def driver_settings(settings: Settings, kind: type[Driver]) -> DriverSettings:
    """Check the driver's table of the settings against its own type.

    :raises SettingsError: with the key and what was expected.
    """
    try:
        return msgspec.convert(driver_table(settings, kind.name), kind.settings_type)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `$")
        key = f"drivers.{kind.name}{where.rstrip('`')}"
        raise SettingsError(f"{key}: {message[0].lower()}{message[1:]}") from None


def driver_directories(settings: Settings, name: str) -> tuple[Path, Path]:
    """Make the directories of a driver (mode 0700) and return them: its state, and its cache.

    It makes directories: call it before the loop runs, or in a thread.
    """
    state = settings.data_dir.absolute() / "drivers" / name
    cache = settings.data_dir.absolute() / "cache" / name
    for directory in (state, cache):
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    return state, cache


def driver_context(settings: Settings, kind: type[Driver]) -> DriverContext[Any]:
    """Check the driver's settings and make its directories (mode 0700).

    It makes directories: call it before the loop runs, or in a thread.

    :raises SettingsError: with the key and what was expected.
    """
    checked = driver_settings(settings, kind)
    state, cache = driver_directories(settings, kind.name)
    log = get_logger(f"driver.{kind.name}")

    def write(level: str, event: str, **values: object) -> None:
        getattr(log, level)(event, **values)

    return DriverContext(
        settings=checked,
        host=host_name(settings),
        state_dir=state,
        cache_dir=cache,
        data_path=config_path(settings),
        log=write,
    )
