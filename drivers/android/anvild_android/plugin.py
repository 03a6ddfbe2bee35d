"""Where the driver joins the daemon."""

from __future__ import annotations

from cyclopts import App

from anvild.sdk import Driver, hookimpl

from .driver import AndroidDriver

ANVIL_API = "1.0"


@hookimpl
def anvil_drivers() -> list[type[Driver]]:
    return [AndroidDriver]


@hookimpl
def anvil_commands(app: App) -> None:
    app.command("anvild_android.commands:app", name="android", help="A sample app for simulated phones.")
