"""Where the driver's commands join the client: a plugin of their own, so that the client need not load the driver."""

from __future__ import annotations

from cyclopts import App

from anvild.sdk import hookimpl

ANVIL_API = "1.0"


@hookimpl
def anvil_commands(app: App) -> None:
    app.command("anvild_android.sample:app", name="android", help="A sample app for simulated phones.")
