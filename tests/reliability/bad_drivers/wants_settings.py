"""A driver with a setting, which its operator got wrong."""

from __future__ import annotations

import sys
from pathlib import Path

from anvild.sdk import DriverSettings, hookimpl

sys.path.insert(0, str(Path(__file__).parent / "shared"))
from lamp import LampDriver  # the folder had to be named first

ANVIL_API = "1.0"


class BadDriver(LampDriver):
    name = "wants_settings"

    class Settings(DriverSettings):
        watts: int = 40

    settings_type = Settings


@hookimpl
def anvil_drivers() -> list[type[LampDriver]]:
    return [BadDriver]
