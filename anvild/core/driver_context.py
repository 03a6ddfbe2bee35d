"""What a driver is made with: its checked settings and its places, the same for the daemon and for ``anvil image``."""

from __future__ import annotations

import socket
from typing import Any

import msgspec

from anvild.core.logging import get_logger
from anvild.core.settings import Settings, SettingsError, config_path
from anvild.sdk import Driver, DriverContext, DriverSettings

__all__ = ["driver_context", "driver_settings", "enabled_drivers", "host_name"]


def host_name(settings: Settings) -> str:
    """The name of this machine in the lab."""
    return settings.host or socket.gethostname()


def enabled_drivers(settings: Settings, installed: dict[str, type[Driver]]) -> dict[str, type[Driver]]:
    """Return the drivers that the settings leave on.

    :raises SettingsError: for a table of a driver that is not installed, or ``enabled`` that is no boolean.
    """
    for name, table in settings.drivers.items():
        if name not in installed:
            known = ", ".join(sorted(installed)) or "none"
            raise SettingsError(f"drivers.{name}: no driver of that name is installed; installed are: {known}")
        if not isinstance(table.get("enabled", True), bool):
            raise SettingsError(f"drivers.{name}.enabled: expected true or false")
    return {name: kind for name, kind in installed.items() if settings.drivers.get(name, {}).get("enabled", True)}


def driver_settings(settings: Settings, kind: type[Driver]) -> DriverSettings:
    """Check the driver's table of the settings against its own type.

    :raises SettingsError: with the key and what was expected.
    """
    table = {key: value for key, value in settings.drivers.get(kind.name, {}).items() if key != "enabled"}
    try:
        return msgspec.convert(table, kind.settings_type)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `$")
        key = f"drivers.{kind.name}{where.rstrip('`')}"
        raise SettingsError(f"{key}: {message[0].lower()}{message[1:]}") from None


def driver_context(settings: Settings, kind: type[Driver]) -> DriverContext[Any]:
    """Check the driver's settings and make its directories (mode 0700).

    It makes directories: call it before the loop runs, or in a thread.

    :raises SettingsError: with the key and what was expected.
    """
    checked = driver_settings(settings, kind)
    state = settings.data_dir / "drivers" / kind.name
    cache = settings.data_dir / "cache" / kind.name
    for directory in (state, cache):
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
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
