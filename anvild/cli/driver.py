"""``anvil driver``: write a driver, check it by the conformance kit, drive it by hand, lend its device to a lab."""

from __future__ import annotations

from cyclopts import App

__all__ = ["app"]

app = App(name="driver")
app.command("anvild.cli.driver_new:new", name="new", help="Write a new driver that passes the conformance kit.")
app.command("anvild.cli.driver_check:check", name="check", help="Try a driver by the conformance kit and grade it.")
app.command("anvild.cli.driver_run:run", name="run", help="Drive a driver by hand, without the daemon.")
app.command("anvild.cli.driver_join:join", name="join", help="Lend a device of this machine to a daemon elsewhere.")
