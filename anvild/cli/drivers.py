"""``anvil drivers``: list the drivers and how they are, take one out of quarantine."""

from __future__ import annotations

from urllib.parse import quote

from cyclopts import App

from .api import connect
from .context import Ctx
from .wire import DriverInfo, read, read_all

__all__ = ["app"]

app = App(name="drivers")


@app.default
@app.command(name="list")
async def list_drivers(*, context: Ctx) -> None:
    """List the drivers, what they offer, and how they are."""
    async with connect(context) as api:
        answer = await api.get("/drivers")
    if context.output.json:
        context.output.document(answer)
        return
    context.output.table(
        ["name", "version", "health", "devices", "slots", "capabilities", "reason"],
        [
            (
                each.name,
                each.version,
                each.health,
                each.devices,
                f"{each.slots_used}/{each.slots}" if each.slots else None,
                " ".join(each.capabilities),
                "; ".join([each.reason or "", *_losses(each)]),
            )
            for each in read_all(answer, "drivers", DriverInfo)
        ],
        empty="There are no drivers.",
    )


@app.command
async def rearm(driver: str, /, *, context: Ctx) -> None:
    """Take a driver out of quarantine: it is started again."""
    async with connect(context) as api:
        answer = await api.post(f"/drivers/{quote(driver, safe='')}/rearm")
    if context.output.json:
        context.output.document(answer)
    else:
        info = read(answer, "driver", DriverInfo)
        context.output.say(f"{info.name} {info.state}")


def _losses(driver: DriverInfo) -> list[str]:
    """What was kept from the lab because there was too much of it."""
    words = {
        "log_lines_dropped": "lines of its log were dropped",
        "reports_held_back": "of its reports were held back",
    }
    return [f"{driver.facts[fact]} {told}" for fact, told in words.items() if fact in driver.facts]
