"""Where the driver joins the daemon."""

from __future__ import annotations

from anvild.sdk import Driver, hookimpl

from .driver import AndroidDriver

ANVIL_API = "1.0"


@hookimpl
def anvil_drivers() -> list[type[Driver]]:
    return [AndroidDriver]
