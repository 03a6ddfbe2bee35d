"""How each driver of this machine is made, here or in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from anvild.core.driver_context import (
    driver_context,
    driver_directories,
    driver_table,
    enabled_drivers,
    host_name,
    isolated_drivers,
)
from anvild.core.engine import DriverFactory, InProcess
from anvild.core.isolation import OwnProcess
from anvild.core.plugins import Plugins
from anvild.core.settings import Settings, SettingsError, config_path, driver_hosting
from anvild.sdk import Driver
from anvild.sdk.protocol import Initialize

__all__ = ["driver_factories"]


def driver_factories(settings: Settings, plugins: Plugins) -> Mapping[str, DriverFactory]:
    """Say how to make each driver that is on. A wrong setting keeps the daemon from starting, since only its operator
    can mend it; a driver that is itself broken is shown with its reason, and the rest go on.

    It makes directories: call it in a thread. Raises SettingsError.
    """
    apart = {name: _own_process(settings, name, call) for name, call in isolated_drivers(settings, plugins).items()}
    here = {name: _driver_factory(settings, kind) for name, kind in enabled_drivers(settings, plugins).items()}
    return {**here, **apart}


def _driver_factory(settings: Settings, kind: type[Driver]) -> DriverFactory:
    try:
        return InProcess(partial(kind, driver_context(settings, kind)))
    except SettingsError:
        raise
    except Exception as error:
        broken = error

        def fail() -> Driver:
            raise broken

        return InProcess(fail)


def _own_process(settings: Settings, name: str, command: Sequence[str]) -> OwnProcess:
    state, cache = driver_directories(settings, name)
    start = Initialize(
        host=host_name(settings),
        settings=driver_table(settings, name),
        state_dir=str(state),
        cache_dir=str(cache),
        data_path=tuple(map(str, config_path(settings))),
    )
    memory = driver_hosting(settings, name).memory_limit
    return OwnProcess(name, command, start, memory=memory, directory=settings.config_dir)
